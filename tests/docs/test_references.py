"""Files, modules and commands that the documentation names exist, and so do the pages that the code names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_lines import unknown_words

from aqr_bench import plugins
from aqr_bench.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "*/README.md", "results/*/README.md", "tests/*/README.md")
    for file in ROOT.glob(pattern)
)
# Old names and files of other projects.
HISTORY = "CHANGELOG.md"
OTHER_PROJECTS = {"docs/schema_nuscenes.md", "docs/RESULTS.md", "docs/results"}
PATH = re.compile(r"(?<![\w/.:-])(?:aqr_bench|benchmarks|docs|examples|tests|workflow)/[\w/*.-]*\w")
PLACEHOLDER = re.compile(r"[/_](?:NAME|HOST)\b")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors_of(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exists(module: str) -> bool:
    """True for a module, or a name that its source contains, as ``aqr_bench.errors.UserError``."""
    file = ROOT
    parts = module.split(".")
    while parts and (file / parts[0]).is_dir():
        file /= parts.pop(0)
    if not parts:
        return True
    source = file / f"{parts.pop(0)}.py"
    return source.is_file() and all(re.search(rf"\b{name}\b", source.read_text(encoding="utf-8")) for name in parts)


def test_the_pages_are_seen():
    assert {"README.md", "CONTRIBUTING.md", "docs/gpu.md", "results/reference/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_files_and_headings(page):
    missing = []
    for link in re.findall(r"\]\(([^()\s]+)\)", text_of(page)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            missing.append(link)
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_paths_and_modules_exist(page):
    text = text_of(page)
    written = set(re.findall(r"cat > (\S+)", text))  # by a command of the page
    written |= {f"tests/test_{kind}_{name}.py" for kind, name in re.findall(r"aqr-bench new ([a-z_]+) (\w+)", text)}
    paths = {path for path in PATH.findall(text) if not PLACEHOLDER.search(path)} - written - OTHER_PROJECTS
    assert not [path for path in sorted(paths) if not any(ROOT.glob(path))]
    modules = set(re.findall(r"\baqr_bench(?:\.\w+)+", text)) - set(plugins.GROUPS)  # entry points
    assert not [module for module in modules if not exists(module)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_those_of_the_help(page):
    known = {"run", *main.COMMANDS}
    text = text_of(page)
    called = re.findall(r"(?:aqr-bench|python -m aqr_bench) ([a-z][a-z-]*)", "\n".join(code_of(text)))
    assert not set(called) - known
    # A step has one command; what is no step goes by its module.
    modules = {module for module, _ in main.COMMANDS.values()}
    assert not modules & {name for name in re.findall(r"python -m (aqr_bench\.[\w.]+)", text) if page != HISTORY}


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_options_are_those_of_the_commands(page):
    assert unknown_words(code_of(text_of(page))) == []


def code_of(text: str) -> list[str]:
    """Blocks and inline code of a page, blocks without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"#.*", "", block) for block in blocks] + re.findall(r"`([^`]+)`", rest)


def test_the_code_names_pages_and_files_that_exist():
    suffixes = {".py", ".yaml", ".smk", ".toml", ".def", ".j2", ".yml"}
    folders = ("aqr_bench", "ablations", "benchmarks", "config", "docker", "examples", "workflow")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in suffixes]
    files += [ROOT / name for name in ("Makefile", "Snakefile", "NOTICE", "environment.yml", "pyproject.toml")]
    missing = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in re.findall(
            r"(?<![\w/:-])(?:docs/[\w-]+\.md|(?:aqr_bench|tests)/[\w/]+\.py)\b", file.read_text(encoding="utf-8")
        )
        if name not in OTHER_PROJECTS and not (ROOT / name).is_file()
    }
    assert not missing


def test_the_exit_codes_are_those_of_commands():
    section = text_of("docs/running.md").partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    commands = {name.split()[0] for row in rows for name in re.findall("`([a-z][^`]*)", row)}
    assert {"run", "evaluate", "compare", "doctor", "gpu-slots"} <= commands <= main.COMMANDS.keys()
