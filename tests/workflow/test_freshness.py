"""Results know what they were made from: what is done again, and what comes back, whatever happened to the files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml
from checkout import Checkout, finished_checkout

RUN = ("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "smoke")
CROSS = "results/smoke/smoke/cross/seed0/train.jsonl"
AQR = "model.pts_bbox_head.aqr"


@pytest.fixture
def copy(tmp_path) -> Checkout:
    return finished_checkout(tmp_path / "copy")


def set_window(checkout: Checkout, cells: int) -> None:
    file = checkout.root / "ablations" / "smoke.yaml"
    study = yaml.safe_load(file.read_text())
    study["variants"]["cross"]["config"][AQR]["bev_window"] = cells
    file.write_text(yaml.safe_dump(study, sort_keys=False))


def window_of(checkout: Checkout) -> int:
    study = yaml.safe_load((checkout.root / "ablations" / "smoke.yaml").read_text())
    return study["variants"]["cross"]["config"][AQR]["bev_window"]


def run(checkout: Checkout, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """A run, and the steps that it took."""
    done = checkout.run(*RUN, *arguments, STAND_IN_REPORT="1", **environment)
    return done, [line.split()[0] for line in checkout.steps()]


def test_a_changed_config_is_noticed_without_snakemakes_notes(copy):
    old, before = window_of(copy), (copy.root / CROSS).read_text()
    set_window(copy, 3)
    shutil.rmtree(copy.root / ".snakemake")
    why, steps = run(copy, "--why")
    assert f"train smoke/cross seed 0: aqr.bev_window {old} -> 3" in why.stdout and steps == []
    assert "smoke/none" not in why.stdout and "base" not in why.stdout, why.stdout
    assert (copy.root / CROSS).read_text() == before
    done, steps = run(copy)
    assert done.returncode == 0 and sorted(steps) == ["evaluate", "measure", "train"], done.stdout + done.stderr
    assert (copy.root / CROSS).read_text() != before
    # Putting it back is done at once, and a dry run knows that without touching anything.
    set_window(copy, old)
    changed = (copy.root / CROSS).read_text()
    dry, steps = run(copy, "--dry-run")
    assert "Training" not in dry.stdout and (copy.root / CROSS).read_text() == changed != before, dry.stdout
    done, steps = run(copy)
    assert done.returncode == 0 and steps == [] and (copy.root / CROSS).read_text() == before
    checkpoint = copy.root / "results/smoke/work/smoke/cross/seed0/final.pth"
    assert checkpoint.is_file()


def test_a_failed_job_under_a_changed_config_costs_nothing(copy):
    old = window_of(copy)
    set_window(copy, 3)
    broken, steps = run(copy, BREAK_STEP="train")
    assert broken.returncode == 1 and not (copy.root / CROSS).exists()
    set_window(copy, old)
    done, steps = run(copy)
    assert done.returncode == 0 and steps == [] and (copy.root / CROSS).is_file(), done.stdout + done.stderr


def test_results_of_another_machine_are_taken(copy, tmp_path):
    other = copy.copy_to(tmp_path / "other")
    for checkout, seeds in ((copy, [0]), (other, [0, 7])):
        file = checkout.root / "ablations" / "smoke.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"seeds": seeds}, sort_keys=False))
    done, steps = run(other)
    assert done.returncode == 0 and steps.count("train") == 3
    shutil.copy(other.root / "ablations" / "smoke.yaml", copy.root / "ablations" / "smoke.yaml")
    # Without times, and into a folder that has results of its own.
    subprocess.run(["cp", "-r", f"{other.root}/results/smoke/.", f"{copy.root}/results/smoke/"], check=True)
    done, steps = run(copy)
    assert done.returncode == 0 and steps == [], done.stdout + done.stderr


def test_changed_code_can_be_accepted(copy):
    with (copy.root / "aqr_bench/engine/train.py").open("a") as source:
        source.write("\nCHANGED = True\n")
    before = json.loads((copy.root / CROSS).read_text())["provenance"]["request"]["code"]["engine/train.py"]
    done, steps = run(copy, "--accept")
    # Pictures and page take seconds, and are drawn by the code as it is.
    assert done.returncode == 0 and steps == ["pictures"], done.stdout + done.stderr
    assert "accepted 3 record files of other code" in done.stdout
    provenance = json.loads((copy.root / CROSS).read_text())["provenance"]
    assert provenance["accepted"][0]["code"] == {"engine/train.py": before} and provenance["accepted"][0]["date"]
    set_window(copy, 3)
    done, steps = run(copy, "--accept")
    assert sorted(steps) == ["evaluate", "measure", "train"] and "accepted 0 record files" in done.stdout


def test_code_that_a_job_does_not_use_leaves_it_alone(copy):
    package = copy.root / "aqr_bench"
    with (package / "bias/router.py").open("a") as source:
        source.write("\n\n# A comment.\n")
    (package / "corruptions/suites/dust.py").write_text('"""Dust."""\n\nCORRUPTIONS = ()\n')
    with (package / "corruptions/suites/__init__.py").open("a") as source:
        source.write("\nfrom aqr_bench.corruptions.suites import dust\n\nSUITES = (dust, *SUITES)\n")
    done, steps = run(copy)
    assert done.returncode == 0 and steps == [] and "nothing to do" in done.stdout, done.stdout + done.stderr
    with (package / "bias/router.py").open("a") as source:
        source.write("CHANGED = 1\n")
    why, steps = run(copy, "--why")
    lines = [line for line in why.stdout.splitlines() if "bias/router.py" in line]
    assert "  train smoke/cross seed 0: code: bias/router.py changed" in lines
    assert lines and all("smoke/cross" in line for line in lines) and "train base" not in why.stdout


def test_records_of_earlier_versions_are_made_again_and_not_lost(copy):
    record = json.loads((copy.root / CROSS).read_text())
    del record["provenance"]["request"]
    (copy.root / CROSS).write_text(json.dumps(record) + "\n")
    why, _ = run(copy, "--why")
    assert "train smoke/cross seed 0: record of an earlier version" in why.stdout
    done, steps = run(copy)
    assert done.returncode == 0 and sorted(steps) == ["evaluate", "train"]
    stored = [file.read_text() for file in (copy.root / "results/smoke/store").rglob("records.stored")]
    assert json.dumps(record) + "\n" in stored
    listed = copy.run("aqr_bench.cli.main", "gc")
    assert listed.returncode == 0 and "smoke/cross/seed0/train" in listed.stdout
    assert copy.run("aqr_bench.cli.main", "gc", "--delete").returncode == 0
    assert not (copy.root / "results/smoke/store").exists() and (copy.root / CROSS).is_file()


def test_files_beside_a_custom_config_count(copy):
    """Bases, modules and sub-packages: each of them trains anew when it changes, and counts as before when put back."""
    folder = copy.root / "custom"
    for name in ("detectors/parts", "base"):
        (folder / name).mkdir(parents=True)
    (folder / "detectors/careful.py").write_text('_base_ = ["../base/pillar.py"]\n')
    beside = [folder / name for name in ("base/pillar.py", "detectors/neck.py", "detectors/parts/head.py")]
    for file in beside:
        file.write_text("WIDTH = 1\n")
    tier = yaml.safe_load((copy.root / "ablations/tiers/smoke.yaml").read_text())
    tier |= {"name": "custom", "model": "detectors/careful.py"}
    (folder / "custom.yaml").write_text(yaml.safe_dump(tier))
    base, config = "results/custom/base/seed0/train.jsonl", ("--config", "tier=custom/custom.yaml", "studies=smoke")
    done = copy.snakemake(base, *config)
    assert done.returncode == 0 and copy.steps()[-1].startswith("train"), done.stdout + done.stderr
    for file, content in [*((file, "WIDTH = 2\n") for file in beside), (folder / "detectors/README.md", "A note.\n")]:
        before = file.read_text() if file.exists() else ""
        file.write_text(content)
        plan = copy.snakemake(base, "--dry-run", *config)
        again = "Nothing to be done" not in plan.stdout + plan.stderr
        assert again == (file in beside) and plan.returncode == 0, (file, plan.stdout + plan.stderr)
        assert not again or re.search(r"^train_base +1$", plan.stdout + plan.stderr, re.MULTILINE)
        file.write_text(before)


def test_merged_results_are_taken_also_without_world_and_info_files(copy, tmp_path):
    (copy.root / "results" / "smoke").rename(tmp_path / "smoke")
    merged = copy.run("aqr_bench.cli.main", "merge", str(tmp_path / "smoke"))
    assert merged.returncode == 0 and "8 record files taken" in merged.stdout, merged.stdout + merged.stderr
    assert not (copy.root / "results/smoke/world").exists()
    for folder in ("world", "infos"):
        shutil.rmtree(copy.root / "results/smoke" / folder, ignore_errors=True)
        done, steps = run(copy)
        assert done.returncode == 0 and not {"train", "evaluate", "measure"} & set(steps), (steps, done.stdout)
