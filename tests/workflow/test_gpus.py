"""GPUs in the workflow: no two jobs at work share one; --gpus and --cpu, which run nothing again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from checkout import Checkout, copy_repository

SMOKE = ("--config", "tier=smoke", "studies=smoke")
RUN = ("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
WITH_MODEL = {"train_base": 1, "train_variant": 2, "evaluate": 3, "measure": 2, "pictures": 1}


def edit(file: Path, **changes) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes, sort_keys=False))


@pytest.fixture(scope="module", autouse=True)
def _locks_of_these_tests(tmp_path_factory):
    """A temporary folder of their own: runs on this machine do not count, nor does what the shell says of GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("locks")))
        for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(copy_repository(tmp_path / "checkout"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Checkout:
    """A copied repository in which the smoke study was run on four pretended GPUs by ``aqr-bench run``."""
    checkout = Checkout(copy_repository(tmp_path_factory.mktemp("finished") / "checkout"))
    done = checkout.run(*RUN, "--gpus", "3", "--verbose", AQR_BENCH_GPUS="4", GPU_LOG="gpus.jsonl", STAND_IN_REPORT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    checkout.output = done.stdout
    return checkout


def gpu_log(checkout: Checkout) -> list[dict]:
    return [json.loads(line) for line in (checkout.root / "gpus.jsonl").read_text().splitlines()]


def test_no_two_jobs_at_work_share_one_of_four_gpus(checkout):
    """Snakemake itself, which knows of no limit here and starts seven jobs at once: the locks see to it."""
    targets = [f"results/smoke/base/seed{seed}/train.jsonl" for seed in range(7)]
    done = checkout.snakemake("--cores", "7", *targets, *SMOKE, AQR_BENCH_GPUS="4", GPU_LOG="gpus.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    log = gpu_log(checkout)
    assert len(log) == 7 and not any(line["shared"] for line in log), log
    assert all(len(line["gpus"]) == 1 and line["gpus"][0] in "0123" for line in log)


def test_the_first_gpus_are_taken_and_snakemake_knows_how_many(finished):
    log = gpu_log(finished)
    assert len(log) == sum(WITH_MODEL.values()) and not any(line["shared"] for line in log)
    assert {gpu for line in log for gpu in line["gpus"]} <= {"0", "1", "2"}
    assert re.search(r"^Provided resources: gpu=.*\b3\b", finished.output, re.MULTILINE)


@pytest.mark.parametrize(("gpus", "setting"), [("0", None), ("8", None), ("4", "gpus=2"), ("4", "gpus=0")])
def test_another_number_of_gpus_runs_nothing_again(finished, gpus, setting):
    done = finished.snakemake("--dry-run", *SMOKE, *([setting] if setting else []), AQR_BENCH_GPUS=gpus)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize(("arguments", "gpus", "seen"), [((), "0", ["all"]), (("gpus=0",), "2", [])])
def test_without_a_gpu_nothing_is_hidden_and_with_none_wanted_everything_is(checkout, arguments, gpus, seen):
    target = "results/smoke/base/seed0/train.jsonl"
    done = checkout.snakemake(target, *SMOKE, *arguments, AQR_BENCH_GPUS=gpus, GPU_LOG="gpus.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gpu_log(checkout) == [{"step": "train", "gpus": seen, "shared": []}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "3"), "error: --gpus: 3 GPUs are asked for, 2 visible here"),
        (("--gpus", "0"), "argument --gpus: must be at least 1, not 0"),
        (("--gpus", "1", "--cpu"), "argument --cpu: not allowed with argument --gpus"),
    ],
)
def test_gpus_that_are_not_there_are_refused_before_anything_runs(checkout, arguments, message):
    done = checkout.run(*RUN, *arguments, AQR_BENCH_GPUS="2")
    assert done.returncode == 2 and message in done.stderr and not (checkout.root / "steps.txt").exists()


def test_more_processes_than_gpus_are_refused_with_file_and_key(checkout):
    tier = checkout.root / "ablations" / "tiers" / "smoke.yaml"
    edit(tier, launcher={"processes": 4})
    message = f"error: {tier}: launcher.processes: 4 processes need a GPU each, 2 GPUs are visible. Lower it"
    done = checkout.run(*RUN, "--gpus", "2", AQR_BENCH_GPUS="8")
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    done = checkout.snakemake(*SMOKE, AQR_BENCH_GPUS="2")
    assert done.returncode != 0 and message in done.stdout + done.stderr
    assert not (checkout.root / "steps.txt").exists()


def test_a_job_takes_as_many_gpus_as_it_starts_processes(checkout):
    edit(checkout.root / "ablations" / "tiers" / "smoke.yaml", launcher={"processes": 2})
    done = checkout.snakemake("--dry-run", "--printshellcmds", *SMOKE, AQR_BENCH_GPUS="4")
    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.findall(r"gpu-slots (\d) -- (?:python|torchrun .*) -m aqr_bench (\w+) ", done.stdout + done.stderr)
    taken = {(step, int(count)) for count, step in commands}
    assert taken == {("train", 2), ("evaluate", 1), ("measure", 1), ("pictures", 1)}
    assert len(commands) == sum(WITH_MODEL.values())
