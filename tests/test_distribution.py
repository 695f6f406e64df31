"""The wheel holds every file that is needed at run time; setuptools is asked for their names, nothing is built."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from setuptools import Distribution

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("workflow", "ablations", "config", "examples", "results/published")
FILES = {"Snakefile", "environment.yml", "requirements.lock", "requirements-slurm.lock"}


@pytest.fixture(scope="module")
def wheel_files() -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        command = runpy.run_path(str(ROOT / "setup.py"))["BuildWithSharedFiles"]
        distribution = Distribution({"script_name": "setup.py", "cmdclass": {"build_py": command}})
        distribution.parse_config_files()
        build = distribution.get_command_obj("build_py")
        build.build_lib = "build"
        build.ensure_finalized()
        build.editable_mode = False
        return {Path(name).relative_to("build").as_posix() for name in build.get_outputs(include_bytecode=False)}


def files_below(name: str) -> set[str]:
    paths = (path for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_whole_package(wheel_files):
    missing = files_below("aqr_bench") - wheel_files
    assert not missing


def test_what_lies_beside_the_package(wheel_files):
    asked = {name for folder in SHARED for name in files_below(folder)}
    asked |= FILES
    assert {name for name in wheel_files if name.startswith("aqr_bench/share/")} == {
        f"aqr_bench/share/{name}" for name in asked
    }


def test_the_sdist_has_the_same(wheel_files):
    lines = (line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line and line[0] != "#")
    rules = [(words[0], words[1:]) for words in lines]
    grafted = {name for rule, names in rules if rule == "graft" for name in names}
    included = {name for rule, names in rules if rule == "include" for name in names}
    assert grafted == set(SHARED)
    assert {"setup.py", *FILES} <= included
