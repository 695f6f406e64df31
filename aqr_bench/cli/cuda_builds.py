"""Which CUDA builds of torch and spconv this machine's NVIDIA driver and cards want; the standard library alone.

python aqr_bench/cli/cuda_builds.py hint              one line on the build that is wanted; nothing without a driver
python aqr_bench/cli/cuda_builds.py spconv cu126      the spconv build beside a torch of that CUDA

The Makefile runs it by its path, before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SPCONV_BUILDS = (114, 118, 121, 124, 126)  # of spconv 2.3.8 on PyPI
DEFAULT = 126  # the newest CUDA that torch 2.13 and spconv 2.3.8 both have builds for
FOR_BLACKWELL = 130  # torch's cu126 build has no kernels for compute capability 10.0 and above
BLACKWELL = 10.0
MIN_DRIVER = {
    12: 525,
    13: 580,
}  # by CUDA's major version: minor versions are compatible with every driver from there on
PROC = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Driver:
    """An NVIDIA driver: its version, and the compute capabilities of its cards (none where nvidia-smi is missing)."""

    version: str
    capabilities: tuple[float, ...] = ()


@dataclass(frozen=True)
class Advice:
    """``command`` installs the builds that fit; None where no build does. ``note``: why, or what is not known of it."""

    command: str | None
    note: str = ""


def find_driver() -> Driver | None:
    """The driver of this machine; None without one."""
    if (command := shutil.which("nvidia-smi")) is not None:
        query = [command, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        rows = re.findall(r"^([\d.]+), *([\d.]+)?", done.stdout, re.MULTILINE) if done and not done.returncode else []
        if rows:
            return Driver(rows[0][0], tuple(float(capability) for _, capability in rows if capability))
    try:
        version = re.search(r"\b(\d{3,}(?:\.\d+)+)\b", PROC.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return Driver(version[1]) if version else None


def spconv_build(cuda: str) -> str:
    """The newest spconv build for ``cuda`` (cu126, ...) or an earlier CUDA. ValueError where there is none."""
    if not re.fullmatch(r"cu[0-9]{3}", cuda):
        raise ValueError(f"CUDA={ascii(cuda)[1:-1][:40]}: expected cpu, or cu and three digits, as cu{DEFAULT}")
    fitting = [build for build in SPCONV_BUILDS if build <= int(cuda[2:])]
    if not fitting:
        raise ValueError(f"CUDA={cuda}: spconv has no build for it; the oldest is cu{SPCONV_BUILDS[0]}")
    return f"cu{fitting[-1]}"


def set_up_command(cuda: int = DEFAULT) -> str:
    """What installs torch and spconv for a CUDA, in place of the builds that are there."""
    return f"make clean setup CUDA=cu{cuda}"


def advise(driver: Driver) -> Advice:
    """Which ``make`` command installs torch and spconv for a driver and its cards."""
    blackwell = any(capability >= BLACKWELL for capability in driver.capabilities)
    cuda = FOR_BLACKWELL if blackwell else DEFAULT
    min_driver = MIN_DRIVER[cuda // 10]
    if int(driver.version.partition(".")[0]) < min_driver:
        return Advice(None, f"CUDA {cuda / 10:.1f} needs driver {min_driver} or newer")
    note = "spconv has no kernels for this card and would have to compile them from PTX: not tried" if blackwell else ""
    return Advice(set_up_command(cuda), note)


def hint(driver: Driver | None, cuda: str) -> str | None:
    """The message of set-up where a driver exists and no CUDA build was asked for (``cuda`` is empty)."""
    if driver is None or cuda:
        return None
    advice = advise(driver)
    state = f"NVIDIA driver {driver.version} is here, and spconv is its CPU build (no training of a sparse encoder)"
    note = f" ({advice.note})" if advice.command and advice.note else ""
    return f"note: {state}. For the CUDA builds: {advice.command}{note}" if advice.command else f"note: {advice.note}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer; 2 for a CUDA that spconv has no build for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["hint", "spconv"])
    parser.add_argument("cuda", nargs="?", default="", help="as for make setup: cu126, cpu, or nothing")
    args = parser.parse_args(argv)
    if args.what == "spconv":
        try:
            print(spconv_build(args.cuda))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    elif line := hint(find_driver(), args.cuda):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
