"""The attention benchmarks run: the script on a tiny size, with every variant and its errors, and every piece."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(*words: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_table_of_a_tiny_size(tmp_path):
    out = tmp_path / "table.json"
    options = ("--size", "tiny", "--windows", "3/3", "--rounds", "2", "--no-memory", "--out", str(out))
    text = call("benchmarks/attention.py", *options)
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 9 and not any("failed" in row for row in rows.values())
    assert rows["none"]["forward"]["ratio"] == 1 and rows["auto"]["chosen"] in ("window", "masked")
    for name, row in rows.items():
        assert row["forward+backward"]["seconds"] > 0
        # Held against float64: a wrong mask, order of heads or gradient is off by far more.
        assert name == "none" or max(row["error"].values()) < 1e-5
        assert f"| 3/3 | {name}" in text


def test_peak_memory_of_a_fresh_process_and_a_variant_that_fails(tmp_path):
    out = tmp_path / "table.json"
    call(
        "benchmarks/attention.py", "--size", "quick", "--windows", "5/5", "--rounds", "1", "--no-errors",
        "--variants", "none", "flex", "nn.MultiheadAttention", "--out", str(out),
    )  # fmt: skip
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert "no gradient on a CPU" in rows["flex"]["failed"]
    # [4, 4, 144, 2700] in float32 is 25 MB, and the module holds it more than once.
    assert rows["nn.MultiheadAttention"]["forward"]["peak_mb"] > rows["none"]["forward"]["peak_mb"] + 25


def test_every_piece_runs():
    text = call(
        "-m", "pytest", "benchmarks/test_pieces.py", "--size", "tiny", "--windows", "3/3", "--benchmark-disable"
    )
    assert "11 passed" in text


@pytest.mark.slow
def test_the_workflow_is_planned_and_found_to_be_done():
    small = ("--studies", "2", "--seeds", "1", "--suites", "1", "--conditions", "3", "--repeat", "1")
    found = json.loads(call("benchmarks/workflow.py", *small))
    # Two studies (one of cost alone), one seed: 4 trainings and a base, each under its suites, the base under one.
    assert found["jobs"]["train_variant"] == "4" and found["jobs"]["evaluate"] == "9"
    assert found["records"] == 2 + 1 + 4 + 5 * 3 + 4 * 3 + 10
