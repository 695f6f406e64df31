"""Fetch the wheels that the check needs on a machine that has torch and no network.

    python -m aqr_bench.cost.gpu_check.fetch_wheels --out wheels --python-version 3.12

Needs pip and a package index. What is fetched, and what the other machine is assumed to have: requirements.txt beside
this file. There: python -m pip install --no-index --no-deps --target site wheels/*.whl, and PYTHONPATH=site:.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from aqr_bench.errors import UserError, run_main

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
LIMIT_MIB = 64  # of all wheels together


def main(argv: list[str] | None = None) -> int:
    """Download into an empty folder; UserError where pip fails or the wheels are too large to be carried."""
    parser = argparse.ArgumentParser(
        prog="python -m aqr_bench.cost.gpu_check.fetch_wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("wheels"), help="folder (default: %(default)s)")
    parser.add_argument("--python-version", default="3.12", help="of the other machine (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out.is_dir() and any(args.out.iterdir()):
        raise UserError(f"fetch_wheels: {args.out} is not empty; two versions of a package would be installed together")
    if download(args.out, args.python_version):
        raise UserError(f"fetch_wheels: pip could not fetch what {REQUIREMENTS} lists; see its message above")
    wheels = sorted(args.out.glob("*.whl"))
    size_mib = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    if size_mib > LIMIT_MIB:
        raise UserError(f"fetch_wheels: the wheels in {args.out} hold {size_mib:.0f} MiB, over {LIMIT_MIB} MiB")
    print(f"{len(wheels)} wheels, {size_mib:.1f} MiB -> {args.out}")
    return 0


def download(out: Path, python_version: str) -> int:
    """Run pip; its exit code."""
    return subprocess.run(download_command(out, python_version)).returncode


def download_command(out: Path, python_version: str) -> list[str]:
    """pip's command, for Linux on x86-64. Without dependencies: mmdet3d declares far more than is imported."""
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python_version, *platforms]
    return [*command, "--dest", str(out), "--requirement", str(REQUIREMENTS)]


if __name__ == "__main__":
    run_main(main)
