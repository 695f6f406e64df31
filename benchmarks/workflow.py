"""How long the workflow takes to plan the full matrix, and to notice that all of it is done.

    python benchmarks/workflow.py --out benchmarks/results/workflow_HOST.json
    python benchmarks/workflow.py --studies 2 --seeds 1 --suites 1      # a small one, to try it

In a copy of the repository: all shipped studies (and copies of `router` up to the number asked for), five seeds each,
four further condition suites. First a dry run of everything from nothing; then the whole matrix is filled with records
as long as real ones and marked as done (`snakemake --touch`), and the dry run and `aqr-bench run` are timed that have
nothing to do. Wall time, and processor time: on a busy machine the latter tells what an idle
one would take; --profile keeps a cProfile file of one planning.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "workflow")]

from checkout import Checkout, copy_repository  # noqa: E402

from aqr_bench.atomic import write_text  # noqa: E402
from aqr_bench.records.provenance import git_state, machine  # noqa: E402
from aqr_bench.records.record import Record, read_records, write_records  # noqa: E402
from aqr_bench.study.load import known_studies  # noqa: E402

LIMITS_S = {"plan": 60, "nothing_to_do": 10}  # what this has to stay below
REFERENCE = REPOSITORY / "results" / "reference" / "quick_0.1.0" / "records"


def main(argv: list[str] | None = None) -> int:
    """Time it and print, or write, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=16, help="number of studies (default: 16)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--suites", type=int, default=4, help="condition suites besides that of the studies")
    parser.add_argument("--conditions", type=int, default=20, help="conditions of each further suite")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each timing")
    parser.add_argument("--profile", type=Path, help="keep the cProfile of one planning here")
    parser.add_argument("--out", type=Path, help="write the JSON to this file")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="aqr_bench_workflow_") as folder:
        result = measure(Checkout(copy_repository(Path(folder) / "checkout")), args)
    text = json.dumps(result, indent=1) + "\n"
    if args.out:
        write_text(args.out, text)
    print(text, end="")
    return 0


def measure(checkout: Checkout, args: argparse.Namespace) -> dict:
    """Everything that is timed, in one copy of the repository."""
    names, suites = enlarge(checkout.root, args)
    chosen = ["tier=quick", f"studies={','.join(names)}", f"seeds={args.seeds}", f"suites={','.join(suites)}"]
    plan = ["snakemake", "--cores", "2", "--dry-run", "--quiet", "rules", "--config", *chosen]
    jobs, planning = timed(checkout, plan, args.repeat)
    if args.profile:
        checkout.run("cProfile", "-o", str(args.profile.absolute()), "-m", *plan)
    note("filling the matrix")
    fill(checkout, chosen)
    note("marking it as done")
    # Snakemake touches ten files a second unless it is configured to check more often.
    quick = ["--touch", "--quiet", "all", "--max-status-checks-per-second", "1000"]
    succeed(checkout, ["snakemake", "--cores", "1000", *quick, "--config", *chosen])
    note("timing a run with nothing to do")
    output, noticing = timed(checkout, ["snakemake", "--cores", "2", "--dry-run", "--config", *chosen], args.repeat)
    if "Nothing to be done" not in output:
        raise RuntimeError(f"the filled matrix is not taken as done:\n{output[-2000:]}")
    run = ["aqr_bench.cli.main", "run", "--tier", "quick", "--seeds", str(args.seeds)]
    output, running = timed(checkout, [*run, "--study", *names, "--suites", *suites], args.repeat)
    if "nothing to do" not in output:
        raise RuntimeError(f"aqr-bench run has something to do:\n{output[-2000:]}")
    files = list((checkout.root / "results").rglob("*.jsonl"))
    return {
        "studies": len(names),
        "seeds": args.seeds,
        "suites": len(suites) + 1,
        "jobs": dict(re.findall(r"^(\w+) +(\d+)$", jobs, re.MULTILINE)),
        "records": sum(len(file.read_bytes().splitlines()) for file in files),
        "plan": planning,
        "nothing_to_do": noticing,
        "nothing_to_do_aqr_bench_run": running,
        "limits_s": LIMITS_S,
        "within_limits": statistics.median(planning["wall_s"]) < LIMITS_S["plan"]
        and max(statistics.median(t["wall_s"]) for t in (noticing, running)) < LIMITS_S["nothing_to_do"],
        "load_before": os.getloadavg()[0],
        "machine": machine(),
        **git_state(),
    }


