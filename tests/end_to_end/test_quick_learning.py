"""Does the quick tier learn what it should, and nothing else: shuffled labels, and a router that is told the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import DATASETS

from aqr_bench.data.__main__ import main as prepare
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import build_config
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.engine.train import run_training
from aqr_bench.report.routers import load_weights, roc_area
from aqr_bench.study.load import load_study, load_tier, resolve_condition
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

pytestmark = pytest.mark.slow

ITERATIONS = 400


@DATASETS.register_module(force=True)
class OtherTruth(NuScenesDataset):
    """Every sample with the boxes of another one, half the data set away: sensors and labels have nothing in common."""

    def get_data_info(self, idx: int) -> dict:
        info, other = super().get_data_info(idx), super().get_data_info((idx + len(self) // 2) % len(self))
        return info | {key: other[key] for key in ("instances", "ann_info", "eval_ann_info") if key in other}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    tier = yaml.safe_load(load_tier("quick").path.read_text()) | {"name": "short"}
    tier["world"] |= {"train_scenes": 120, "val_scenes": 16}
    del tier["pretrain"]
    tier["base"] = {"iterations": ITERATIONS, "config": {"train_dataloader.batch_size": 4}}
    (folder / "short.yaml").write_text(yaml.safe_dump(tier))
    write_world(WorldSpec.from_dict(tier["world"] | {"version": "v1.0-trainval"}), folder / "world", workers=2)
    command = ["--tier", str(folder / "short.yaml"), "--root", str(folder / "world"), "--out", str(folder), "--quiet"]
    assert prepare(command) == 0
    return folder


def trained(place: Path, name: str, **changed) -> tuple:
    tier, data = load_tier(place / "short.yaml"), load_data(place)
    config = build_config(tier, data, 0, place / name, None, None)
    config.train_dataloader.dataset.update(changed)
    return config, tier, data, run_training(config, tier).checkpoint


@pytest.fixture(scope="module")
def base(place) -> tuple:
    return trained(place, "base")


def score(config, tier, data, checkpoint, out: Path) -> float:
    return Evaluator(config, tier, data, checkpoint, out).run(resolve_condition("clean"), out)[0]["mAP"]


def test_shuffled_labels_teach_nothing(place, base):
    honest = score(*base, place / "honest")
    shuffled = score(*trained(place, "shuffled", type="OtherTruth"), place / "other")
    assert honest > 0.05, "the control has to learn, or the test says nothing"
    assert shuffled < 0.01


def test_a_supervised_router_sees_which_sensor_is_missing(place, base):
    """Its weights tell clean input from input without the sensor: area under the ROC curve of 0.9 at least."""
    _, tier, data, checkpoint = base
    config = build_config(tier, data, 0, place / "router", load_study("router"), "supervised")
    config.train_dataloader.batch_size = 4
    after = run_training(config, tier, [checkpoint]).checkpoint
    evaluator = Evaluator(config, tier, data, after, place / "routed")
    weights = {}
    for name in ("clean", "no_lidar", "no_cameras"):
        evaluator.run(resolve_condition(name), place / "routed" / name)
        weights[name] = load_weights(place / "routed" / name / "router.npz")
    areas = [roc_area(weights["clean"][:, i], weights[name][:, i]) for i, name in ((0, "no_lidar"), (1, "no_cameras"))]
    assert min(areas) >= 0.9, areas
    assert np.median(weights["no_lidar"][:, 0]) < 0 < np.median(weights["clean"][:, 0])
