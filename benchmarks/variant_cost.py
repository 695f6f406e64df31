"""The cost of every shipped variant that a tier can run, each measured in a fresh process, and how well two runs agree.

    python benchmarks/variant_cost.py run --tier quick --infos results/quick/infos --out benchmarks/results/NAME.json
    python benchmarks/variant_cost.py compare FIRST.json SECOND.json --out benchmarks/results/NAME.md

Variants that build the same model from the same config, and are compared with the same baseline, are measured once and
share the numbers (``same_as``). What counts is the latency as a ratio to the baseline, measured in turns with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aqr_bench.cli.studies import runnable
from aqr_bench.errors import UserError, run_main
from aqr_bench.records.provenance import machine, packages
from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.load import known_studies, load_study, load_tier
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Study, Tier

AGREE = 0.10  # two runs of the same measurement, in the ratio between variants
KEPT = ("latency_ms", "latency_cpu_ms", "latency_ratio", "latency_ratio_quartiles", "latency_cpu_ratio")
COLUMNS = 9  # of the table of two runs
NUMBERS = ("latency_ratio", "latency_cpu_ratio", "training_ratio", "training_cpu_ratio")


def main(argv: list[str] | None = None) -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure all variants")
    run.add_argument("--tier", default="quick")
    run.add_argument("--infos", required=True)
    run.add_argument("--study", nargs="+", default=[], help="only these studies")
    run.add_argument("--parts", nargs="+", default=["latency", "training"], help="parts of aqr-bench measure")
    run.add_argument("--out", required=True, type=Path)
    compare = commands.add_parser("compare", help="two runs side by side")
    compare.add_argument("runs", nargs=2, type=Path)
    compare.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    if args.command == "run":
        tier = load_tier(args.tier)
        known = [study for study in map(load_study, args.study or known_studies()) if runnable(tier, study)]
        result = measure_all(tier, known, args.infos, args.parts, args.out)
        print(f"{len(result['variants'])} variants: {args.out}")
        return 0
    first, second = (json.loads(path.read_text()) for path in args.runs)
    text = comparison(first, second)
    args.out.write_text(text)
    print(text)
    return 0


def measure_all(tier: Tier, studies: list[Study], infos: str, parts: list[str], out: Path) -> dict[str, Any]:
    """Measure every variant once; the file is written after each, and a rerun goes on from what it holds."""
    result: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {"tier": tier.name, "variants": []}
    result |= {"machine": machine(), "packages": packages(), "parts": parts}
    done = {(row["study"], row["variant"]) for row in result["variants"]}
    measured = {row["identity"]: row for row in result["variants"] if "same_as" not in row}
    for study in studies:
        for variant in study.variants:
            if (study.name, variant) in done:
                continue
            names = {"study": study.name, "variant": variant, "baseline": study.baseline}
            identity, start = identity_of(tier, study, variant), time.perf_counter()
            if identity in measured:
                equal = measured[identity]
                row = {**equal, **names, "same_as": f"{equal['study']}/{equal['variant']}"}
            else:
                row = {"identity": identity, **names, **measured_in_fresh_process(tier, study, variant, infos, parts)}
                row["took_s"] = round(time.perf_counter() - start, 1)
                measured[identity] = row
            result["variants"].append(row)
            out.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{study.name}/{variant}: {row['status']} {row.get('latency_ratio', '')}", flush=True)
    return result


def identity_of(tier: Tier, study: Study, variant: str) -> str:
    """Equal for variants whose measurement would be the same: their own config, and their baseline's."""
    schedules = [variant_schedule(tier, study, name) for name in (variant, study.baseline)]
    facts = [{"model": s.model, "config": s.config} for s in schedules]
    return config_hash({"variants": facts, "condition": study.suite.conditions[0].settings})[:16]


