"""A wheel and an sdist of the checkout, each to be installed in a fresh virtual environment without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("aqr_bench", "workflow", "ablations", "config", "examples", "results/published")
FILES = ("setup.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md")
FILES += ("CITATION.cff", "Snakefile", "environment.yml", "requirements.lock", "requirements-slurm.lock")
LIBRARIES = Path(pytest.__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def clean_environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Without the checkout on the path of modules."""
    return {key: value for key, value in variables.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def build(kind: str, source: Path, target: Path) -> Path:
    """``wheel`` or ``sdist`` of a source tree, by the backend itself: nothing is downloaded."""
    before = set(target.iterdir())
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    subprocess.run(command, cwd=source, env=clean_environment(), check=True, capture_output=True, timeout=600)
    return (set(target.iterdir()) - before).pop()


def build_distributions(source: Path, target: Path) -> dict[str, Path]:
    """Sdist and wheel in ``target``, of a copy of the checkout's sources in ``source``."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    return {kind: build(kind, source, target) for kind in ("sdist", "wheel")}


class Installed:
    """An environment with aqr-bench from one file, all else from the environment of the tests, and a project folder."""

    def __init__(self, folder: Path, distribution: Path):
        self.python = folder / "venv" / "bin" / "python"
        self.project = folder / "project"
        self.project.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        packages = next((folder / "venv" / "lib").iterdir()) / "site-packages"
        plugin = find_spec("snakemake_executor_plugin_slurm")  # may be elsewhere on the path of the tests
        libraries = dict.fromkeys([LIBRARIES, *([Path(plugin.origin).parents[1]] if plugin else [])])
        (packages / "libraries.pth").write_text("".join(f"{folder}\n" for folder in libraries))
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*pip, "--no-build-isolation", str(distribution)], check=True, env=clean_environment())

    def run(self, *words: str, code: int = 0) -> str:
        command = [str(self.python.with_name("aqr-bench")), *words]
        done = subprocess.run(
            command, cwd=self.project, env=clean_environment(), capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def follow(
        self, script: str, folder: Path, variables: Mapping[str, str] = os.environ
    ) -> subprocess.CompletedProcess:
        """A shell script as typed with the environment activated; it ends at the first command that fails."""
        environment = clean_environment(variables) | {"PATH": f"{self.python.parent}:{variables['PATH']}"}
        trapped = f"set -eu\ntrap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n{script}"
        return subprocess.run(
            ["bash", "-c", trapped], cwd=folder, env=environment, capture_output=True, text=True, timeout=5400
        )
