"""docs/extend.md: its commands run as they are written, in order, in a copy of the repository."""

from __future__ import annotations

import pytest

from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_study, load_tier

NAME = "extend.md"


def test_the_page_has_all_kinds_of_extensions(page):
    commands = "\n".join(page.blocks(NAME))
    for command in (
        "aqr-bench new router",
        "aqr-bench new corruption",
        "aqr-bench new metric",
        "aqr-bench new world_class",
        "aqr-bench table",
        "studies check",
        "--suites",
        "corruptions show",
        "--config",
        "data check",
        "--tier my_tier.yaml",
    ):
        assert command in commands


@pytest.mark.slow
def test_every_command_runs_as_written(page):
    done = page.run(page.blocks(NAME))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("report: ") == 3 and done.stdout.count("jobs to do") == 5
    assert "near_dust" in done.stdout and "passed" in done.stdout  # the new corruption, with its tests
    for name in ("my_tier", "small_centerpoint"):
        load_tier(page.folder / f"{name}.yaml")
    load_study(page.folder / "small_study.yaml")
    fleet = (page.folder / "results" / "my_fleet").rglob("evaluate.*.jsonl")
    values = [record.scores["custom"]["near_recall"] for file in fleet for record in read_records(file) if record.ok]
    assert values and all(0 <= value <= 1 for value in values)
    for name, count in (("checkpoint", 5), ("confident", 3)):
        records = read_records(page.folder / "results" / name / "evaluate.jsonl")
        assert len(records) == count and not any(record.failed for record in records)
    files = (page.folder / "results" / "small_centerpoint").rglob("*.jsonl")
    failed = [(record.condition, record.reason) for file in files for record in read_records(file) if record.failed]
    assert failed == []
