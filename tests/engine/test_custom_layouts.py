"""Data sets with files at paths of their own are trained and evaluated on, with the results of nuScenes' layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import import_modules_from_strings
from worlds import in_layout, shared_world

from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.data.__main__ import main as make_infos
from aqr_bench.data.dataset import DataSet, load_data
from aqr_bench.engine.config import base_config
from aqr_bench.engine.train import main as train
from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_tier

SPEC = dict(seed=4, train_scenes=2, val_scenes=1, frames_per_scene=2, lidar_sweeps=2)
# Two iterations, and one condition that reads a sweep of the past.
TIER = {
    "name": "own",
    "summary": "Two iterations on somebody's data.",
    "data": {"kind": "nuscenes", "version": "v1.0-mini"},
    "model": "cmt_aqr_quick",
    "base": {"iterations": 2, "config": {"train_dataloader.batch_size": 2}},
    "variant": {"iterations": 1, "init": "base"},
}
SUITE = {
    "name": "late",
    "summary": "Clean, and a LiDAR that hangs.",
    "conditions": [{"name": "clean"}, {"name": "stuck", "corruption": "multicorrupt.temporalmisalignment@3"}],
}


@pytest.fixture(scope="module")
def standard() -> DataSet:
    return load_data(shared_world(**SPEC) / "infos")


@pytest.fixture(scope="module", params=["lyft", "t4"])
def moved(request, standard, tmp_path_factory) -> DataSet:
    """The same world, with its files elsewhere."""
    folder = tmp_path_factory.mktemp(request.param)
    root = in_layout(standard.root, folder / "root", request.param)
    assert make_infos(["--version", "v1.0-mini", "--root", str(root), "--out", str(folder / "infos"), "--quiet"]) == 0
    return load_data(folder / "infos")


def packed_samples(data: DataSet) -> list[dict]:
    """What the quick tier's pipelines of training and test make of all samples: points (with sweeps) and images."""
    config = base_config(load_tier("smoke"), data)
    import_modules_from_strings(**config.custom_imports)
    init_default_scope("mmdet3d")
    samples = []
    for loader in (config.train_dataloader, config.test_dataloader):
        dataset = DATASETS.build(loader.dataset)
        for index in range(len(dataset)):
            np.random.seed(index)
            torch.manual_seed(index)
            samples.append(dataset[index]["inputs"])
    return samples


@pytest.fixture(scope="module")
def standard_samples(standard) -> list[dict]:
    return packed_samples(standard)


def test_the_loaders_read_the_same_from_every_layout(standard_samples, moved):
    expected, actual = standard_samples, packed_samples(moved)
    assert len(expected) == len(actual) == 6
    for a, b in zip(expected, actual, strict=True):
        assert a.keys() == b.keys() == {"points", "img"}
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert any((sample["points"][:, 4] > 0).any() for sample in expected), "some points are of a sweep"
    assert not torch.equal(expected[0]["img"], expected[-1]["img"])


def trained_and_evaluated(data: DataSet, folder: Path) -> list:
    (folder / "own.yaml").write_text(yaml.safe_dump(TIER | {"data": {**TIER["data"], "root": str(data.root)}}))
    (folder / "late.yaml").write_text(yaml.safe_dump(SUITE))
    words = ["--tier", str(folder / "own.yaml"), "--infos", str(data.infos), "--work", str(folder / "work")]
    assert train([*words, "--seed", "0", "--out", str(folder / "train.jsonl")]) == 0
    words += ["--suite", str(folder / "late.yaml"), "--train", str(folder / "train.jsonl")]
    assert evaluate([*words, "--out", str(folder / "evaluate.jsonl")]) == 0
    return [*read_records(folder / "train.jsonl"), *read_records(folder / "evaluate.jsonl")]


@pytest.fixture(scope="module")
def standard_records(standard, tmp_path_factory) -> list:
    return trained_and_evaluated(standard, tmp_path_factory.mktemp("standard"))


@pytest.mark.slow
def test_a_training_and_its_evaluation_give_the_same_results(standard_records, moved, tmp_path):
    records = trained_and_evaluated(moved, tmp_path)
    assert [record.status for record in records] == ["ok"] * 3
    for expected, actual in zip(standard_records, records, strict=True):
        assert expected.curve == actual.curve and expected.scores == actual.scores
        for key in ("checkpoint_sha256", "input_sha256", "predictions_sha256"):
            assert expected.provenance[key] == actual.provenance[key]
