"""Pasting into images: patches, covering, mixing, by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from sampler_cases import (
    AHEAD,
    BEHIND,
    BUS,
    CAR,
    equal_states,
    small_config,
    small_frame,
    state_of,
)

from aqr_bench.data.gt_sampling import UnifiedObjectSample, paste_crops


def rectangle(box, lidar2img=AHEAD):
    """Slice of a box of yaw 0 in a view of 160 x 90."""
    x, y, z, length, width, height = box[:6]
    corners = [
        [x + a * length, y + b * width, z + c * height, 1] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (0, 1)
    ]
    u, v, depth = (np.array(corners) @ lidar2img.T)[:, :3].T
    assert (depth > 0).all()
    left, right = np.clip([(u / depth).min(), (u / depth).max()], 0, 160).astype(int)
    top, bottom = np.clip([(v / depth).min(), (v / depth).max()], 0, 90).astype(int)
    return np.s_[top:bottom, left:right]


def crop_for(box, lidar2img=AHEAD, seed=1):
    """A random crop of the size of the box's rectangle."""
    rows, columns = rectangle(box, lidar2img)
    size = rows.stop - rows.start, columns.stop - columns.start, 3
    return np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mixup", [-1, 0.5, 0.0, 1.0])
def test_a_patch_appears_at_its_rectangle_in_each_view(tmp_path, mixup, dtype):
    car, bus = crop_for(CAR), crop_for(BUS, BEHIND, seed=2)
    frame = small_frame([], dtype)
    before = state_of(frame)
    config = small_config(tmp_path, [("car", CAR, car), ("bus", BUS, bus)])
    results = UnifiedObjectSample(config, sample_2d=True, mixup_rate=mixup)(dict(frame))
    assert equal_states(before, state_of(frame))
    for view, (crop, where) in enumerate(((car, rectangle(CAR)), (bus, rectangle(BUS, BEHIND)))):
        weight = 1 if mixup < 0 else mixup
        expected = before["img"][view].astype(np.float32)
        expected[where] = (1 - weight) * expected[where] + weight * crop
        if dtype == np.uint8:
            expected = np.rint(expected)
        assert results["img"][view].dtype == dtype
        assert np.array_equal(results["img"][view], expected.astype(dtype))


def test_a_crop_of_another_size_is_resized(tmp_path):
    flat = np.full((50, 70, 3), (10, 20, 30), np.uint8)
    for size in ((50, 70), (5, 7)):
        config = small_config(tmp_path, [("car", CAR, cv2.resize(flat, size))])
        results = UnifiedObjectSample(config, sample_2d=True)(small_frame([]))
        assert (results["img"][0][rectangle(CAR)] == (10, 20, 30)).all()


@pytest.mark.parametrize("mixup", [-1, 0.5])
def test_a_nearer_real_object_keeps_its_pixels(tmp_path, mixup):
    near, far = [2.2, 10, -1, 1, 1, 1.2, 0, 0, 0], [1, 30, -1, 4, 2, 3, 0, 0, 0]
    crop = crop_for(CAR)
    frame = small_frame([near, far])
    results = UnifiedObjectSample(small_config(tmp_path, [("car", CAR, crop)]), sample_2d=True, mixup_rate=mixup)(
        dict(frame)
    )
    old, new = frame["img"][0], results["img"][0]
    masks = {name: np.zeros(old.shape[:2], bool) for name in ("near", "car", "far")}
    for name, box in (("near", near), ("car", CAR), ("far", far)):
        masks[name][rectangle(box)] = True
    covered, free = masks["near"] & masks["car"], masks["car"] & ~masks["near"]
    assert covered.sum() > 20 and free.sum() > 20 and (free & masks["far"]).sum() > 20
    pasted = old.astype(np.float32)
    pasted[rectangle(CAR)] = crop if mixup < 0 else 0.5 * pasted[rectangle(CAR)] + 0.5 * crop
    assert np.array_equal(new[free], np.rint(pasted[free]).astype(np.uint8))
    restored = old[covered] if mixup < 0 else np.rint(0.5 * pasted[covered] + 0.5 * old[covered])
    assert np.array_equal(new[covered], restored)
    assert np.array_equal(new[~masks["car"]], old[~masks["car"]])


def test_nearer_pasted_objects_cover_farther_ones_and_objects_without_pixels_cover_nothing():
    boxes = LiDARInstance3DBoxes(torch.tensor([[2.0, 10, -1, 1, 1, 1, 0], CAR[:7], [2, 5, -1, 2, 1, 2, 0]]))
    crops = [np.full((9, 9, 3), 1, np.uint8), np.full((9, 9, 3), 2, np.uint8), None]
    image = np.zeros((90, 160, 3), np.uint8)
    result = paste_crops(image, AHEAD, boxes.corners.numpy(), crops, -1)
    expected = image.copy()
    expected[rectangle(CAR)] = 2
    expected[rectangle([2, 10, -1, 1, 1, 1])] = 1
    assert np.array_equal(result, expected) and not image.any()
    # No crop in view, or only boxes too small or partly behind: the very same image.
    assert paste_crops(image, BEHIND, boxes.corners.numpy(), crops, -1) is image
    tiny = LiDARInstance3DBoxes(torch.tensor([[0, 150, 0, 1, 1, 1, 0], [0, 0.2, 0, 1, 1, 1, 0]]))
    assert paste_crops(image, AHEAD, tiny.corners.numpy(), crops[:2], 0.5) is image
