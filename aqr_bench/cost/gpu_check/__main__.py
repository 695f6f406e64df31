"""Checks of a GPU machine in one call of under eight minutes: parity, speed, memory, the smoke tier.

    aqr-bench gpu-check --out DIR                      # on the GPU if there is one
    aqr-bench gpu-check --out DIR --device cpu         # every part in a tiny size, to try it first
    aqr-bench gpu-check --out DIR --parts quick        # only these parts; flex and quick run only by name

Every part has its own process and time limit: a kernel that crashes the process or a compiler that does not end costs
that part only. DIR holds table.md and gpu_check.json (written after each part),
rows.jsonl (written row by row) and log.txt.
Exit code: 0 if all parts are ok; 1 if any is not; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.console import add_quiet_option, hide_progress, print_line, print_progress, steps
from aqr_bench.cost.gpu_check.parts import CPU_FACTOR, Part, parts_of, work
from aqr_bench.cost.gpu_check.settings import SIZES, Settings, settings_for
from aqr_bench.cost.gpu_check.text import markdown
from aqr_bench.errors import UserError, nearest, run_main
from aqr_bench.records.provenance import machine, packages, utc_now

INSTALL = "download its wheel where there is a network; see docs/gpu.md"
TAIL = 4000  # characters of the log in the result of a failed part


def main(argv: list[str] | None = None) -> int:
    """Run the parts one after the other; 1 if any is not ok."""
    args = _arguments(argv)
    settings = settings_for(_device(args.device), args.size)
    parts = {part.name: part for part in parts_of(settings)}
    if args.worker:
        return work(_chosen(parts, [args.worker])[0], settings, args.out)
    if args.out is None:
        raise UserError("gpu_check: --out DIR is needed: the folder that the results are written to")
    chosen = _chosen(parts, args.parts)
    prepare_folder(args.out)
    started, allowed = time.monotonic(), 0.0
    result: dict[str, Any] = {"device": settings.device, "size": settings.size, "started": utc_now()}
    result |= {"machine": machine(), "packages": packages(), "parts": []}
    with hide_progress(args.quiet):
        for part in steps(chosen, "gpu-check", lambda part: part.name):
            # Time that earlier parts did not use extends the limit, to twice the budget at most.
            budget = part.budget_s * (CPU_FACTOR if settings.device == "cpu" else 1)
            allowed += budget
            limit = min(2 * budget, max(budget, allowed - (time.monotonic() - started)))
            result["parts"].append(run(part, settings, args.out, limit))
            result["seconds"] = round(time.monotonic() - started, 1)
            write(result, args.out)
            part_result = result["parts"][-1]
            error = f": {part_result['error']}" if "error" in part_result else ""
            show = print_progress if part_result["status"] == "ok" else print_line
            show(f"{part.name}: {part_result['status']} in {part_result['seconds']:.0f} s{error}")
    print(f"{args.out / 'table.md'} and gpu_check.json: {result['seconds']:.0f} s in all")
    return int(any(part["status"] != "ok" for part in result["parts"]))


def prepare_folder(out: Path) -> None:
    """Create the output folder, without the rows and the log of an earlier call."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("rows.jsonl", "log.txt"):
        (out / name).unlink(missing_ok=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench gpu-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of table.md and gpu_check.json")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is a GPU")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, tiny on a CPU")
    parser.add_argument(
        "--parts", nargs="+", action="extend", default=[], metavar="PART", help="only these: a kind, or kind and object"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # run this part, with its rows into the file --out
    add_quiet_option(parser)
    return parser.parse_args(argv)


def _device(requested: str | None) -> str:
    import torch

    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise UserError(f"gpu_check: --device cuda, but torch {torch.__version__} sees no GPU; use --device cpu")
    return requested or ("cuda" if available else "cpu")


def _chosen(parts: dict[str, Part], names: list[str]) -> list[Part]:
    """The parts with these names or of these kinds; without names all that are not optional."""
    kinds = {name.partition(" ")[0] for name in parts}
    for name in names:
        if name not in parts and name not in kinds:
            raise UserError(f"gpu_check: --parts has no '{name}'{nearest(name, [*parts, *kinds])}")
    if not names:
        return [part for part in parts.values() if not part.optional]
    return [part for name, part in parts.items() if name in names or name.partition(" ")[0] in names]


def run(part: Part, settings: Settings, folder: Path, limit_s: float) -> dict[str, Any]:
    """Name, title, status, limit, seconds and rows of one part, with ``error`` and ``log`` where it is not ok.

    Status: ``ok``; ``failed``, also where one row has; ``needs X`` where a package is not installed.
    """
    facts: dict[str, Any] = {"name": part.name, "title": part.title, "status": "ok", "limit_s": round(limit_s)}
    begin, log = time.monotonic(), folder / "log.txt"
    log_start = log.stat().st_size if log.is_file() else 0
    code = _worker(part.name, settings, folder / "rows.jsonl", log, limit_s)
    facts["seconds"] = round(time.monotonic() - begin, 1)
    facts["rows"] = rows = _rows(folder / "rows.jsonl", part.name)
    tail = log.read_bytes()[log_start:].decode(errors="replace")[-TAIL:]
    failed = [row["failed"] for row in rows if "failed" in row]
    if rows and "traceback" in rows[-1]:
        last = rows.pop()
        facts |= {"status": "failed", "error": last["error"], "log": last["traceback"]}
        if "missing" in last:
            facts |= {"status": f"needs {last['missing']}", "error": INSTALL}
    elif code is None:
        facts |= {"status": "failed", "error": f"stopped after its limit of {limit_s:.0f} s", "log": tail}
    elif code:
        last_line = (tail.strip().splitlines() or ["no output"])[-1]
        facts |= {"status": "failed", "error": f"the process ended with {code}: {last_line}", "log": tail}
    elif failed or not rows:
        error = f"{len(failed)} rows failed, the first with {failed[0]}" if failed else "no rows"
        facts |= {"status": "failed", "error": error, "log": tail}
    return facts


def _worker(name: str, settings: Settings, rows: Path, log: Path, limit_s: float) -> int | None:
    """Exit code of the process that runs a part; None if it was stopped at its time limit."""
    command = [sys.executable, "-m", "aqr_bench", "gpu-check", "--worker", name, "--out", str(rows)]
    command += ["--device", settings.device, "--size", settings.size]
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the compilers and trainings that it started
            process.wait()


def _rows(file: Path, part: str) -> list[dict[str, Any]]:
    """The rows of a part; an incomplete last line of a stopped process is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if row.pop("_part") == part]


def write(result: dict[str, Any], folder: Path) -> None:
    """Both files, each replaced in one step."""
    for name, text in (("gpu_check.json", json.dumps(result, indent=1)), ("table.md", markdown(result))):
        write_text(folder / name, text + "\n")


if __name__ == "__main__":
    run_main(main)
