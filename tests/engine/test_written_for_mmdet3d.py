"""A written condition evaluated by mmdet3d alone: the detections and scores of the condition as it is applied here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import stock_mmdet3d as stock
import torch
from mmdet3d.registry import MODELS
from worlds import shared_world

from aqr_bench.cli.corruptions import main as corruptions
from aqr_bench.cli.main import main as aqr_bench
from aqr_bench.data.transforms import LoadPoseCorrectedSweeps
from aqr_bench.engine.config import open_config
from aqr_bench.records.record import Record, read_records

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "centerpoint" / "centerpoint_pillar.py"
RANGE = [-32.0, -32.0, -5.0, 32.0, 32.0, 3.0]
STEPS = [
    stock.POINTS,
    stock.SWEEPS,
    {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
    {"type": "Pack3DDetInputs", "keys": ["points"]},
]
ANNOTATED = {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True}
NAMES = ["no_lidar", "fewer_beams", "sector", "motion"]
SUITE = """\
name: written
summary: Conditions of a LiDAR detector.
conditions:
  - {name: clean}
  - {name: no_lidar}
  - {name: fewer_beams, corruption: nuscenes_r.beam_reduction, severity: 2}
  - {name: sector, corruption: nuscenes_r.limited_fov, severity: 2}
  - {name: motion, corruption: nuscenes_c.motion_compensation, severity: 5}
"""
# In one scene of val the car stands still, in the other one it turns.
SPEC = dict(seed=4, train_scenes=1, val_scenes=2, frames_per_scene=2, lidar_sweeps=2, azimuths=360, image_size=[88, 48])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The suite written as roots, and a small CenterPoint with random weights: config.py and model.pth."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "written.yaml").write_text(SUITE)
    train = [stock.POINTS, {**stock.SWEEPS, "test_mode": False}, ANNOTATED, STEPS[2]]
    train.append({"type": "Pack3DDetInputs", "keys": ["points", "gt_bboxes_3d", "gt_labels_3d"]})
    loaders = [
        f"{n}_dataloader = dict(dataset=dict(pipeline={steps}))" for n, steps in (("train", train), ("test", STEPS))
    ]
    (folder / "config.py").write_text("\n".join([f"_base_ = ['{EXAMPLE}']", *loaders]))
    words = ["--root", str(shared_world(**SPEC) / "world"), "--out", str(folder / "roots"), "--sweeps", "9"]
    assert corruptions(["write", str(folder / "written.yaml"), *words, "--quiet"]) == 0
    torch.manual_seed(2)  # one of those whose random weights find something
    torch.save(
        {"state_dict": MODELS.build(open_config(str(folder / "config.py")).model).state_dict()}, folder / "model.pth"
    )
    return folder


def evaluated(folder: Path, work: Path) -> dict[str, tuple[Record, dict]]:
    """Record and detections of each condition, applied as samples are loaded."""
    words = ["--config", str(folder / "config.py"), "--checkpoint", str(folder / "model.pth")]
    words += ["--infos", str(shared_world(**SPEC) / "infos"), "--suite", str(folder / "written.yaml")]
    assert aqr_bench(["evaluate", *words, "--work", str(work), "--out", str(work / "out.jsonl")]) == 0
    records = read_records(work / "out.jsonl")
    files = {record.condition: next(work.rglob(f"{record.condition}/results_nusc.json")) for record in records}
    return {r.condition: (r, json.loads(files[r.condition].read_text())["results"]) for r in records}


def scored_by_mmdet3d(folder: Path, name: str, work: Path) -> tuple[dict, dict]:
    config, root = open_config(str(folder / "config.py")), folder / "roots" / name
    model = MODELS.build(config.model).eval()
    model.load_state_dict(torch.load(folder / "model.pth", weights_only=True)["state_dict"])
    data = stock.dataset(root, stock.convert(root, work), STEPS, config.class_names)
    return stock.evaluate(model, data, work / "detections")


def require_same(ours: dict, theirs: dict, tokens: list[str], atol: float) -> None:
    """Names and attributes are equal, scores up to ``atol``, positions up to 1e-4 m: mmdet3d's poses are float32."""
    for token in tokens:
        sides = [sorted(side[token], key=lambda d: [round(v, 2) for v in d["translation"]]) for side in (ours, theirs)]
        assert len(sides[0]) == len(sides[1]) > 50
        for key in ("detection_name", "attribute_name"):
            assert [d[key] for d in sides[0]] == [d[key] for d in sides[1]], key
        for key, tolerance in {"detection_score": atol, "size": atol, "translation": 1e-4}.items():
            np.testing.assert_allclose(*([d[key] for d in side] for side in sides), rtol=0, atol=tolerance, err_msg=key)


def mmdet3d_motion(self, results):
    """As LoadPoseCorrectedSweeps, with R p + R^T T in the place of R p + T."""
    points = results["points"]
    points.tensor[:, 4] = 0
    merged = [points]
    for cloud in self._sweeps(results):
        array, lidar2sensor = self._remove_close(cloud.points.copy()), np.linalg.inv(cloud.to_key)
        array[:, :3] = array[:, :3] @ lidar2sensor[:3, :3] - lidar2sensor[:3, 3]
        array[:, 4] = results["timestamp"] - cloud.time
        merged.append(points.new_point(array))
    results["points"], results["merged_sweeps"] = points.cat(merged)[:, self.use_dim], self.sweeps_num
    return results


@pytest.mark.slow
def test_mmdet3d_detects_and_scores_the_same(folder, tmp_path, monkeypatch):
    """The same where the car stands still; where it turns, but for mmdet3d's motion of sweeps."""
    corrected = evaluated(folder, tmp_path / "corrected")
    monkeypatch.setattr(LoadPoseCorrectedSweeps, "transform", mmdet3d_motion)
    as_mmdet3d = evaluated(folder, tmp_path / "as_mmdet3d")
    differ = []
    for name in NAMES:
        (tmp_path / name).mkdir()
        scores, theirs = scored_by_mmdet3d(folder, name, tmp_path / name)
        record, detections = as_mmdet3d[name]
        tokens = list(detections)
        require_same(corrected[name][1], theirs, tokens[:2], atol=0.0)
        require_same(detections, theirs, tokens, atol=1e-5)  # its matrices of sweeps are float32
        for key in ("mAP", "NDS"):
            assert record.scores[key] == pytest.approx(scores[key], abs=1e-6)
        differ.append(record.provenance["input_sha256"] != corrected[name][0].provenance["input_sha256"])
    assert differ == [False, True, True, True] and as_mmdet3d["clean"][0].scores["mAP"] > 0