def enlarge(root: Path, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Give every study its seeds, and the copy as many studies and suites as asked for; returns their names."""
    ablations = root / "ablations"
    names = [name for name in known_studies() if name != "smoke"][: args.studies]
    router = yaml.safe_load((ablations / "router.yaml").read_text())
    for number in range(args.studies - len(names)):
        names.append(f"router_{number}")
        # Other settings than the shipped study, so nothing is reused.
        hook = {f"default_hooks.copy_{number}": 0}
        variants = {k: {**v, "config": {**v["config"], **hook}} for k, v in router["variants"].items()}
        write(ablations / f"{names[-1]}.yaml", {**router, "name": names[-1], "variants": variants})
    for name in names:
        study = yaml.safe_load((ablations / f"{name}.yaml").read_text())
        if not study.get("measure_only"):
            write(ablations / f"{name}.yaml", {**study, "seeds": list(range(args.seeds))})
    suites = [f"suite_{number}" for number in range(args.suites)]
    options = {"corruption": "random_cameras", "severity": 1}
    conditions = [{"name": "clean"}, *({"name": f"c{i}", **options} for i in range(args.conditions - 1))]
    for name in suites:
        write(ablations / "conditions" / f"{name}.yaml", {"name": name, "summary": "x", "conditions": conditions})
    return names, suites


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write(path: Path, data: dict) -> None:
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def fill(checkout: Checkout, chosen: list[str]) -> None:
    """Make every output of the matrix; records are those of a real run, under the names of this one."""
    summary = succeed(checkout, ["snakemake", "--cores", "2", "--summary", "--config", *chosen])
    patterns = {
        "train": "*/*/seed*/train.jsonl",
        "evaluate": "*/*/seed*/evaluate.*.jsonl",
        "measure": "*/*/measure.jsonl",
    }
    real = {kind: read_records(next(REFERENCE.glob(pattern))) for kind, pattern in patterns.items()}
    for line in summary.splitlines()[1:]:
        path = checkout.root / line.split("\t")[0]
        if path.suffix == ".jsonl":
            write_records(path, copies(path, real))
        elif path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n")
        else:
            path.mkdir(parents=True, exist_ok=True)


def copies(path: Path, real: dict[str, list[Record]]) -> list[Record]:
    """The records of one file, by its place: results/quick/<study>/<variant>/seed<N>/<kind>[.<suite>].jsonl."""
    kind, _, suite = path.stem.partition(".")
    parts = path.parts[path.parts.index("quick") + 1 : -1]
    seed = int(parts[-1].removeprefix("seed")) if parts[-1].startswith("seed") else None
    study, variant = (parts[0], parts[1]) if parts[0] not in ("base", "pretrain") else (None, None)
    records = [replace(r, study=study, variant=variant, seed=seed) for r in real[kind]]
    if kind != "evaluate" or suite == "missing_sensors":
        return records
    places = yaml.safe_load((path.parents[len(parts) + 2] / "ablations/conditions" / f"{suite}.yaml").read_text())
    clean, other = records[0], records[1]
    first = {"suite": suite, "condition": "clean"}
    rest = [replace(other, suite=suite, condition=c["name"]) for c in places["conditions"][1:]]
    return [replace(clean, **first), *rest]


def timed(checkout: Checkout, command: list[str], repeat: int) -> tuple[str, dict[str, list[float]]]:
    """Output of a command, and the wall and processor seconds that each of several runs of it took."""
    wall, cpu = [], []
    for _ in range(repeat):
        start, before = time.perf_counter(), cpu_of_children()
        output = succeed(checkout, command)
        wall.append(round(time.perf_counter() - start, 2))
        cpu.append(round(cpu_of_children() - before, 2))
    return output, {"wall_s": wall, "cpu_s": cpu}


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def succeed(checkout: Checkout, command: list[str]) -> str:
    """Everything that the command says. RuntimeError if it fails."""
    env = {**os.environ, "PYTHONPATH": str(checkout.root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=checkout.root, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout + ("" if "--summary" in command else done.stderr)


if __name__ == "__main__":
    sys.exit(main())
