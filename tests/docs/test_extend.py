"""docs/extend.md: its commands run as they are written, in order, in a copy of the repository."""

from __future__ import annotations

import re

import pytest

from aqr_bench.record import read_records
from aqr_bench.study import load_study, load_tier

NAME = "extend.md"
# What takes longer than a few seconds; or asks for what that has left behind.
LONG = re.compile(r"aqr-bench (run(?!.*--dry-run)|evaluate|corruptions preview|data )", re.DOTALL)
PLAN = re.compile(r"^.*aqr-bench run .*--dry-run$\n", re.MULTILINE)  # seconds each; the slow test has them


def test_the_page_has_all_kinds_of_extensions_and_everything_long_is_told_apart(page):
    found = page.blocks(NAME)
    assert len(found) > 8 and sum(bool(LONG.search(block)) for block in found) >= 5
    commands = "\n".join(found)
    for command in ("studies check", "--suites", "corruptions show", "--config", "data check", "--tier my_tier.yaml"):
        assert command in commands


@pytest.mark.slow
def test_the_short_commands_run_as_written(page):
    """YAML files that are sound, and the new corruption with its tests."""
    done = page.run([PLAN.sub("", block) for block in page.blocks(NAME) if not LONG.search(block)])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "near_dust" in done.stdout and "passed" in done.stdout
    for name in ("my_tier", "small_centerpoint"):
        load_tier(page.folder / f"{name}.yaml")
    load_study(page.folder / "small_study.yaml")


@pytest.mark.slow
def test_every_command_runs_as_written(page):
    done = page.run(page.blocks(NAME))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("report: ") == 2 and done.stdout.count("jobs to do") == 4
    for name, count in (("bare", 4), ("careful", 3)):
        records = read_records(page.folder / "results" / name / "evaluate.jsonl")
        assert len(records) == count and not any(record.failed for record in records)
    files = (page.folder / "results" / "small_centerpoint").rglob("*.jsonl")
    failed = [(record.condition, record.reason) for file in files for record in read_records(file) if record.failed]
    assert failed == []
