"""Records: written whole, read without loss, and honest about where a number comes from."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aqr_bench.cli.records import main
from aqr_bench.errors import UserError
from aqr_bench.records import provenance as origin
from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import provenance
from aqr_bench.records.record import Record, fail_unchanged_inputs, read_records, status_of, write_records
from aqr_bench.study.hashes import config_hash, sha256_file


def evaluation(condition: str = "clean", inputs: str = "a", **changes) -> Record:
    facts = {
        "kind": "evaluate",
        "status": "ok",
        "tier": "smoke",
        "study": "s",
        "variant": "v",
        "seed": 0,
        "condition": condition,
        "suite": "missing_sensors",
        "scores": {"mAP": 0.25, "classes": {"car": {"AP": 0.5, "AP_dist": {"0.5": 0.1}}}},
        "provenance": {"input_sha256": inputs},
    }
    return Record(**{**facts, **changes})


def test_round_trip(tmp_path):
    records = [evaluation(), evaluation("no_lidar", "b", status="failed", reason="it broke", scores={})]
    path = write_records(tmp_path / "deep" / "r.jsonl", records)
    assert read_records(path) == records
    assert [p.name for p in path.parent.iterdir()] == ["r.jsonl"]


def test_numbers_that_are_not_finite_become_null_and_missing_ones_stay_away(tmp_path):
    scores = {"mAP": np.float32(0.5), "mATE": math.nan, "NDS": math.inf}
    train = Record("train", "ok", "smoke", seed=0, scores=scores, curve=np.array([[1, 2.0], [2, np.nan]]))
    data = json.loads(write_records(tmp_path / "r.jsonl", [train]).read_text())
    assert data["scores"] == {"mAP": 0.5, "mATE": None, "NDS": None}
    assert "mAOE" not in data["scores"]
    assert data["curve"] == [[1.0, 2.0], [2.0, None]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, "status: 'fine' is not one of"),
        ({"status": "failed"}, "reason"),
        ({"condition": None}, "condition: None is NoneType, expected string"),
        ({"scores": {"maP": 1.0}}, "scores.maP: unknown key; did you mean 'mAP'?"),
        ({"scores": {"mAP": "0.5"}}, "scores.mAP: '0.5' is str"),
        ({"kind": "train"}, "condition"),
    ],
)
def test_a_record_outside_its_schema_is_refused_and_nothing_is_written(change, message, tmp_path):
    with pytest.raises(UserError) as err:
        write_records(tmp_path / "r.jsonl", [evaluation(**change)])
    assert message in str(err.value)
    assert list(tmp_path.iterdir()) == []


def test_no_record_is_refused(tmp_path):
    with pytest.raises(UserError, match="no record to write"):
        write_records(tmp_path / "r.jsonl", [])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_records(tmp_path / "r.jsonl", [evaluation()])
    before = path.read_bytes()

    def broken(_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_records(path, [evaluation("no_lidar", "b")])
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", [b'{"kind": "eval', b"\xff\xfe\n", b"{}\n", b"[1]\n", b'{"schema_version": 2}\n'])
def test_a_damaged_line_becomes_a_failed_record(damage, tmp_path):
    path = tmp_path / "smoke" / "s" / "v" / "seed3" / "evaluate.missing_sensors.jsonl"
    write_records(path, [evaluation()])
    with path.open("ab") as file:
        file.write(damage)
    good, bad = read_records(path)
    assert good == evaluation()
    assert (bad.status, bad.kind, bad.study, bad.variant, bad.seed) == ("failed", "evaluate", "s", "v", 3)
    assert path.name in bad.reason and "line 2" in bad.reason


def test_a_record_of_a_newer_version_is_named_as_such():
    with pytest.raises(UserError, match=r"schema version 2 is newer than 1\. Update aqr-bench"):
        Record.from_dict({**evaluation().to_dict(), "schema_version": 2, "new_key": 1})


def test_an_empty_file_is_a_failure_and_a_missing_one_an_error(tmp_path):
    path = tmp_path / "smoke" / "base" / "seed1" / "train.jsonl"
    with pytest.raises(UserError, match="not found"):
        read_records(path)
    path.parent.mkdir(parents=True)
    path.touch()
    (only,) = read_records(path)
    assert only.status == "failed" and "empty" in only.reason and (only.study, only.seed) == (None, 1)


def test_a_corruption_that_changes_nothing_is_refused():
    checked = fail_unchanged_inputs([evaluation(), evaluation("no_lidar", "a"), evaluation("fog", "b")], "clean")
    assert [r.status for r in checked] == ["ok", "failed", "ok"]
    assert "left the inputs equal" in checked[1].reason and checked[1].scores == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("CUDA out of memory. Tried"), "oom"),
        (MemoryError(), "oom"),
        (TimeoutError("slow"), "timeout"),
        (FloatingPointError("loss is not finite"), "diverged"),
        (ValueError("x"), "failed"),
    ],
)
def test_status_of_an_exception(error, status):
    assert status_of(error) == status


def test_check_counts_and_names_what_failed(tmp_path, capsys):
    good = write_records(tmp_path / "a.jsonl", [evaluation()])
    bad = write_records(tmp_path / "b.jsonl", [evaluation(), evaluation("no_lidar", "a")])
    assert main(["check", str(good)]) == 0
    assert main(["check", str(good), str(bad)]) == 1
    output = capsys.readouterr()
    assert "2 of 3 records ok" in output.out and "failed: evaluate smoke s v seed 0 no_lidar: condition" in output.err


# ---------------------------------------------------------------- provenance


def test_config_hash_ignores_order_and_kind_of_number():
    one = config_hash({"a": (1, 2), "b": {"x": np.float64(0.5), "y": Path("c/d")}})
    assert one == config_hash({"b": {"y": "c/d", "x": 0.5}, "a": [1, 2]})
    assert one != config_hash({"a": [2, 1], "b": {"x": 0.5, "y": "c/d"}})
    with pytest.raises(TypeError, match="cannot hash a object"):
        config_hash({"a": object()})


def test_provenance_describes_this_process(tmp_path):
    checkpoint = tmp_path / "model.pth"
    checkpoint.write_bytes(b"weights")
    facts = provenance(Job("train", {"a": 1}, "d", "i"), seed=3, checkpoint=checkpoint)
    assert facts["config_sha256"] == config_hash({"a": 1}) and facts["code_sha256"] == code_hash_for("train")
    assert (facts["data_sha256"], facts["infos_sha256"]) == ("d", "i")
    assert facts["checkpoint_sha256"] == sha256_file(checkpoint)
    assert facts["checkpoint"] == "<elsewhere>/model.pth" and facts["seed"] == 3
    assert facts["machine"]["cores"] == os.cpu_count() and facts["machine"]["memory_gb"] > 0
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["finished"].endswith("+00:00")
    assert Record.from_dict(Record("train", "ok", "smoke", provenance=facts).to_dict()).provenance == facts


def test_outside_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "shipped_folder", lambda: tmp_path)
    assert origin.git_state() == {"git_commit": None, "git_dirty": None}


def test_git_commit_and_dirty_flag(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True, capture_output=True
        )

    monkeypatch.setattr(origin, "shipped_folder", lambda: tmp_path)
    (tmp_path / "aqr_bench").mkdir()
    (tmp_path / "aqr_bench" / "a.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = origin.git_state()
    assert len(clean["git_commit"]) == 40 and clean["git_dirty"] is False
    (tmp_path / "notes.txt").write_text("not code")
    assert origin.git_state() == clean
    (tmp_path / "aqr_bench" / "a.py").write_text("2")
    assert origin.git_state()["git_dirty"] is True


def test_command_line_holds_no_path_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "/usr/bin/python3",
        "-m",
        "aqr_bench",
        "train",
        "--out",
        f"{tmp_path}/results/x",
        f"--work={tmp_path}/w",
        "/etc/passwd",
    ]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert origin.command_line() == "python -m aqr_bench train --out results/x --work=w <elsewhere>/passwd"
