"""A copy of the repository in which the commands of pages run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("ablations", "aqr_bench", "config", "examples", "tests", "workflow", "results/published")


class Page:
    """A page's ``sh`` blocks, and a place to run them in; ``console`` blocks need what a test has not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blocks(self, name: str) -> list[str]:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def run(self, blocks: list[str]) -> subprocess.CompletedProcess:
        """As pasted into a shell, but for the first failure, which ends it and says which command it was."""
        own = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **own}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes would compile the package
        script = "set -eu\ntrap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n" + "\n".join(blocks)
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=environment, capture_output=True, text=True,
            timeout=5400,
        )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    """A copy whose ``.venv/bin`` is this interpreter's; its own package is the one that is used.

    The pages of a test file are followed in one copy, as a reader would: later runs take what earlier ones have.
    """
    folder = tmp_path_factory.mktemp("pages") / "checkout"
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    bin_ = folder / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    # Not the installed command: a test may run from a checkout that is not the one which is installed.
    (bin_ / "aqr-bench").write_text(f'#!/bin/sh\nexec {sys.executable} -m aqr_bench.cli.main "$@"\n')
    for file in bin_.iterdir():
        file.chmod(0o755)
    return Page(folder)
