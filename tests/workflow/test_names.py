"""Names and paths: of any characters, unique in a call, told apart in the results; drafts disturb nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from checkout import Checkout, copy_repository, finished_checkout

ODD = """it's, {my} $HOME;&"disk" `x` ü"""
RUN = ("aqr_bench.cli.main", "run")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(copy_repository(tmp_path / "checkout"))


@pytest.fixture
def copy(tmp_path) -> Checkout:
    return finished_checkout(tmp_path / "copy")


def shipped(checkout: Checkout, name: str) -> dict:
    return yaml.safe_load((checkout.root / "ablations" / f"{name}.yaml").read_text(encoding="utf-8"))


def write(path: Path, data: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def test_paths_of_any_characters(checkout, tmp_path):
    odd = tmp_path / ODD
    (odd / "nuscenes" / "v1.0-mini").mkdir(parents=True)
    for table in ("scene", "sample"):
        (odd / "nuscenes" / "v1.0-mini" / f"{table}.json").write_text("[]")
    tier = shipped(checkout, "tiers/smoke") | {"name": "odd_tier"}
    del tier["world"]
    tier["data"] = {"kind": "nuscenes", "version": "v1.0-mini", "root": str(odd / "nuscenes")}
    suite = shipped(checkout, "conditions/missing_sensors") | {"name": "odd_suite"}
    files = [
        write(odd / "odd_tier.yaml", tier),
        write(odd / "odd_study.yaml", shipped(checkout, "smoke") | {"name": "odd_study"}),
        write(odd / "odd_suite.yaml", suite),
    ]
    results = tmp_path / """my & "runs" ü"""
    arguments = ("--tier", str(files[0]), "--study", str(files[1]), "smoke", "--suites", str(files[2]))
    arguments += ("--results", str(results))
    done = checkout.run(*RUN, *arguments, STAND_IN_REPORT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (results / "odd_tier/odd_study/cross/seed0/evaluate.odd_suite.jsonl").is_file()
    assert (results / "odd_tier/report/index.html").is_file() and not (checkout.root / "results/odd_tier").exists()
    assert "nothing to do" in checkout.run(*RUN, *arguments, "--dry-run").stdout
    alone = checkout.snakemake(
        "--dry-run", "--config", f"tier='{files[0]}'", f"studies={files[1]}", f"results={results}"
    )
    assert alone.returncode == 0 and "Training" not in alone.stdout + alone.stderr, alone.stderr


def test_a_file_named_relative_to_the_folder_one_is_in(checkout):
    write(checkout.root / "docs" / "mine.yaml", shipped(checkout, "smoke") | {"name": "mine"})
    command = "import os; os.chdir('docs'); from aqr_bench.cli.main import main; "
    command += "raise SystemExit(main('run --dry-run --tier smoke --study mine.yaml'.split()))"
    (checkout.root / "there.py").write_text(command)
    done = checkout.run("there")
    assert done.returncode == 0 and "13 jobs to do" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["study", "suites"])
def test_two_files_of_one_name_in_one_call(what, checkout, tmp_path):
    name, folder = {"study": ("smoke", ""), "suites": ("missing_sensors", "conditions/")}[what]
    other = write(tmp_path / "x" / f"{name}.yaml", shipped(checkout, folder + name))
    chosen = () if what == "study" else ("--study", "smoke")
    done = checkout.run(*RUN, "--tier", "smoke", *chosen, f"--{what}", name, str(other))
    assert done.returncode == 2 and checkout.steps() == []
    assert f"ablations/{folder}{name}.yaml and {other}. Their results would lie in one folder." in done.stderr


def test_results_of_another_file_of_that_name(copy, tmp_path):
    study = shipped(copy, "smoke")
    same = write(tmp_path / "x" / "smoke.yaml", study)
    same.write_bytes((copy.root / "ablations" / "smoke.yaml").read_bytes())
    arguments = (*RUN, "--dry-run", "--tier", "smoke", "--study")
    assert copy.run(*arguments, str(same)).returncode == 0  # a copy of the file is no other one
    study["variants"]["cross"]["config"] = {"model.pts_bbox_head.aqr": None}
    other = write(tmp_path / "y" / "smoke.yaml", study)
    done = copy.run(*arguments, str(other))
    assert done.returncode != 0 and "holds results of ablations/smoke.yaml, another file of that name" in done.stdout
    write(copy.root / "ablations" / "smoke.yaml", study)
    assert copy.run(*arguments, "smoke").returncode == 0  # the same file, edited


def test_a_draft_disturbs_nobody_who_did_not_ask_for_it(copy):
    (copy.root / "ablations" / "draft.yaml").write_text("name: draft\nquestion: half\n")
    (copy.root / "ablations" / "conditions" / "half.yaml").write_text("name: half\nconditions: [")
    (copy.root / "ablations" / "tiers" / "new.yaml").write_text("name: new\n")
    done = copy.run(*RUN, "--tier", "smoke", "--study", "smoke")
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
    listed = copy.run("aqr_bench", "studies", "list")
    assert listed.returncode == 0 and "window_grid" in listed.stdout
    assert "broken: " in listed.stdout and "ablations/draft.yaml: baseline: missing key" in listed.stdout
    asked = copy.run(*RUN, "--tier", "smoke", "--study", "draft")
    assert asked.returncode == 2 and "draft.yaml: baseline: missing key" in asked.stderr


def test_some_of_the_variants(checkout):
    arguments = ("--tier", "smoke", "--study", "bias_site", "--seeds", "1", "--variants", "cross", "--dry-run")
    done = checkout.run(*RUN, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("Training")}
    assert trained == {"bias_site/none,", "bias_site/cross,"}
    done = checkout.run(*RUN, *arguments[:-2], "crss", "--dry-run")
    assert done.returncode == 2 and "no variant 'crss' in bias_site; did you mean 'cross'?" in done.stderr
