"""The wiring of a custom model, which is given by path: jobs name its tier and study by their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from checkout import Checkout, copy_repository

CUSTOM = ("--config", "tier=custom/custom_tier.yaml", "studies=custom/custom_study.yaml")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copied repository with a folder of custom files: config, module, tier and study."""
    checkout = Checkout(copy_repository(tmp_path / "checkout"))
    folder = checkout.root / "custom"
    folder.mkdir()
    (folder / "config.py").write_text("model = dict(type='Custom')\n")
    (folder / "detector.py").write_text("WIDTH = 1\n")
    tier = yaml.safe_load((checkout.root / "ablations" / "tiers" / "smoke.yaml").read_text())
    study = yaml.safe_load((checkout.root / "ablations" / "smoke.yaml").read_text())
    study["init"] = "scratch"
    for name, data in (("custom_tier", tier | {"model": "config.py"}), ("custom_study", study)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data | {"name": name}))
    return checkout


def planned(checkout: Checkout, *arguments: str) -> str:
    done = checkout.snakemake("--dry-run", "--printshellcmds", *arguments, *CUSTOM)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_jobs_name_tier_and_study_by_their_files(checkout):
    output = planned(checkout)
    assert "train --tier custom/custom_tier.yaml" in output
    pictures = next(line for line in output.splitlines() if "aqr_bench pictures" in line)
    assert "--study custom/custom_study.yaml" in pictures
    evaluations = [line for line in output.splitlines() if "aqr_bench evaluate" in line]
    assert len(evaluations) == 2 and all("--study custom/custom_study.yaml" in line for line in evaluations)


def test_a_config_that_is_not_there_is_said_before_anything_runs(checkout):
    (checkout.root / "custom" / "config.py").unlink()
    done = checkout.snakemake("--dry-run", *CUSTOM)
    assert done.returncode and "no model config custom/config.py" in done.stdout + done.stderr
