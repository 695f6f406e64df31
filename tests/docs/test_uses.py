"""The pages of the three uses: their commands run as they are written, in order, on the smoke tier."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from aqr_bench.records.record import read_records

USES = ("use-reproduce.md", "use-robustness.md", "use-decide.md")


def records(folder: Path) -> list:
    return [record for file in sorted(folder.rglob("*.jsonl")) for record in read_records(file)]


@pytest.mark.parametrize("name", USES)
def test_every_block_is_run_or_is_no_shell(page, name):
    text = (Path(__file__).resolve().parents[2] / "docs" / name).read_text(encoding="utf-8")
    kinds = {line.removeprefix("```") for line in text.splitlines() if line.startswith("```")}
    assert kinds <= {"", "sh", "console", "yaml"} and len(page.blocks(name)) >= 3


@pytest.mark.slow
def test_reproduce_a_paper_the_rehearsal(page):
    done = page.run(page.blocks("use-reproduce.md"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"10 scenes, 30 samples.*: all well$", done.stdout, re.MULTILINE)
    table = done.stdout[done.stdout.rindex("report: ") :]
    assert "not comparable" in table and "67.9" in table  # mAP of the paper's row
    result = records(page.folder / "results" / "rehearsal")
    assert Counter(r.kind for r in result) == {"train": 1, "evaluate": 3, "measure": 1}
    assert all(r.ok for r in result) and next(r for r in result if r.kind == "train").extra["trained"] is False


@pytest.mark.slow
def test_study_robustness(page):
    done = page.run(page.blocks("use-robustness.md"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = [r for r in records(page.folder / "results" / "smoke") if r.kind == "evaluate" and r.suite == "my_night"]
    # Both variants under the four conditions, each with an input of its own; the base has the study's own suite alone.
    assert Counter(r.condition for r in result) == dict.fromkeys(("clean", "dark", "eight_beams", "half_view"), 2)
    assert all(r.ok for r in result) and len({r.provenance["input_sha256"] for r in result}) == 4
    assert len(list((page.folder / "previews").glob("*.jpg"))) == 3  # an overview and both corruptions


@pytest.mark.slow
def test_decide_between_designs(page):
    done = page.run(page.blocks("use-decide.md"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = records(page.folder / "results" / "smoke" / "my_question")
    kinds = Counter((r.kind, r.variant, r.seed) for r in result if r.kind == "train")
    assert len(kinds) == 6 and {seed for _, _, seed in kinds} == {0, 1} and all(r.ok for r in result)
    page_html = (page.folder / "results" / "smoke" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Are windows of three cells enough" in page_html
