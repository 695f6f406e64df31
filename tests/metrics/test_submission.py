"""The submission equals what mmdet3d's NuScenesMetric writes for the same detections."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from aqr_bench.metrics.submission import sample_detections, write_submission

NAMES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip


def pose(rng):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zyx", rng.uniform([-3, -0.1, -0.1], [3, 0.1, 0.1])).as_matrix()
    matrix[:3, 3] = rng.uniform(-5, 5, 3)
    return matrix


def detections(rng, count=120):
    boxes = rng.uniform([-50, -50, -3, 0.3, 0.3, 0.3, -4, -3, -3], [50, 50, 2, 9, 3, 4, 4, 3, 3], (count, 9))
    boxes[::3, 7:] = rng.uniform(-0.1, 0.1, (len(boxes[::3]), 2))  # standing things
    return boxes.astype(np.float32), rng.random(count).astype(np.float32), rng.integers(0, len(NAMES), count)


def test_equals_mmdet3d(tmp_path):
    from aqr_bench import runtime

    runtime.prepare()
    from mmdet3d.evaluation import NuScenesMetric
    from mmdet3d.structures import LiDARInstance3DBoxes
    from nuscenes.eval.common.config import config_factory

    rng = np.random.default_rng(0)
    lidar2ego, ego2global = pose(rng), pose(rng)
    boxes, scores, labels = detections(rng)
    config = config_factory("detection_cvpr_2019")
    ours = sample_detections("t0", boxes, scores, labels, NAMES, lidar2ego, ego2global, config.class_range)

    metric = NuScenesMetric(data_root="", ann_file="", format_only=True, jsonfile_prefix=str(tmp_path))
    metric.data_infos = [{"token": "t0", "lidar_points": {"lidar2ego": lidar2ego}, "ego2global": ego2global}]
    bottom = boxes.copy()
    bottom[:, 2] -= bottom[:, 5] / 2
    found = {
        "bboxes_3d": LiDARInstance3DBoxes(torch.from_numpy(bottom), 9),
        "scores_3d": torch.from_numpy(scores),
        "labels_3d": torch.from_numpy(labels),
    }
    written = Path(metric._format_lidar_bbox([found], [0], NAMES, str(tmp_path)))
    theirs = json.loads(written.read_text())["results"]["t0"]

    assert 0 < len(ours) < len(boxes) and len(ours) == len(theirs)  # some are out of range
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("sample_token", "detection_name", "attribute_name"):
            assert mine[key] == other[key]
        for key in ("translation", "size", "velocity", "detection_score"):
            assert mine[key] == pytest.approx(other[key], abs=2e-5)
        sign = np.sign(np.dot(mine["rotation"], other["rotation"]))  # q and -q are one rotation
        assert np.multiply(mine["rotation"], sign) == pytest.approx(other["rotation"], abs=1e-6)


def test_nothing_found_is_an_empty_list_and_files_are_whole(tmp_path):
    none = sample_detections(
        "t", np.zeros((0, 9)), np.zeros(0), np.zeros(0, int), NAMES, np.eye(4), np.eye(4), dict.fromkeys(NAMES, 50)
    )
    assert none == []
    path = write_submission(tmp_path / "a" / "results_nusc.json", {"t": none})
    assert json.loads(path.read_text())["results"] == {"t": []}
    assert [p.name for p in path.parent.iterdir()] == ["results_nusc.json"]
