"""One batch can be learnt by heart: the whole way from files to nuScenes scores, where nothing may be in the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from aqr_bench.data.__main__ import main as prepare
from aqr_bench.data.dataset import load_data
from aqr_bench.data.infos import INFO_CLASSES, build_infos, open_nuscenes
from aqr_bench.engine.config import build_config
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.engine.train import run_training
from aqr_bench.study.load import load_tier, resolve_condition
from aqr_bench.study.spec import Schedule
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

SPEC = dict(version="v1.0-mini", train_scenes=1, val_scenes=2, frames_per_scene=2, objects_per_frame=24)
PIPELINE = "train_dataloader.dataset.pipeline"


def world_with_every_class(folder: Path) -> Path:
    """The first seed whose four val frames hold every class, well in range and seen by the LiDAR.

    A class without ground truth has AP 0 in nuScenes, which would cap mAP.
    """
    for seed in range(200):
        root = folder / f"seed{seed}"
        write_world(WorldSpec.from_dict(dict(SPEC, seed=seed)), root, quiet=True)
        labels = {
            instance["bbox_label_3d"]
            for info in build_infos(open_nuscenes(root, "v1.0-mini"))["val"]
            for instance in info["instances"]
            if instance["num_lidar_pts"] > 3 and max(map(abs, instance["bbox_3d"][:2])) < 20
        }
        if len(labels) == len(INFO_CLASSES):
            return root
    raise AssertionError("no seed has all classes")


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(tmp_path):
    root = world_with_every_class(tmp_path / "worlds")
    tier = load_tier("quick")
    overrides = {
        "train_dataloader.dataset.ann_file": str(tmp_path / "infos" / "infos_val.pkl"),
        "train_dataloader.batch_size": 4,  # all four frames
        f"{PIPELINE}.7.lidar": 0.0,
        f"{PIPELINE}.7.cameras": 0.0,
        f"{PIPELINE}.8.prob": 0.0,
    }
    tier_file = tmp_path / "overfit.yaml"
    tier_file.write_text(
        yaml.safe_dump(
            dict(
                name="overfit",
                summary="one batch",
                data=dict(kind="synthetic", version="v1.0-mini"),
                world=dict(SPEC),
                model=tier.model,
                base=dict(iterations=500, config=overrides),
                variant=dict(iterations=1, init="base", config={}),
            )
        )
    )
    tier = load_tier(tier_file)
    assert prepare(["--tier", str(tier_file), "--root", str(root), "--out", str(tmp_path / "infos"), "--quiet"]) == 0
    data = load_data(tmp_path / "infos")
    config = build_config(tier, data, 0, tmp_path / "work", None, None)
    result = run_training(config, tier, None)
    checkpoint, facts, curve = result.checkpoint, result.cost, result.curve
    assert facts["iterations"] == 500 and curve[-1][1] < 0.2 * curve[0][1]
    evaluator = Evaluator(config, dataclasses.replace(tier, base=Schedule(1)), data, checkpoint, tmp_path / "out")
    scores, inputs, _ = evaluator.run(resolve_condition("clean"), tmp_path / "out")
    assert inputs["samples"] == 4
    assert scores["mAP"] > 0.9, {name: c["AP_dist"] for name, c in scores["classes"].items()}
    # Headings and velocities too: an axis mixed up on the way would leave mAOE near 1.57 whatever is learnt.
    assert scores["mAOE"] < 0.3 and scores["mAVE"] < 0.5, scores
