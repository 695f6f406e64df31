"""What has to be there before anything runs: here, a GPU for every process of a training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.requirements import missing_inputs, require_gpus, training_processes
from aqr_bench.study.spec import Launcher


def test_the_largest_training_counts_and_weights_taken_over_do_not():
    tier = replace(load_tier("smoke"), launcher=Launcher(8))
    study = load_study("smoke")
    assert training_processes(tier, [study]) == 8
    variants = {name: replace(variant, iterations=0) for name, variant in study.variants.items()}
    idle = replace(study, variants=variants)
    assert training_processes(tier, [idle]) == 8  # of the base model, which the variants start from
    taken_over = replace(tier, base=replace(tier.base, iterations=0, init="published"))
    assert training_processes(taken_over, [idle]) == 1


@pytest.mark.parametrize(("gpus", "visible"), [(1, "1 GPU is visible"), (7, "7 GPUs are visible")])
def test_fewer_gpus_than_processes_are_refused_with_file_and_key(gpus, visible):
    tier = load_tier("paper_train")
    with pytest.raises(
        UserError, match=f"^{tier.path}: launcher.processes: 8 processes need a GPU each, {visible}. Lower"
    ):
        require_gpus(tier, 8, gpus)


@pytest.mark.parametrize("gpus", [0, 8, 9])
def test_enough_gpus_or_none_at_all_are_taken(gpus):
    require_gpus(load_tier("paper_train"), 8, gpus)


def test_tables_in_a_doubled_folder_are_named_before_anything_runs(tmp_path):
    tier = replace(load_tier("mini"), data_root=tmp_path)
    (tmp_path / "v1.0-mini/v1.0-mini").mkdir(parents=True)
    (tmp_path / "v1.0-mini/v1.0-mini/sample_data.json").touch()
    (error,) = missing_inputs(tier)
    assert "data.root: no tables of v1.0-mini in" in error.message and "one folder deeper" in error.message
    assert error.remedy == "Move v1.0-mini/v1.0-mini/ up to v1.0-mini/."
    (tmp_path / "v1.0-mini/v1.0-mini/sample_data.json").rename(tmp_path / "v1.0-mini/sample_data.json")
    assert list(missing_inputs(tier)) == []
