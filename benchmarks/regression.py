"""Time the hot paths, keep the result, and compare two of them: what has become slower, on the same sort of machine.

    python benchmarks/regression.py run --out NEW.json [-k EXPRESSION]
    python benchmarks/regression.py compare benchmarks/baselines/xeon2.json NEW.json     # exit 1: something is slower

Compared are medians as multiples of a calibration kernel that runs right before every round, in CPU time of one thread,
so neither the load of the machine nor its clock counts for much; absolute times are recorded, too. A regression is a
multiple that has grown by more than a quarter. Multiples of different CPUs differ several times over (vector sorting
alone makes the calibration kernel four times as fast on one as on another): results of two CPUs are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, require_file, run_main
from aqr_bench.records.provenance import git_state, machine, utc_now

HERE = Path(__file__).resolve().parent
LIMIT = 0.25


def main(argv: list[str] | None = None) -> int:
    """run: 0, or pytest's exit code; compare: 1 if something is slower by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="time the hot paths")
    run.add_argument("--out", type=Path, required=True, help="JSON file to write")
    run.add_argument("-k", default="", metavar="EXPRESSION", help="only these, as in pytest")
    compare = actions.add_parser("compare", help="two results of run")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--limit", type=float, default=LIMIT, help="growth that counts (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.action == "run":
        return measure(args.out, args.k)
    before, after = cpu(args.before), cpu(args.after)
    if before != after:
        raise UserError(
            f"{args.before} was measured on {before}, {args.after} on {after}: multiples of different CPUs cannot be "
            "compared. Measure the earlier commit on this machine: python benchmarks/regression.py run --out FILE."
        )
    rows, missing = compare_multiples(read(args.before), read(args.after))
    slower = [row for row in rows if row[3] > 1 + args.limit]
    print(text(rows, args.limit))
    for name in missing:
        print(f"only in one of the two: {name}")
    print(f"{len(rows)} compared, {len(slower)} slower by more than {100 * args.limit:.0f} %")
    return 1 if slower else 0


def measure(out: Path, expression: str = "") -> int:
    """Run the benchmarks and write their medians; pytest's exit code where one failed, and nothing is written then."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [sys.executable, "-m", "pytest", "-q", str(HERE / "test_hot_paths.py"), f"--benchmark-json={raw}"]
        command += ["--benchmark-columns=median,iqr,rounds", "-p", "no:cacheprovider"]
        command += ["--benchmark-timer=time.process_time"]
        command += ["-k", expression] if expression else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=HERE.parent, env=environment).returncode
        if code:
            return code
        rows = json.loads(raw.read_text(encoding="utf-8"))["benchmarks"]
    result = {
        "machine": machine(),
        **git_state(),
        "finished": utc_now(),
        "benchmarks": {row["name"]: compact(row) for row in rows},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(result, indent=1) + "\n")
    print(f"{len(rows)} hot paths -> {out}")
    return 0


def compact(row: dict[str, Any]) -> dict[str, float]:
    """The recorded keys of a row of pytest-benchmark: seconds, and the multiple that is compared."""
    stats, info = row["stats"], row["extra_info"]
    return {
        "median_s": stats["median"] / info["calls"],
        "iqr_s": stats["iqr"] / info["calls"],
        "rounds": stats["rounds"],
        "calibration_s": info["calibration_s"],
        "multiple": info["multiple"],
    }


def cpu(path: Path) -> str:
    """The CPU that a result was measured on. UserError names the file if it is none of ours."""
    read(path)
    return str(json.loads(path.read_text(encoding="utf-8")).get("machine", {}).get("cpu", "an unknown CPU"))


def read(path: Path) -> dict[str, float]:
    """Multiples by name. UserError names the file if it is none of ours."""
    require_file(path, "benchmark result", "Make one: python benchmarks/regression.py run --out FILE.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {name: float(row["multiple"]) for name, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a result of regression.py run ({type(error).__name__}: {error})") from None


def compare_multiples(before: dict[str, float], after: dict[str, float]) -> tuple[list[tuple], list[str]]:
    """Rows (name, multiple before, after, growth), most grown first; and the names that only one of the two has."""
    both = before.keys() & after.keys()
    rows = [(name, before[name], after[name], after[name] / before[name]) for name in both]
    return sorted(rows, key=lambda row: -row[3]), sorted(before.keys() ^ after.keys())


def text(rows: list[tuple], limit: float) -> str:
    """A table for the terminal."""
    wide = max([len(row[0]) for row in rows], default=4)
    lines = [f"{'name':{wide}}   before    after   growth"]
    for name, before, after, growth in rows:
        mark = "  slower" if growth > 1 + limit else ""
        lines.append(f"{name:{wide}} {before:8.3f} {after:8.3f}   {growth:6.2f}{mark}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
