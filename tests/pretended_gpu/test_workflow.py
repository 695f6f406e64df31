"""The whole smoke tier through `aqr-bench run`, every job with the pretended GPU: records ok, scores as on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import copy_workflow

from aqr_bench.records.record import Record, read_run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUN = [sys.executable, "-m", "aqr_bench", "run", "--tier", "smoke", "--study", "smoke", "--cores", "1"]
PATIENCE_S = 3600  # a run that hangs is ended; no test passes or fails by less
SCORE_LIMIT, LOSS_LIMIT = 1e-4, 1e-4
# Mean errors of true positives (m, m/s, 1 - IoU, rad) are cumulated in the order of the scores, of which those of a
# model without training are nearly equal: rounding changes the order.
ERRORS, ERROR_LIMIT = ("ATE", "ASE", "AOE", "AVE", "AAE"), 1e-3
COUNTS = {"evaluate": 9, "measure": 2, "train": 3}  # one base and two variants under three conditions

pytestmark = pytest.mark.slow


def run_tier(place: Path, environment: dict[str, str]) -> Path:
    """Run the tier in an empty folder with the repository's workflow and studies; returns the folder of the results."""
    copy_workflow(place)
    done = subprocess.run(RUN, cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place / "results" / "smoke"


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Path:
    """Where the jobs leave what the pretended GPU refused or answered wrongly."""
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("smoke") / "checkout"


@pytest.fixture(scope="module")
def on_gpu(pretended, place, events) -> list[Record]:
    return records_of(run_tier(place, pretended(events)))


@pytest.fixture(scope="module")
def on_cpu(on_gpu, place) -> list[Record]:
    """The models that were trained on the GPU, evaluated without it; and the base model, trained without it."""
    results, infos = place / "results/smoke", ["--tier", "smoke", "--infos", "results/smoke/infos"]
    base = [*infos, "--seed", "0", "--out", "cpu/base/train.jsonl", "--work", "cpu/work"]
    run_on_cpu(place, [str(HERE / "cuda_layout.py"), "aqr_bench", "train", *base])
    for train in sorted(results.rglob("train.jsonl")):
        study = [] if read_run(train)[0].study is None else ["--study", "smoke"]
        out = place / "cpu" / train.parent.relative_to(results) / "evaluate.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        options = ["--suite", "missing_sensors", "--train", str(train), "--out", str(out), "--work", "cpu/work"]
        run_on_cpu(place, ["-m", "aqr_bench", "evaluate", *infos, *options, *study])
    return records_of(place / "cpu")


def run_on_cpu(place: Path, arguments: list[str]) -> None:
    """Python in the run's folder, without the pretended GPU."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def records_of(results: Path) -> list[Record]:
    return [record for file in sorted(results.rglob("*.jsonl")) for record in read_run(file)]


def key(record: Record) -> tuple[Any, ...]:
    return record.kind, record.study, record.variant, record.condition


def test_every_job_had_the_gpu_and_is_ok(on_gpu, events):
    assert {kind: sum(r.kind == kind for r in on_gpu) for kind in COUNTS} == COUNTS
    assert [f"{key(r)}: {r.reason}" for r in on_gpu if not r.ok] == []
    assert {r.provenance["machine"]["gpu"] for r in on_gpu} == {"pretended GPU"}
    assert [json.loads(file.read_text()) for file in events.iterdir()] == []


def test_parts_of_measurements_are_ok(on_gpu):
    for record in on_gpu:
        if record.kind == "measure":
            assert record.cost["training"]["status"] == "ok", record.cost["training"]["reason"]
            flops = record.cost["flops"]
            assert flops["training"].get("status", "ok") == "ok", flops["training"]["reason"]
            assert flops["training"]["total"] > flops["inference"]["total"] > 0


def test_scores_are_those_of_the_cpu(on_gpu, on_cpu):
    """Of the same weights."""
    expected = {key(record): record for record in on_cpu}
    evaluated = [record for record in on_gpu if record.kind == "evaluate"]
    assert len(evaluated) == COUNTS["evaluate"]
    for record in evaluated:
        other = expected[key(record)]
        assert other.ok and other.provenance["machine"].get("gpu") is None, other.reason
        scores, true = flat(record.scores), flat(other.scores)
        assert scores.keys() == true.keys()
        over = {name: (scores[name], true[name]) for name in true if not near(name, scores[name], true[name])}
        assert not over, f"{key(record)}: scores that differ from the CPU's: {over}"
        assert record.provenance["input_sha256"] == other.provenance["input_sha256"]


def near(name: str, score: float, true: float) -> bool:
    """Whether a score is the CPU's, within its limit; a class without objects has none (NaN) on both."""
    limit = ERROR_LIMIT if name.endswith(ERRORS) else SCORE_LIMIT
    return score == pytest.approx(true, rel=limit, abs=limit, nan_ok=True)


def test_losses_are_those_of_the_cpu(on_gpu, on_cpu):
    """Of the base model in training, with CUDA's memory layout on the CPU as well."""
    (base,) = [record for record in on_gpu if record.kind == "train" and record.study is None]
    (other,) = [record for record in on_cpu if record.kind == "train"]
    assert base.curve == [pytest.approx(point, rel=LOSS_LIMIT) for point in other.curve]


def flat(scores: dict[str, Any], name: str = "") -> dict[str, float]:
    """Numbers of nested scores by their path."""
    result: dict[str, float] = {}
    for part, value in scores.items():
        if isinstance(value, dict):
            result |= flat(value, f"{name}{part}/")
        elif isinstance(value, int | float):
            result[f"{name}{part}"] = value
    return result
