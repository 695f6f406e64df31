"""The Slurm profile on a cluster of one node that the test itself starts: light stand-ins, then the real smoke tier."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from checkout import REPOSITORY, Checkout, copy_repository, copy_workflow
from one_node_slurm import FAST, cluster, jobs, missing
from packaging.version import Version

PROFILE = REPOSITORY / "workflow" / "profiles" / "slurm" / "config.yaml"
SLURM = ["--workflow-profile", "workflow/profiles/slurm", *FAST]
SUBMITTED = {"world": 1, "prepare": 1, "train_base": 1, "train_variant": 2, "evaluate": 3, "measure": 2, "pictures": 1}
SUBMITTED |= {"report": 1}
WITH_MODEL = {"train_base", "train_variant", "evaluate", "measure", "pictures"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> dict[str, str]:
    """Environment for the clients of a running cluster."""
    if reason := missing():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as env:
        yield env


def snakemake(root: Path, env: dict[str, str], *arguments: str, own_package: bool = True, **more: str):
    """Snakemake with the Slurm profile in ``root``, its package before whatever else Python is told to look through."""
    paths = [str(root) if own_package else "", env.get("PYTHONPATH", "")]
    env = {**env, **more, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "snakemake", *SLURM, *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=1200)


def rule_of(job: dict[str, str]) -> str:
    return job["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


def test_profile_knows_the_rules_and_the_traps():
    profile = yaml.safe_load(PROFILE.read_text())
    rules = "".join(file.read_text() for file in (REPOSITORY / "workflow" / "rules").glob("*.smk"))
    for name in {*profile["set-resources"], *profile["set-threads"]}:
        assert f"rule {name}:" in rules, name
    assert profile["rerun-triggers"] == ["mtime"] and profile["latency-wait"] >= 60
    assert profile["default-resources"]["tasks"] == 0


def test_the_pinned_plugin_is_past_the_one_that_ran_gpu_jobs_twice():
    lines = (REPOSITORY / "requirements-slurm.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert Version(pins["snakemake-executor-plugin-slurm"]) >= Version("2.7.1")
    # What it imports besides itself and Snakemake is in the other lock.
    assert "throttler==" in (REPOSITORY / "requirements.lock").read_text()


@pytest.mark.slow
def test_stand_ins_go_through_the_queue_once_each_with_what_they_ask_for(slurm, tmp_path):
    checkout = Checkout(copy_repository(tmp_path / "checkout"))
    tiers = checkout.root / "ablations" / "tiers"
    tiny = (tiers / "smoke.yaml").read_text().replace("name: smoke", "name: tiny")
    (tiers / "tiny.yaml").write_text(tiny.replace("cluster_gpu: false", "cluster_gpu: true"))
    before = {job["JobId"] for job in jobs(slurm)}
    done = snakemake(checkout.root, slurm, "--config", "tier=tiny", "studies=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    submitted = [job for job in jobs(slurm) if job["JobId"] not in before]
    assert Counter(map(rule_of, submitted)) == SUBMITTED
    assert {job["JobState"] for job in submitted} == {"COMPLETED"}
    assert {rule_of(job) for job in submitted if "gpu" in job.get("TresPerJob", "")} == WITH_MODEL
    assert {job["OverSubscribe"] for job in submitted if rule_of(job) == "measure"} == {"NO"}
    assert {job["NumCPUs"] for job in submitted if rule_of(job) == "world"} == {"8"}
    steps = Counter(line.split()[0] for line in checkout.steps())
    assert steps == {"world": 1, "prepare": 1, "train": 3, "evaluate": 3, "measure": 2, "pictures": 1}
    assert (checkout.root / "results/tiny/report/index.html").stat().st_size > 10_000


@pytest.mark.slow
def test_job_that_fails_is_tried_again_and_named(slurm, tmp_path):
    checkout = Checkout(copy_repository(tmp_path / "checkout"))
    arguments = ["--retries", "1", "--config", "tier=smoke", "studies=smoke"]
    done = snakemake(checkout.root, slurm, *arguments, BREAK_STEP="prepare")
    assert done.returncode != 0 and "logs/smoke/prepare.log" in done.stdout + done.stderr
    assert Counter(line.split()[0] for line in checkout.steps()) == {"world": 1, "prepare": 2}


@pytest.mark.slow
def test_real_smoke_tier(slurm, tmp_path):
    copy_workflow(tmp_path)
    before = {job["JobId"] for job in jobs(slurm)}
    arguments = ["--jobs", "2", "--config", "tier=smoke", "studies=smoke"]
    done = snakemake(tmp_path, slurm, *arguments, own_package=False)
    assert done.returncode == 0, done.stdout + done.stderr
    submitted = [job for job in jobs(slurm) if job["JobId"] not in before]
    assert Counter(map(rule_of, submitted)) == SUBMITTED
    assert not any("gpu" in job.get("TresPerJob", "") for job in submitted), "this tier is made for CPUs"
    files = sorted(str(file) for file in (tmp_path / "results" / "smoke").rglob("*.jsonl"))
    check = subprocess.run([sys.executable, "-m", "aqr_bench", "records", "check", *files], cwd=tmp_path)
    assert len(files) == 8 and check.returncode == 0
    assert (tmp_path / "results/smoke/report/index.html").stat().st_size > 50_000
