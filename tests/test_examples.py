"""What is there to be copied or opened: the GitHub workflow, the notebook, the Dev container, SKILL.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from command_lines import unknown_words

ROOT = Path(__file__).resolve().parents[1]


def test_unknown_commands_and_options_are_noticed():
    calls = ["aqr-bench run --tier x --tiers y", "python -m aqr_bench nope", "aqr-bench data check -x"]
    assert unknown_words(calls) == ["run --tiers", "nope", "data check -x"]
    assert unknown_words(["aqr-bench gpu-slots 1 -- python --version  # aqr-bench nothing"]) == []


def test_the_github_workflow_is_one_and_its_commands_exist():
    workflow = yaml.safe_load((ROOT / "examples" / "github_actions.yml").read_text(encoding="utf-8"))
    assert workflow.keys() == {"name", True, "permissions", "jobs"}  # YAML 1.1 takes `on` for a boolean
    (job,) = workflow["jobs"].values()
    assert job["runs-on"].startswith("ubuntu-") and job["timeout-minutes"] > 10
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert "\n".join(commands).count("aqr-bench ") > 3 and unknown_words(commands) == []


def test_the_notebook_is_well_formed_and_stripped():
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 3 and all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    for cell in cells:
        compile(cell.source, "notebook", "exec")


def test_the_dev_container_is_set_up_as_the_installation_page_says():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    python = re.search(r"^FROM python:(3\.\d+)-slim-(\w+)$", dockerfile, re.MULTILINE)
    assert container["image"] == f"python:{python[1]}-{python[2]}"
    assert container["postCreateCommand"] == "make setup CUDA=cpu" and "setup CUDA=cpu" in page


@pytest.mark.parametrize("name", [".devcontainer/devcontainer.json", "examples/github_actions.yml"])
def test_system_libraries_are_those_of_the_installation_page(name):
    libraries = [re.findall(r"\blib[\w.+-]+\d\b", (ROOT / file).read_text()) for file in (name, "docs/install.md")]
    assert set(libraries[0]) == set(libraries[1]) and len(libraries[0]) == 10


def test_the_skill_is_short_has_a_head_and_ten_commands():
    text = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["name"] == "aqr-bench" and head["description"]
    section = text.partition("## Ten commands")[2].partition("\n## ")[0]
    assert len(re.findall("^aqr-bench ", section, re.MULTILINE)) == 10
