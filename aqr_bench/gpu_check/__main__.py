"""Everything worth knowing on a GPU machine, in one call of under eight minutes.

    python -m aqr_bench.gpu_check --out DIR      # on the GPU if there is one, else a smaller check on the CPU
    python -m aqr_bench.gpu_check --out DIR --device cpu --parts devices bias_parity

Every part runs in a process of its own and within its share of the time: a kernel that brings down the process or a
compiler that does not end costs that part alone. DIR/gpu_check.json and DIR/gpu_check.md are written after each part.
Exit code: 0, also if parts were skipped (their status says why); 1 if a part failed; 2 for a mistake in the call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aqr_bench.arguments import above_zero
from aqr_bench.errors import UserError, nearest, run_main
from aqr_bench.gpu_check.parts import Part, parts_of, work
from aqr_bench.gpu_check.settings import SIZES, Settings, settings_for
from aqr_bench.gpu_check.text import markdown
from aqr_bench.gpu_check.wheels import GUIDE, download_command, missing
from aqr_bench.progress import say, steps
from aqr_bench.whole import write_text

LIMIT_S = 460.0  # of the whole, below eight minutes
LEAST_S = 20.0  # with less than this left, a part is not begun


def main(argv: list[str] | None = None) -> int:
    """Run the parts one after the other; 1 if any failed."""
    args = _arguments(argv)
    settings = settings_for(_device(args.device), args.size)
    if args.part:
        return work(args.part, settings, args.rows)
    if args.out is None:
        raise UserError("gpu_check: --out DIR is needed: the folder that the results are written to")
    chosen = _chosen(settings, args.parts)
    begun = time.monotonic()
    result = {
        "device": settings.device,
        "size": settings.size,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "limit_s": args.limit,
        "parts": [],
    }
    for part in steps(chosen, "gpu-check", lambda part: part.name):
        left = args.limit - (time.monotonic() - begun)
        found = run(part, settings, left)
        result["parts"].append(found)
        result["seconds"] = round(time.monotonic() - begun, 1)
        write(result, args.out)
        say(f"{part.name}: {found['status']}" + (f": {found['error']}" if "error" in found else ""))
    print(f"{args.out / 'gpu_check.md'} and gpu_check.json: {result['seconds']:.0f} s in all")
    return int(any(part["status"] == "failed" for part in result["parts"]))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aqr_bench.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of gpu_check.json and gpu_check.md")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is a GPU")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, small on a CPU")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help="only these")
    parser.add_argument("--limit", type=above_zero, default=LIMIT_S, help="seconds in all (default: %(default)g)")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # the worker's: this part, into --rows
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _device(asked: str | None) -> str:
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError(f"gpu_check: --device cuda, but torch {torch.__version__} sees no GPU; use --device cpu")
    return asked or ("cuda" if there else "cpu")


def _chosen(settings: Settings, names: list[str]) -> list[Part]:
    parts = {part.name: part for part in parts_of(settings)}
    for name in names:
        if name not in parts:
            raise UserError(f"gpu_check: --parts has no '{name}'{nearest(name, parts)}")
    return [part for name, part in parts.items() if not names or name in names]


def run(part: Part, settings: Settings, left_s: float) -> dict[str, Any]:
    """Name, title, status, seconds and rows of one part, with ``error`` and ``traceback`` where it failed.

    Status: ``ok``, ``failed``, ``skipped: time``, or ``needs X`` for missing wheels. A part fails with any of its rows.
    """
    found: dict[str, Any] = {"name": part.name, "title": part.title, "status": "ok", "seconds": 0.0, "rows": []}
    lacking = missing() if part.needs_head else []
    if lacking:
        how = f"{download_command(lacking)} where there is a network; see {GUIDE}"
        return {**found, "status": f"needs {', '.join(lacking)}", "error": how}
    if left_s < min(LEAST_S, part.budget_s):
        return {**found, "status": "skipped: time", "error": f"{max(left_s, 0):.0f} s were left"}
    begun, seconds = time.monotonic(), min(part.budget_s, left_s)
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows.jsonl", Path(folder) / "log"
        code = _worker(part.name, settings, rows, log, seconds)
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.is_file() else []
        found["rows"] = [row for row in map(_row, lines) if row is not None]
        tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    found["seconds"] = round(time.monotonic() - begun, 1)
    failed = [row["failed"] for row in found["rows"] if "failed" in row]
    if found["rows"] and "traceback" in found["rows"][-1]:
        found.update(status="failed", **found["rows"].pop())
    elif code is None:
        found.update(status="failed", error=f"its {seconds:.0f} s were used up", traceback=tail)
    elif code:
        last = (tail.strip().splitlines() or ["no word"])[-1]
        found.update(status="failed", error=f"the process ended with {code}: {last}", traceback=tail)
    elif failed:
        found.update(status="failed", error=f"{len(failed)} rows failed, the first with {failed[0]}", traceback=tail)
    return found


def _worker(name: str, settings: Settings, rows: Path, log: Path, seconds: float) -> int | None:
    """Exit code of the process that runs a part; None if its time was used up and it was ended."""
    command = [sys.executable, "-m", "aqr_bench.gpu_check", "--part", name, "--rows", str(rows)]
    command += ["--device", settings.device, "--size", settings.size]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what compilers it has started
            process.wait()


def _row(line: str) -> dict[str, Any] | None:
    """A row; None if the process was ended in the middle of it."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def write(result: dict[str, Any], folder: Path) -> None:
    """Both files, each put in its place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("gpu_check.json", json.dumps(result, indent=1)), ("gpu_check.md", markdown(result))):
        write_text(folder / name, text + "\n")


if __name__ == "__main__":
    run_main(main)
