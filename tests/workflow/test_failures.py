"""A study in which one variant diverges, one runs out of memory and one loses its checkpoint: the report comes."""

from __future__ import annotations

import csv
import html
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkout import REPOSITORY, Checkout, copy_repository

AQR = {"site": "cross", "bev_window": 5, "camera_window": 5, "profile": "gaussian", "router": "learned"}
STUDY = {
    "name": "trouble",
    "question": "What becomes of the others where three variants fail?",
    "baseline": "none",
    "seeds": [0],
    "conditions": "missing_sensors",
    "metric": "mAP",
    "variants": {
        "none": {"summary": "Plain CMT", "config": {"model.pts_bbox_head.aqr": None}},
        "cross": {"summary": "Runs to its end", "config": {"model.pts_bbox_head.aqr": AQR}},
        "hot": {
            "summary": "A learning rate of a million",
            "iterations": 8,
            "config": {
                "model.pts_bbox_head.aqr": AQR,
                "optim_wrapper.optimizer.lr": 1e6,
                "param_scheduler.0.eta_max": 1e6,
            },
        },
        "fat": {
            "summary": "Less memory than it needs",
            "iterations": 3,
            "memory_limit_mb": 400,
            "config": {"model.pts_bbox_head.aqr": AQR},
        },
        "gone": {"summary": "Its checkpoint is lost", "iterations": 1, "config": {"model.pts_bbox_head.aqr": AQR}},
    },
}
FAILURES = {
    "hot": ["diverged", "DivergedError: loss is nan at iteration 3"],
    "fat": ["oom", "MemoryError (memory limit 400 MB)"],
}
SETTINGS = ("--config", "tier=smoke", "studies=trouble")


def assert_marked_and_explained(place: Path, snakemake: Callable[..., subprocess.CompletedProcess]) -> None:
    """The report tells of the three, the two others have their scores, and ``check`` fails naming the three."""
    report = place / "results" / "smoke" / "report"
    with (report / "tables" / "trouble_problems.csv").open() as file:
        problems = list(csv.DictReader(file))
    output = {(row["kind"], row["variant"]): (row["status"], row["reason"]) for row in problems}
    assert set(output) == {("train", "hot"), ("train", "fat")} | {("evaluate", v) for v in ("hot", "fat", "gone")}
    assert output["train", "hot"][0] == "diverged" and "loss is" in output["train", "hot"][1]
    assert output["train", "fat"][0] == "oom" and "(memory limit 400 MB)" in output["train", "fat"][1]
    assert output["evaluate", "hot"][1].endswith(output["train", "hot"][1])
    assert output["evaluate", "gone"][0] == "failed" and "checkpoint is missing" in output["evaluate", "gone"][1]
    with (report / "tables" / "trouble_scores.csv").open() as file:
        runs = {(row["variant"], row["ok"], row["wanted"], row["mAP_mean"] != "") for row in csv.DictReader(file)}
    fine = {(name, "1", "1", True) for name in ("none", "cross")}
    assert runs == fine | {(name, "0", "1", False) for name in ("hot", "fat", "gone")}
    page = html.unescape((report / "index.html").read_text())
    assert f"training failed: {output['train', 'hot'][1]}" in page
    assert "11 runs are not ok" in page and "9 of 15 evaluations are missing or failed" in page
    assert page.count('<tr class="gap">') >= 9  # three conditions of three variants, in the table of scores alone
    checked = snakemake("--quiet", "rules", *SETTINGS, "--", "check")
    text = checked.stdout + checked.stderr
    assert checked.returncode != 0
    assert "18 of 29 records ok" in text
    for words in ("diverged: train smoke trouble hot", "oom: train smoke trouble fat", "checkpoint is missing"):
        assert words in text


def test_the_report_comes_all_the_same(tmp_path):
    """The wiring, with stand-ins for the work."""
    checkout = Checkout(copy_repository(tmp_path / "checkout"))
    (checkout.root / "ablations" / "trouble.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    trouble = {"FAILURES": json.dumps(FAILURES), "WITHOUT_CHECKPOINT": "gone"}
    run = ("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "trouble")
    done = checkout.run(*run, **trouble)
    assert done.returncode == 3 and "report:" in done.stdout, done.stdout + done.stderr
    assert "18 of 29 records ok" in done.stdout
    causes = [line.strip() for line in done.stdout.splitlines() if " records failed: " in line]
    assert causes == [
        "4 records failed: oom: MemoryError (memory limit 400 MB) (trouble/fat seed 0 and 3 more)",
        "4 records failed: diverged: DivergedError: loss is nan at iteration 3 (trouble/hot seed 0 and 3 more)",
        "3 records failed: RuntimeError: checkpoint is missing: final.pth (trouble/gone seed 0 and 2 more)",
    ]
    assert_marked_and_explained(checkout.root, checkout.snakemake)
    # Another memory limit is another attempt of that training alone.
    study = {**STUDY, "variants": {**STUDY["variants"], "fat": {**STUDY["variants"]["fat"], "memory_limit_mb": 9000}}}
    (checkout.root / "ablations" / "trouble.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    checkout.steps()
    again = checkout.run(*run, STAND_IN_REPORT="1")
    assert again.returncode == 3 and "22 of 29 records ok" in again.stdout, again.stdout + again.stderr
    assert sorted(line.split()[0] + line.split()[-1].split("/")[3] for line in checkout.steps()) == [
        "evaluatefat", "trainfat",
    ]  # fmt: skip
    # The same call has nothing to do and reports the failures; what failed is run again on demand, and nothing else.
    checkout.steps()
    idle = checkout.run(*run, STAND_IN_REPORT="1")
    assert idle.returncode == 3 and "nothing to do" in idle.stdout and checkout.steps() == []
    assert "leaves failed records as they are; with --retry-failed it tries them again" in idle.stdout
    plan = checkout.run(*run, "--dry-run", "--retry-failed")
    assert "hot/seed0/train.jsonl" in plan.stdout and "gone/seed0/evaluate" in plan.stdout and checkout.steps() == []
    retried = checkout.run(*run, "--retry-failed", STAND_IN_REPORT="1")
    assert retried.returncode == 0 and "29 of 29 records ok" in retried.stdout, retried.stdout + retried.stderr
    assert "3 record files with failures set aside" in retried.stdout
    assert sorted(line.split()[0] + line.split()[-1].split("/")[3] for line in checkout.steps()) == [
        "evaluategone", "evaluatehot", "trainhot",
    ]  # fmt: skip
    assert (checkout.root / "results/smoke/trouble/hot/seed0/train.jsonl.failed").is_file()


@pytest.mark.slow
def test_real_trainings_that_fail(tmp_path):
    """The same with real trainings of the smoke tier; the checkpoint is deleted between training and evaluation."""
    (tmp_path / "trouble.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    settings = ("--config", "tier=smoke", "studies=trouble.yaml")

    def snakemake(*arguments: str) -> subprocess.CompletedProcess:
        arguments = tuple(settings[-1] if word == SETTINGS[-1] else word for word in arguments)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(REPOSITORY / "Snakefile")]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [*command, "--directory", str(tmp_path), *arguments],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip

    gone = tmp_path / "results" / "smoke" / "work" / "trouble" / "gone" / "seed0" / "final.pth"
    trained = snakemake("results/smoke/trouble/gone/seed0/train.jsonl", *settings)
    assert trained.returncode == 0 and gone.is_file(), trained.stdout + trained.stderr
    gone.unlink()
    done = snakemake("--keep-going", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_marked_and_explained(tmp_path, snakemake)
