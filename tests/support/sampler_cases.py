"""Configs of the sampler of objects, and small databases and frames by hand."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints

from aqr_bench.data.infos import INFO_CLASSES

# CMT's class order and its group sizes.
CLASSES = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip
GROUPS = dict(zip(CLASSES, (2, 3, 7, 4, 6, 2, 6, 6, 2, 2), strict=True))

# Two cameras at the origin, along LiDAR y and against it; depth is |y|.
AHEAD = np.array([[100.0, 80, 0, 0], [0, 45, -100, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
BEHIND = AHEAD @ np.diag([-1.0, -1.0, 1.0, 1.0])
CAR = [2, 20, -1, 4, 2, 2, 0, 0, 0]
BUS = [-1, -12, -1, 3, 2, 3, 0, 0, 0]


def sampler_config(folder, **changes):
    config = dict(
        info_path=str(folder / "dbinfos_train.pkl"),
        data_root=None,
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict.fromkeys(CLASSES, 5)),
        sample_groups=GROUPS,
        classes=CLASSES,
    )
    return config | changes


def small_config(folder, objects, **changes):
    """Sampler config of a database of (class, box, crop); each object has three points."""
    entries = {name: [] for name in INFO_CLASSES}
    for index, (name, box, crop) in enumerate(objects):
        np.full((3, 5), 0.5, np.float32).tofile(folder / f"{index}.bin")
        if crop is not None:
            cv2.imwrite(str(folder / f"{index}.png"), crop)
        entries[name].append(
            {
                "name": name,
                "path": f"{index}.bin",
                "image_path": f"{index}.png" if crop is not None else "",
                "box3d_lidar": np.array(box, np.float32),
                "num_points_in_gt": 3,
                "difficulty": 0,
            }
        )
    (folder / "dbinfos_train.pkl").write_bytes(pickle.dumps(entries))
    return sampler_config(folder, prepare={}, sample_groups=dict(car=1, bus=1)) | changes


def small_frame(boxes, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return {
        "points": LiDARPoints(torch.from_numpy(rng.uniform(-20, 20, (50, 5)).astype(np.float32)), points_dim=5),
        "img": [rng.integers(0, 255, (90, 160, 3)).astype(dtype) for _ in range(2)],
        "lidar2img": np.stack([AHEAD, BEHIND]),
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 9), box_dim=9),
        "gt_labels_3d": np.full(len(boxes), 8, np.int64),
    }


def state_of(results):
    """Everything that pasting could touch, copied."""
    return {
        "points": results["points"].tensor.numpy().copy(),
        "boxes": results["gt_bboxes_3d"].tensor.numpy().copy(),
        "labels": results["gt_labels_3d"].copy(),
        "img": [image.copy() for image in results["img"]],
        "lidar2img": np.array(results["lidar2img"]),
    }


def equal_states(first, other):
    return all(np.array_equal(first[key], other[key]) for key in first)
