"""The repository itself: pins that agree, clean style, a Makefile that refuses what cannot work."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aqr_bench
from aqr_bench.cli import cuda_builds

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


@pytest.mark.parametrize("name", ["docker/Dockerfile", "docker/aqr-bench.def", "docs/install.md"])
def test_the_gpu_recipes_are_the_makefile_s(name):
    text = (ROOT / name).read_text()
    # The Makefile alone says which builds those are: tests/cli/test_cuda_builds.py.
    assert f"CUDA=cu{cuda_builds.DEFAULT}" in text and not re.search(r"(spconv|cumm)-cu\d+==|/whl/cu", text)
    assert set(re.findall(r"\btorch==[\w.]+", text)) <= {make_variable("TORCH")}
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert all(python.startswith(f">={version},") for version in re.findall(r"python:(3\.\d+)", text))
    assert "python:3." in text or name.endswith(".md")


@pytest.mark.parametrize("name", ["docker/Dockerfile", "docker/aqr-bench.def"])
def test_images_have_the_compiler_that_flex_needs(name):
    assert re.search(r"install .*\n.*\bg\+\+ ", (ROOT / name).read_text())


def test_recipes_and_documentation_agree_on_system_libraries():
    versions = [
        set(re.findall(r"\blib[\w.+-]+\d\b", (ROOT / name).read_text()))
        for name in ("docker/Dockerfile", "docker/aqr-bench.def", "docs/install.md")
    ]
    assert versions[0] == versions[1] == versions[2] and len(versions[0]) == 10


def test_conda_adds_torch_and_mmcv_alone_to_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    pip_requirements = [Requirement(text) for text in pip if not text.startswith("--")]
    assert {requirement.name for requirement in pip_requirements} == {"torch", "mmcv-lite"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        r.name: r for r in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["lite"]])
    }
    for requirement in pip_requirements:
        assert wanted[requirement.name].specifier.contains(str(requirement.specifier).removeprefix("=="))


def test_licence_and_citation_agree_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in project["license-files"])
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert citation["version"] == aqr_bench.__version__
    assert citation["title"].startswith(project["name"])


def test_notice_names_paths_that_exist():
    paths = re.findall(r"\b(?:aqr_bench|docs|ablations|results)/[\w./-]*", (ROOT / "NOTICE").read_text())
    assert len(paths) > 8 and all((ROOT / path.rstrip(".")).exists() for path in paths)


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


def test_files_have_a_readable_size_and_a_purpose_line():
    files = [f for f in (ROOT / "aqr_bench").rglob("*.py") if f.read_text().strip()]
    assert len(files) > 50
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) <= 400, file
        assert text.startswith('"""'), file


def locale_dependent(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the locale."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if "encoding" in given or (isinstance(owner, ast.Name) and owner.id in ("os", "Image")):
        return False
    if name == "open":
        modes = [*call.args[0 if owner is not None else 1 :], given.get("mode")]
        return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
    if name in ("run", "Popen", "check_output"):
        return "text" in given or "universal_newlines" in given
    return name == "read_text" or (name == "write_text" and owner is not None)


def test_text_is_utf8_whatever_the_locale():
    in_locale = []
    for file in (ROOT / "aqr_bench").rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        in_locale += [f"{file}:{call.lineno}: {ast.unparse(call)[:80]}" for call in calls if locale_dependent(call)]
    for file in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        opens = re.compile(r"\b(open|read_text|write_text)\(")
        in_locale += [f"{file}:{n}: {line}" for n, line in lines if opens.search(line) and "encoding=" not in line]
    assert not in_locale, "\n".join(in_locale)


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "iso-8859-1"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_commands_print_utf8_whatever_the_locale(locale, tmp_path):
    study = (ROOT / "ablations" / "smoke.yaml").read_text(encoding="utf-8")
    text = re.sub("^question: .*$", "question: Is −1 ≤ α – or not?", study, flags=re.MULTILINE)
    (tmp_path / "smoke.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "aqr_bench", "studies", "show", str(tmp_path / "smoke.yaml")],
        env={**os.environ, **locale}, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Is −1 ≤ α – or not?" in done.stdout.decode("utf-8")
