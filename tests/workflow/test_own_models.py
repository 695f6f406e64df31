"""The wiring of a model of one's own: found by path, trained anew when its files change, drawn by its own study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from checkout import Checkout, copy_repository

OWN = ("--config", "tier=mine/tier_of_mine.yaml", "studies=mine/study_of_mine.yaml")
BASE = "results/tier_of_mine/base/seed0/train.jsonl"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copied repository with a folder of one's own: config, module, tier and study."""
    checkout = Checkout(copy_repository(tmp_path / "checkout"))
    folder = checkout.root / "mine"
    folder.mkdir()
    (folder / "config.py").write_text("model = dict(type='Mine')\n")
    (folder / "detector.py").write_text("WIDTH = 1\n")
    tier = yaml.safe_load((checkout.root / "ablations" / "tiers" / "smoke.yaml").read_text())
    study = yaml.safe_load((checkout.root / "ablations" / "smoke.yaml").read_text())
    study["init"] = "scratch"
    for name, data in (("tier_of_mine", tier | {"model": "config.py"}), ("study_of_mine", study)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data | {"name": name}))
    return checkout


def planned(checkout: Checkout, *arguments: str) -> str:
    done = checkout.snakemake("--dry-run", "--printshellcmds", *arguments, *OWN)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_changed_file_beside_the_config_trains_anew(checkout):
    done = checkout.snakemake(BASE, *OWN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to be done" in planned(checkout, BASE)
    (checkout.root / "mine" / "detector.py").write_text("WIDTH = 2\n")
    commands = re.findall(r"-m aqr_bench (\w+)", planned(checkout, BASE))
    assert commands[-1] == "train"


def test_jobs_name_tier_and_study_by_their_files(checkout):
    output = planned(checkout)
    assert "train --tier mine/tier_of_mine.yaml" in output
    pictures = next(line for line in output.splitlines() if "aqr_bench pictures" in line)
    assert "--study mine/study_of_mine.yaml" in pictures
    evaluations = [line for line in output.splitlines() if "aqr_bench evaluate" in line]
    assert len(evaluations) == 2 and all("--study mine/study_of_mine.yaml" in line for line in evaluations)


def test_a_config_that_is_not_there_is_said_before_anything_runs(checkout):
    (checkout.root / "mine" / "config.py").unlink()
    done = checkout.snakemake("--dry-run", *OWN)
    assert done.returncode and "no model config mine/config.py" in done.stdout + done.stderr