def measured_in_fresh_process(tier: Tier, study: Study, variant: str, infos: str, parts: list[str]) -> dict[str, Any]:
    """What a measurement record says of the variant, without the values behind medians."""
    with tempfile.TemporaryDirectory() as folder:
        record_file = Path(folder) / "measure.jsonl"
        command = [sys.executable, "-m", "aqr_bench", "measure", "--tier", str(tier.path), "--infos", infos]
        command += ["--study", str(study.path), "--variant", variant, "--out", str(record_file), "--parts", *parts]
        environment = {**os.environ, "OMP_NUM_THREADS": str(tier.threads)}
        subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if not record_file.is_file():
            raise UserError(f"no record: {' '.join(command)}")
        record = read_records(record_file)[-1]
    if not record.ok:
        return {"status": record.status, "reason": record.reason}
    cost, row = record.cost, {"status": "ok", "parameters": record.cost["parameters"]}
    row |= {key: _brief(cost[key]) for key in KEPT if key in cost}
    without, training = cost.get("without_voxelisation") or {}, cost.get("training") or {}
    if "latency_ms" in without:
        row["without_voxelisation_ms"] = without["latency_ms"]["median"]
        row["without_voxelisation_ratio"] = without["latency_ratio"]
    if "latency_ms" in training:
        row |= {"training_ms": _brief(training["latency_ms"]), "training_ratio": training["latency_ratio"]}
        row["training_cpu_ratio"] = training["latency_cpu_ratio"]
    elif "reason" in training:
        row["training_reason"] = f"{training['status']}: {training['reason']}"
    return {**row, "load_1min": cost["method"]["clocks"]["after"]["load_1min"]}


def _brief(value: Any) -> Any:
    """Median, p95 and quartiles instead of all values."""
    if not isinstance(value, dict):
        return value
    low, _, high = statistics.quantiles(value["values"], n=4, method="inclusive")
    return {"median": value["median"], "p95": value["p95"], "quartiles": [low, high]}


def comparison(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Markdown: every variant of both runs, and by how much their ratios differ."""
    others = {(row["study"], row["variant"]): row for row in second["variants"]}
    pairs = [(a, others[a["study"], a["variant"]]) for a in first["variants"] if (a["study"], a["variant"]) in others]
    if not pairs:
        raise UserError("the two runs have no variant in common")
    head = [f"Tier {first['tier']}, {first['machine']['cpu']}, torch {first['packages']['torch']}, "
            f"{len(pairs)} variants in two runs.", ""]  # fmt: skip
    measured_pairs = [(a, b) for a, b in pairs if "same_as" not in a and a["status"] == b["status"] == "ok"]
    lines = ["| ratio to the baseline | measured | largest difference | median | beyond 10 % |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name in NUMBERS:
        differences = [abs(b[name] / a[name] - 1) for a, b in measured_pairs if name in a and name in b]
        if differences:
            beyond = sum(d > AGREE for d in differences)
            figures = f"{100 * max(differences):.1f} % | {100 * statistics.median(differences):.1f} %"
            lines.append(f"| {name} | {len(differences)} | {figures} | {beyond} |")
    lines += ["", "Milliseconds: median (quartiles) of an inference, with voxelisation.", ""]
    lines += [
        "| study / variant | ms, first | ms, second | ratio | ratio | by CPU time | again | training | training |"
    ]
    lines += ["|---|---|---|---:|---:|---:|---:|---:|---:|"]
    return "\n".join([*head, *lines, *(_line(a, b) for a, b in pairs)]) + "\n"


def _line(a: dict[str, Any], b: dict[str, Any]) -> str:
    cells = [f"{a['study']} / {a['variant']}"]
    if "same_as" in a:
        cells.append(f"as {a['same_as']}")
    elif not a["status"] == b["status"] == "ok":
        cells += [r.get("reason", r["status"]) for r in (a, b)]
    else:
        for r in (a, b):
            low, high = r["latency_ms"]["quartiles"]
            cells.append(f"{r['latency_ms']['median']:.1f} ({low:.1f} to {high:.1f})")
        cells += [f"{r[key]:.3f}" if key in r else "–" for key in NUMBERS[:3] for r in (a, b)]
    return "| " + " | ".join([*cells, *[""] * (COLUMNS - len(cells))]) + " |"


if __name__ == "__main__":
    run_main(main)
