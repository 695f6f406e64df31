"""The GPU check on a CPU: parts that run, fail, lack wheels or time; its files, and what it says of errors."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aqr_bench.errors import UserError
from aqr_bench.gpu_check import __main__ as gpu_check
from aqr_bench.gpu_check.attention_table import BACKENDS, attention_rows
from aqr_bench.gpu_check.parity import apart, head_rows, judged
from aqr_bench.gpu_check.parts import Part, parts_of
from aqr_bench.gpu_check.settings import settings_for
from aqr_bench.gpu_check.text import markdown
from aqr_bench.gpu_check.wheels import WHEELS, download_command

ROOT = Path(__file__).resolve().parents[1]
TINY = settings_for("cpu", "tiny")


def test_a_part_that_needs_torch_alone_runs_and_writes_both_files(tmp_path):
    options = ["--device", "cpu", "--size", "tiny", "--parts", "bias_parity"]
    assert gpu_check.main(["--out", str(tmp_path), *options]) == 0
    (parity,) = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    found = {(row["dtype"], row["backend"]): row for row in parity["rows"]}
    assert found["float32", "window"]["error"]["gradients"] < 1e-5
    assert found["bfloat16", "window"]["not possible"] == "float32 and float64 only"
    text = (tmp_path / "gpu_check.md").read_text()
    assert "| bias_parity | ok |" in text and "| tiny | float32 | literal |" in text


def test_the_attention_table_has_every_backend_and_says_what_is_not_possible():
    rows = []
    attention_rows(replace(TINY, speed_dtypes=("float32",)), "tiny", rows.append)
    found = {(row["windows"], row["mode"], row["backend"]): row for row in rows}
    assert len(found) == len(rows) == 2 * 2 * len(BACKENDS)
    assert [row for row in rows if "not possible" in row] == [
        found[windows, "forward+backward", "flex"] for windows in ("5/5", "15/15")
    ]
    assert all(row["ratio"]["median"] > 0 for row in rows if "not possible" not in row)


def test_the_head_agrees_with_itself_in_every_dtype():
    rows = []
    head_rows(TINY, rows.append)
    assert len(rows) == 16 and not [row for row in rows if "failed" in row]
    whole = [row for row in rows if row["part"] == "head"]
    assert all(row["error"]["gradients"] < 1e-4 for row in whole)
    # The made-up router is not at zero: the bias is on.
    assert {row["head"] for row in whole} == {"plain", "aqr"}


def test_a_part_that_fails_has_its_error_and_the_rest_goes_on(tmp_path, monkeypatch):
    parts = [Part("no such part", "Broken", 30, False), Part("bias_parity", "Bias", 30, False)]
    monkeypatch.setattr(gpu_check, "parts_of", lambda settings: parts)
    assert gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--size", "tiny"]) == 1
    broken, bias = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert broken["status"] == "failed" and broken["error"] == "ValueError: no part 'no such part'"
    assert "Traceback" in broken["traceback"] and bias["status"] == "ok"


def test_a_part_beyond_its_time_is_ended_and_what_no_longer_fits_is_skipped():
    part = Part("bias_parity", "Bias", 0.2, False)
    ended = gpu_check.run(part, TINY, 100)
    assert ended["status"] == "failed" and "were used up" in ended["error"]
    skipped = gpu_check.run(Part("bias_parity", "Bias", 60, False), TINY, 5)
    assert skipped["status"] == "skipped: time" and skipped["error"] == "5 s were left"


def test_missing_wheels_are_named_with_the_way_to_fetch_them(monkeypatch):
    monkeypatch.setattr(gpu_check, "missing", lambda: ["mmdet"])
    head = next(part for part in parts_of(TINY) if part.needs_head)
    found = gpu_check.run(head, TINY, 100)
    assert found["status"] == "needs mmdet" and "pip download --no-deps -d wheels mmdet==3.3.0" in found["error"]


def test_wheels_are_those_of_the_lock_and_of_the_guide():
    lines = (line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    pins = {name.lower(): version for name, version in lines}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["lite"] == [f"mmcv-lite=={WHEELS['mmcv-lite'][0]}"]
    assert all(pins[name] == version for name, (version, _) in WHEELS.items() if name != "mmcv-lite")
    guide = (ROOT / "docs" / "gpu.md").read_text()
    assert all(word in guide for word in download_command(list(WHEELS)).split())


def test_an_error_over_its_bound_and_one_that_is_no_number_fail():
    assert "failed" not in judged({"output": 1e-4}, "float32")
    assert judged({"output": 0.5}, "float32")["failed"] == "error 0.5 is over 0.001"
    assert "nan" in judged({"output": 1e-6, "gradients": float("nan")}, "float32")["failed"]
    assert apart({"a": torch.tensor([3.0, 0.0])}, {"a": torch.tensor([3.0, 4.0])}) == pytest.approx(0.8)


def test_batches_that_shrank_are_told():
    times = {"median": 2.0, "p95": 2.0, "values": [2.0]}
    row = {"head": "plain", "batch_size": 1, "shrunk": "out of memory with 2 samples", "latency_ms": times}
    part = {"name": "head", "title": "Head", "status": "ok", "seconds": 1.0, "rows": [row]}
    text = markdown({"device": "cuda", "size": "full", "started": "now", "seconds": 1.0, "parts": [part]})
    assert "| head | batch_size | shrunk | median ms |" in text
    assert "| plain | 1 | out of memory with 2 samples | 2 |" in text


def test_mistakes_in_the_call_are_named(tmp_path):
    with pytest.raises(UserError, match="no 'bias_parit'; did you mean 'bias_parity'"):
        gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--parts", "bias_parit"])
    with pytest.raises(UserError, match="--out DIR is needed"):
        gpu_check.main(["--device", "cpu"])
