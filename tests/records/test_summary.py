"""Counting what a workflow left behind, and counting a file anew only when it has changed."""

from __future__ import annotations

import os

import pytest

from aqr_bench.records import summary as outcome
from aqr_bench.records.record import Record, read_run, write_records
from aqr_bench.records.summary import count_files, print_summary

RUN = {"tier": "smoke", "study": "smoke", "variant": "cross", "seed": 0}


def record(status="ok", **more) -> Record:
    more = {"reason": None if status == "ok" else "loss is nan", **more}
    return Record(kind="train", status=status, **{**RUN, **more}, provenance={"tool": "aqr-bench"})


@pytest.fixture
def results(tmp_path):
    write_records(tmp_path / "smoke/smoke/cross/seed0/train.jsonl", [record()])
    write_records(tmp_path / "smoke/smoke/cross/seed1/train.jsonl", [record("diverged", seed=1)])
    return tmp_path


def files(folder):
    return sorted(folder.rglob("*.jsonl"))


def test_counts_and_names_failures(results, capsys):
    assert not print_summary(results, results / "kept.json", ["smoke/smoke"])
    assert capsys.readouterr().out.splitlines() == [
        "1 of 2 records ok",
        "  diverged: train smoke smoke cross seed 1: loss is nan",
    ]


def test_only_changed_files_are_read_again(results, monkeypatch):
    remaining, read = results / "kept.json", []
    full = read_run
    monkeypatch.setattr(outcome, "read_run", lambda file: read.append(file.parent.name) or full(file))
    first = count_files(files(results), remaining)
    assert read == ["seed0", "seed1"]
    assert count_files(files(results), remaining) == first and len(read) == 2
    write_records(results / "smoke/smoke/cross/seed1/train.jsonl", [record(seed=1)])
    corrected = count_files(files(results), remaining)
    assert read[2:] == ["seed1"] and (corrected.ok, corrected.counted, corrected.failures) == (2, 2, ())


def test_a_file_that_is_gone_is_not_counted(results):
    count_files(files(results), results / "kept.json")
    os.remove(results / "smoke/smoke/cross/seed1/train.jsonl")
    assert count_files(files(results), results / "kept.json").counted == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"stamp": 1, "count": {"other": 2}}}', "\x00\xff"])
def test_a_damaged_memory_is_not_believed(results, text):
    right = count_files(files(results), results / "right.json")
    (results / "kept.json").write_text(text)
    assert count_files(files(results), results / "kept.json") == right


def test_damaged_and_not_applicable_records(results):
    write_records(
        results / "smoke/smoke/cross/seed0/evaluate.missing_sensors.jsonl",
        [
            Record(
                kind="evaluate",
                status="not_applicable",
                reason="no camera",
                **RUN,
                condition="no_camera",
                suite="missing_sensors",
                provenance={"tool": "aqr-bench"},
            )
        ],
    )
    with open(results / "smoke/smoke/cross/seed0/train.jsonl", "a") as file:
        file.write('{"half": ')
    count = count_files(files(results), results / "kept.json")
    assert (count.ok, count.counted, count.not_applicable) == (1, 3, 1)
    assert any("damaged record, line 2" in failure.reason for failure in count.failures)


def test_failures_are_grouped_by_cause(results, capsys):
    """A chain of jobs has one cause: that of the first one."""
    for seed, reason in enumerate(["ValueError: no", "not started: base training failed: ValueError: no"]):
        write_records(
            results / f"smoke/smoke/cross/seed{seed}/train.jsonl", [record("failed", seed=seed, reason=reason)]
        )
    reason = "RuntimeError: training failed: ValueError: no"
    evaluation = dict(kind="evaluate", suite="s", provenance={}, **RUN, reason=reason)
    rows = [Record(status="failed", condition=name, **evaluation) for name in ("clean", "snow")]
    write_records(results / "smoke/smoke/cross/seed0/evaluate.s.jsonl", rows)
    write_records(results / "smoke/smoke/none/seed0/train.jsonl", [record("oom", variant="none", reason="MemoryError")])
    assert not print_summary(results, results / "kept.json", ["smoke/smoke"])
    assert capsys.readouterr().out.splitlines() == [
        "0 of 5 records ok",
        "  4 records failed: ValueError: no (smoke/cross seed 0 and 3 more)",
        "  oom: train smoke smoke none seed 0: MemoryError",
    ]


def test_files_with_failures_are_set_aside(results):
    (ok, failed), missing = files(results), results / "missing.jsonl"
    assert outcome.set_aside_failed([ok, failed, missing], dry_run=True) == [failed] and failed.is_file()
    assert outcome.set_aside_failed([ok, failed, missing]) == [failed]
    assert ok.is_file() and not failed.exists() and failed.with_name("train.jsonl.failed").is_file()
