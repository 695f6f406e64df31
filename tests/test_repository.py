"""The repository itself: pins that agree, clean style, a Makefile that refuses what cannot work."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
APART = {"torch", "mmcv", "mmcv-lite"}  # installed by name: they depend on the machine


def lock() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    assert all("==" in line for line in lines), "every line of the lock is a pin"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in [*project["dependencies"], *extras["test"], *extras["dev"]]]


def make_variable(name: str) -> str:
    return re.search(rf"^{name}\s*\?=\s*(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].strip()


def test_the_lock_satisfies_the_project():
    pins = lock()
    assert not APART & set(pins)
    for requirement in declared():
        if requirement.name not in APART:
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_conda_environment_and_makefile_install_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert make_variable("TORCH") in pip and make_variable("MMCV") in pip
    assert "--requirement requirements.lock" in pip
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    version = next(item for item in environment["dependencies"] if str(item).startswith("python="))
    assert python.startswith(f">={version.removeprefix('python=')}")


def test_compiled_and_lite_mmcv_have_one_version():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["lite"][0].split("==")[1] == extras["compiled"][0].split("==")[1]
    assert make_variable("MMCV") == extras["lite"][0]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["snakefmt", "--check", "Snakefile", "workflow"]],
)
def test_style(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("python3.99", "python3.99 not found. aqr-bench needs Python 3.11"),
        ("./old-python", "is Python 3.8; aqr-bench needs 3.11"),
    ],
)
def test_set_up_refuses_another_python(tmp_path, python, message):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "old-python"
    # Answers as an interpreter of that version would: the check's exit message, on stderr.
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 8, 1); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    done = subprocess.run(["make", "report", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_files_are_of_a_readable_size_and_say_what_they_are_for():
    files = [f for f in (ROOT / "aqr_bench").rglob("*.py") if f.read_text().strip()]
    assert len(files) > 50
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) <= 400, file
        assert text.startswith('"""'), file
