"""docs/extend.md: its commands run as they are written, in order, in a copy of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extend.md"
COPIED = ("ablations", "aqr_bench", "examples", "tests", "workflow", "results/published")
# What takes longer than a few seconds; or asks for what that has left behind.
LONG = re.compile(r"aqr-bench (run(?!.*--dry-run)|evaluate|corruptions preview|data )", re.DOTALL)


def blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the repository whose ``.venv/bin`` is this interpreter's; its own package is the one that is used."""
    folder = tmp_path / "checkout"
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    bin_ = folder / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    # Not the installed command: a test may run from a checkout that is not the one which is installed.
    (bin_ / "aqr-bench").write_text(f'#!/bin/sh\nexec {sys.executable} -m aqr_bench.cli "$@"\n')
    for file in bin_.iterdir():
        file.chmod(0o755)
    return folder


def run(script: str, checkout: Path) -> subprocess.CompletedProcess:
    import os

    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    # As pasted into a shell, but for the first failure, which ends it and says which command it was.
    script = "set -eu\ntrap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n" + script
    return subprocess.run(
        ["bash", "-c", script], cwd=checkout, env=environment, capture_output=True, text=True, timeout=3000
    )


def test_the_page_has_all_kinds_of_extensions_and_everything_long_is_told_apart():
    found = blocks()
    assert len(found) > 8 and sum(bool(LONG.search(block)) for block in found) >= 5
    commands = "\n".join(found)
    for command in ("studies check", "--suites", "corruptions show", "--config", "data check", "--tier my_tier.yaml"):
        assert command in commands


def test_the_short_commands_run_as_written(checkout):
    """YAML files, the new corruption with its tests, and what would be run."""
    done = run("\n".join(block for block in blocks() if not LONG.search(block)), checkout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "near_dust" in done.stdout and "passed" in done.stdout and "jobs to do" in done.stdout


@pytest.mark.slow
def test_every_command_runs_as_written(checkout):
    from aqr_bench.record import read_records

    done = run("\n".join(blocks()), checkout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("report: ") == 2
    for name, count in (("bare", 4), ("careful", 3)):
        records = read_records(checkout / "results" / name / "evaluate.jsonl")
        assert len(records) == count and not any(record.failed for record in records)
    files = (checkout / "results" / "small_centerpoint").rglob("*.jsonl")
    failed = [(record.condition, record.reason) for file in files for record in read_records(file) if record.failed]
    assert failed == []
