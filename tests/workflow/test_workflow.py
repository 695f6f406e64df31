"""The wiring: what runs, what is run again after which change, and what happens when something fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from checkout import Checkout, copy_repository, finished_checkout

from aqr_bench.study.load import load_tier

SMOKE = ("--config", "tier=smoke", "studies=smoke")
TABLE = "results/smoke/world/v1.0-mini/scene.json"
DIVERGED = '{"cross": ["diverged", "loss is not finite at iteration 3"]}'
JOBS = {"world": 1, "prepare": 1, "train_base": 1, "train_variant": 2, "evaluate": 3, "measure": 2, "pictures": 1}


def planned(checkout: Checkout, *arguments: str) -> dict[str, int]:
    """Number of jobs per rule in a dry run."""
    done = checkout.snakemake("--quiet", "rules", "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    table = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {rule: int(count) for rule, count in table if rule not in ("total", "all", "job")}


def edit(file: Path, change) -> None:
    data = yaml.safe_load(file.read_text())
    change(data)
    file.write_text(yaml.safe_dump(data, sort_keys=False))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(copy_repository(tmp_path / "checkout"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Checkout:
    """A copied repository in which the smoke study has been run. Tests that change it take ``copy``."""
    return finished_checkout(tmp_path_factory.mktemp("finished") / "checkout")


@pytest.fixture
def copy(tmp_path) -> Checkout:
    return finished_checkout(tmp_path / "copy")


def test_lint(checkout):
    done = checkout.snakemake("--lint")
    assert done.returncode == 0, done.stdout


def test_default_plan_is_the_quick_tier(checkout):
    plan = planned(checkout)
    jobs = {step: count for step, count in JOBS.items() if step != "train_base"}  # none starts from a base model
    assert plan == {
        **jobs,
        "train_variant": 12,
        "evaluate": 12,
        "measure": 4,
        "pretrain": 2,
        "report": 1,
    }


def test_plan_in_another_folder_needs_nothing_there(checkout, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert planned(checkout, "--directory", str(other), *SMOKE)["train_variant"] == 2


def test_from_world_to_report(finished):
    output, page = (finished.root / "output.txt").read_text(), "results/smoke/report/index.html"
    assert re.search(f"^report: /.*/{page}$", output, re.MULTILINE) and output.startswith("[0/13] World")
    assert "14 of 14 records ok" in output and (finished.root / page).stat().st_size > 10_000
    steps = [line.split()[0] for line in (finished.root / "first_steps.txt").read_text().splitlines()]
    assert steps[:2] == ["world", "prepare"] and {s: steps.count(s) for s in set(steps)} == {
        "world": 1, "prepare": 1, "train": 3, "evaluate": 3, "measure": 2, "pictures": 1,
    }  # fmt: skip


def test_a_second_run_does_nothing(copy):
    done = copy.run("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
    assert done.returncode == 0 and "nothing to do" in done.stdout and copy.steps() == []


def test_a_new_variant_runs_alone(copy):
    new = {"summary": "new", "config": {"model.pts_bbox_head.aqr": {"site": "self"}}}
    edit(copy.root / "ablations" / "smoke.yaml", lambda d: d["variants"].update(new=new))
    assert planned(copy, *SMOKE) == {"train_variant": 1, "evaluate": 1, "measure": 1, "report": 1}


def test_a_changed_variant_runs_alone(copy):
    edit(copy.root / "ablations" / "smoke.yaml", lambda d: d["variants"]["cross"].update(config={"lr": 1}))
    assert planned(copy, *SMOKE) == {"train_variant": 1, "evaluate": 1, "measure": 1, "report": 1}


def test_a_deleted_record_is_made_again(copy):
    (copy.root / "results/smoke/smoke/cross/measure.jsonl").unlink()
    assert planned(copy, *SMOKE) == {"measure": 1, "report": 1}


def test_a_new_seed_runs_alone(copy):
    edit(copy.root / "ablations" / "smoke.yaml", lambda d: d.update(seeds=[0, 7]))
    assert planned(copy, *SMOKE) == {"train_base": 1, "train_variant": 2, "evaluate": 3, "report": 1}


def test_new_words_make_a_new_report_only(copy):
    edit(copy.root / "ablations" / "smoke.yaml", lambda d: d.update(question="Another question?"))
    assert planned(copy, *SMOKE) == {"report": 1}


def test_a_further_suite_evaluates_alone(copy):
    suite = {"name": "two", "summary": "x", "conditions": [{"name": "clean"}, {"name": "no_cam_back"}]}
    (copy.root / "ablations" / "conditions" / "two.yaml").write_text(yaml.safe_dump(suite))
    assert planned(copy, *SMOKE, "suites=two") == {"evaluate": 2, "report": 1}
    done = copy.run(
        "aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke", "--suites", "two", STAND_IN_REPORT="1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(copy.root.rglob("evaluate.two.jsonl"))) == 2
    again = copy.run("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke", "--suites", "tow")
    assert again.returncode == 2 and "unknown suite 'tow'; did you mean 'two'" in again.stderr


def test_changed_conditions_evaluate_again_without_training(copy):
    file = copy.root / "ablations" / "conditions" / "missing_sensors.yaml"
    edit(file, lambda d: d["conditions"].append({"name": "two", "corruption": "random_cameras", "severity": 2}))
    plan = planned(copy, *SMOKE)
    assert plan["evaluate"] == 3 and "train_base" not in plan and "train_variant" not in plan


def test_an_edited_table_makes_info_files_and_all_that_depends_on_them_again(copy):
    (copy.root / TABLE).write_text('[{"name": "another scene"}]')
    plan = planned(copy, *SMOKE)
    assert plan == {**{k: v for k, v in JOBS.items() if k != "world"}, "report": 1}
    done = copy.run("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke", STAND_IN_REPORT="1")
    assert done.returncode == 0 and copy.steps()[0].startswith("prepare"), done.stdout + done.stderr
    assert "another scene" in (copy.root / "results/smoke/infos/infos_train.pkl").read_text()
    assert planned(copy, *SMOKE) == {}


def test_info_files_that_were_replaced_run_again_what_read_them(copy):
    (copy.root / "results/smoke/infos/infos_val.pkl").write_text("made with other sweeps")
    assert planned(copy, *SMOKE) == {**{k: v for k, v in JOBS.items() if k not in ("world", "prepare")}, "report": 1}


def test_times_alone_change_nothing(copy):
    for file in (copy.root / TABLE, *(copy.root / "results/smoke/infos").iterdir()):
        file.touch()
    assert planned(copy, *SMOKE) == {}


@pytest.mark.parametrize(
    ("file", "again", "not_again"),
    [
        ("report/page.py", {"report"}, {"evaluate", "train_base", "measure", "world"}),
        (
            "bias/generator.py",
            {"train_variant", "evaluate", "measure", "report"},
            {"world", "prepare", "train_base"},  # plain CMT has no bias
        ),
        ("engine/train.py", {"train_base", "train_variant", "evaluate", "report"}, {"world", "prepare"}),
        ("cli/main.py", set(), {"report", "evaluate", "train_base", "measure", "world"}),
    ],
)
def test_changed_code_runs_again_what_depends_on_it(file, again, not_again, copy):
    with (copy.root / "aqr_bench" / file).open("a") as source:
        source.write("\n_CHANGED = True\n")
    plan = set(planned(copy, *SMOKE))
    assert again <= plan and not (not_again & plan)


def test_failures_are_named_and_the_next_run_goes_on(checkout):
    run = ("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
    # A training that diverges is a record; an evaluation that breaks is a failed job.
    broken = checkout.run(*run, BREAK_STEP="evaluate", FAILURES=DIVERGED)
    assert broken.returncode == 1 and "report:" not in broken.stdout
    assert "error: the disk is on fire" in broken.stderr and "3 jobs failed" in broken.stderr
    log = checkout.root / "logs" / "smoke" / "base" / "seed0" / "evaluate.missing_sensors.log"
    assert f"log: {log}" in broken.stderr and "first line of the log" in log.read_text()
    checkout.steps()
    done = checkout.run(*run, "--strict", STAND_IN_REPORT="1")
    assert {line.split()[0] for line in checkout.steps()} == {"evaluate", "pictures"}
    assert done.returncode == 1 and "10 of 14 records ok" in done.stdout, done.stdout + done.stderr
    cause = "loss is not finite at iteration 3 (smoke/cross seed 0 and 3 more)"
    assert f"4 records failed: diverged: {cause}" in done.stdout


def test_one_workflow_per_folder_and_a_clean_interruption(checkout):
    run = ("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
    env = {**os.environ, "PYTHONPATH": str(checkout.root), "SLOW_STEP": "world"}
    first = subprocess.Popen(
        [sys.executable, "-m", *run], cwd=checkout.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell may have told its background jobs to ignore the interrupt that is sent below.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (checkout.root / "steps.txt").exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    second = checkout.run(*run)
    assert second.returncode == 2 and "another run is at work" in second.stderr
    first.send_signal(signal.SIGINT)
    _, stderr = first.communicate(timeout=60)
    assert first.returncode == 130 and b"the same command resumes" in stderr
    # What a run that was killed outright would leave behind.
    locks = checkout.root / ".snakemake" / "locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("results/smoke/world/world.json")
    third = checkout.run(*run, BREAK_STEP="world")
    assert "removed the lock" in third.stderr and "1 job failed" in third.stderr, third.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tier=quik"], "unknown tier 'quik'; did you mean 'quick'?"),
        (["studies=smok"], "unknown study 'smok'; did you mean 'smoke'?"),
    ],
)
def test_a_mistake_in_the_config_is_named(settings, message, finished):
    done = finished.snakemake("--dry-run", "--config", *settings)
    assert done.returncode != 0 and message in done.stdout + done.stderr


def test_missing_data_set_is_said_before_anything_runs(checkout):
    def real_data(d):
        d["data"].update(kind="nuscenes", root="data/nuscenes")
        del d["world"]

    edit(checkout.root / "ablations" / "tiers" / "smoke.yaml", real_data)
    done = checkout.run("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
    assert done.returncode == 2 and "data.root: no nuScenes v1.0-mini under 'data/nuscenes'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    tables = checkout.root / "data" / "nuscenes" / "v1.0-mini"
    tables.mkdir(parents=True)
    (tables / "scene.json").write_text("[]")
    assert "world" not in planned(checkout, *SMOKE)


PAPER_MODELS = ("camera_vov", "lidar_voxel0075", "voxel0075_vov", "voxel0100_r50")


def real_root(checkout: Checkout) -> Path:
    """A nuScenes root that is there, with nothing in it; returns the folder for checkpoints beside it."""
    tables = checkout.root / "data" / "nuscenes" / "v1.0-trainval"
    tables.mkdir(parents=True)
    (tables / "scene.json").write_text("[]")
    files = checkout.root / "data" / "checkpoints"
    files.mkdir()
    return files


def test_the_paper_is_evaluated_from_published_checkpoints(checkout):
    files = real_root(checkout)
    refused = checkout.snakemake("--dry-run", "--config", "tier=paper")
    assert refused.returncode != 0
    assert "none of the published checkpoints is there (data/checkpoints/cmt_camera" in refused.stdout + refused.stderr
    (files / "cmt_lidar_voxel0075_cbgs.pth").write_bytes(b"made up")
    plan = planned(checkout, "--config", "tier=paper")
    # Nothing is trained, so nothing is cut out for it; two suites for each of four, one for two of MoME's study.
    jobs = {"prepare": 1, "train_variant": 6, "evaluate": 10, "measure": 6, "pictures": 1, "report": 1}
    assert plan == jobs
    # The page on published and measured numbers: tests/report/test_published.py.
    done = checkout.run("aqr_bench.cli.main", "run", "--tier", "paper", STAND_IN_REPORT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((checkout.root / "results" / "paper" / "paper_cmt" / m / "seed0").is_dir() for m in PAPER_MODELS)
    assert planned(checkout, "--config", "tier=paper") == {}
    # A checkpoint that arrives later is taken, and nothing else is done again.
    (files / "cmt_voxel0075_vov_1600x640_cbgs.pth").write_bytes(b"made up")
    assert planned(checkout, "--config", "tier=paper")["train_variant"] == 2  # a variant of both studies


def test_the_paper_is_trained_with_objects_to_paste(checkout):
    real_root(checkout)
    plan = planned(checkout, "--config", "tier=paper_train")
    assert plan["database"] == 1 and plan["train_variant"] == 4 and "train_base" not in plan
    other = planned(checkout, "--config", "tier=paper_train", "studies=bias_site")
    # Another study has its own suite alone, and starts from the base model.
    assert (other["train_base"], other["train_variant"], other["evaluate"]) == (1, 4, 5)


def shell_lines(checkout: Checkout, *arguments: str) -> list[str]:
    """Commands of a dry run that train."""
    done = checkout.snakemake("--dry-run", "--printshellcmds", "--cores", "4", *arguments, *SMOKE)
    assert done.returncode == 0, done.stderr
    return [line for line in (done.stdout + done.stderr).splitlines() if "-m aqr_bench train " in line]


def test_a_tier_with_several_processes_trains_by_torchrun(copy):
    tier = copy.root / "ablations" / "tiers" / "smoke.yaml"
    one = shell_lines(copy, "--forceall")
    assert len(one) == 3 and all(" python -m aqr_bench train " in line for line in one)
    edit(tier, lambda d: d.update(launcher={"processes": 2}))
    two = shell_lines(copy)  # results of one process are not those of two
    assert len(two) == 3
    # Sorted: in which order Snakemake names jobs that do not depend on each other is not said.
    started = " torchrun --standalone --nproc-per-node=2 -m aqr_bench train"
    wanted = [line.replace(" python -m aqr_bench train", started).replace("slots 1", "slots 2") for line in one]
    assert sorted(wanted) == sorted(two)
    assert all(f"OMP_NUM_THREADS={load_tier(tier).threads} " in line for line in two), two[0]
    assert all(" python -m aqr_bench gpu-slots 2 -- torchrun" in line for line in two), two[0]
    # Weights that are only taken over need no second process.
    edit(copy.root / "ablations" / "smoke.yaml", lambda d: d.update(iterations=0))
    remaining = shell_lines(copy)
    assert sum(" torchrun " in line for line in remaining) == 1
    assert sum(" python -m aqr_bench train" in line for line in remaining) == 2
