"""Augmentation: what a LiDAR point shows stays the same, whatever is turned, scaled, mirrored or cropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints

from aqr_bench.data.bev_image_augmentation import (
    CustomRandomFlip3D,
    GlobalRotScaleTransAll,
    GlobalRotScaleTransImage,
    ImageChange,
    ResizeCropFlipImage,
)
from aqr_bench.errors import UserError

CONF = dict(H=90, W=160, final_dim=(32, 80), resize_lim=(0.47, 0.625), rot_lim=(0.0, 0.0), rand_flip=True)


def frame(seed: int = 0, height: int = 90, width: int = 160) -> dict:
    """Two cameras that look along y and x, smooth images, points and two boxes."""
    rng = np.random.default_rng(seed)
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = [[100.0, 0, width / 2], [0, 100, height / 2], [0, 0, 1]]
    views = []
    for axes in ([[1, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, -1, 0], [0, 0, -1], [1, 0, 0]]):
        extrinsic = np.eye(4)
        extrinsic[:3, :3], extrinsic[:3, 3] = axes, [0.1, 1.5, -0.3]
        views.append(intrinsic @ extrinsic)
    v, u = np.mgrid[:height, :width]
    image = np.stack([u * 1.5, v * 2.5, (u + v) * 0.9], -1).astype(np.float32)
    points = torch.from_numpy(rng.uniform([-15, -15, -2, 0, 0], [15, 15, 1, 1, 1], (400, 5)).astype(np.float32))
    boxes = torch.tensor([[3.0, 12, -1, 4, 2, 1.5, 0.4, 5, 1], [10.0, -2, -1, 1, 1, 2, -2.0, 0, 0]])
    return dict(
        points=LiDARPoints(points, points_dim=5),
        gt_bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9),
        img=[image.copy(), image[::-1].copy()],
        lidar2img=np.stack(views),
    )


def pixels(results: dict, xyz: np.ndarray) -> np.ndarray:
    """[N, P, 3] u, v, depth."""
    seen = np.einsum("nij,pj->npi", results["lidar2img"], np.c_[xyz, np.ones(len(xyz))])[..., :3]
    return np.concatenate([seen[..., :2] / seen[..., 2:], seen[..., 2:]], -1)


def xyz(results: dict) -> np.ndarray:
    return results["points"].tensor[:, :3].numpy().astype(np.float64)


@pytest.mark.parametrize(
    "transform",
    [
        GlobalRotScaleTransAll(rot_range=[-0.785, 0.785], scale_ratio_range=[0.9, 1.1], translation_std=[0.5] * 3),
        CustomRandomFlip3D(1.0, 0.0),
        CustomRandomFlip3D(0.0, 1.0),
        CustomRandomFlip3D(1.0, 1.0),
    ],
    ids=["rotate-scale-shift", "y", "x", "both"],
)
def test_points_stay_at_their_pixels_when_the_world_moves(transform):
    before, after = frame(), frame()
    np.random.seed(3)
    after = transform.transform(after)
    a, b = pixels(before, xyz(before)), pixels(after, xyz(after))
    ahead = a[..., 2] > 1
    np.testing.assert_allclose(a[ahead][:, :2], b[ahead][:, :2], atol=2e-3)
    assert ((a[..., 2] > 0) == (b[..., 2] > 0)).all()
    assert np.abs(xyz(before) - xyz(after)).max() > 0.5
    # Corners of boxes move with the points.
    first, second = (pixels(r, r["gt_bboxes_3d"].corners.numpy().reshape(-1, 3).astype(float)) for r in (before, after))
    for u, w in zip(first.reshape(2, 2, 8, 3), second.reshape(2, 2, 8, 3), strict=True):
        for corners, other in zip(u, w, strict=True):
            if (corners[:, 2] > 1).all():  # a mirror image lists its corners in another order
                order = [row[np.lexsort(row[:, :2].round(2).T)] for row in (corners, other)]
                np.testing.assert_allclose(order[0][:, :2], order[1][:, :2], atol=5e-3)


def test_the_camera_config_turns_boxes_and_cameras_the_same_way():
    before, after = frame(), frame()
    del after["points"]
    np.random.seed(0)
    after = GlobalRotScaleTransImage(rot_range=[0.3, 0.3925], scale_ratio_range=[0.95, 1.05]).transform(after)
    assert "points" not in after
    centres = [r["gt_bboxes_3d"].gravity_center.numpy().astype(float) for r in (before, after)]
    assert np.abs(centres[0] - centres[1]).max() > 1
    a, b = (pixels(r, c) for r, c in zip((before, after), centres, strict=True))
    np.testing.assert_allclose(a[a[..., 2] > 0], np.c_[b[..., :2], b[..., 2:]][b[..., 2] > 0], rtol=1e-3, atol=0.7)
    np.testing.assert_allclose(a[a[..., 2] > 0][:, :2], b[b[..., 2] > 0][:, :2], atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), angle=st.sampled_from([0.0, 7.0]), training=st.booleans())
def test_a_point_shows_the_same_colour_after_the_images_changed(seed, angle, training):
    np.random.seed(seed)
    before = frame(seed)
    transform = ResizeCropFlipImage({**CONF, "rot_lim": (-angle, angle)}, training=training)
    after = transform.transform(frame(seed))
    assert all(image.shape == (32, 80, 3) for image in after["img"]) and after["pad_shape"] == (32, 80)
    a, b = pixels(before, xyz(before)), pixels(after, xyz(after))
    np.testing.assert_allclose(a[..., 2], b[..., 2])
    checked = 0
    for view in range(2):
        # One pixel inside the resized image, and inside the crop by more than the border that a rotation blackens.
        good = (a[view, :, 2] > 0) & (a[view, :, :2] > 3).all(1) & (a[view, :, :2] < [156, 86]).all(1)
        rim = 2 if not training or not angle else 8
        good &= (b[view, :, :2] > rim).all(1) & (b[view, :, :2] < [79 - rim, 31 - rim]).all(1)
        for p in np.flatnonzero(good):
            (u, v), (s, t) = a[view, p, :2].round().astype(int), b[view, p, :2].round().astype(int)
            difference = np.abs(before["img"][view][v, u] - after["img"][view][t, s])
            assert (difference < 9).all(), (a[view, p], b[view, p])  # two pixels of the original at most
            checked += 1
    assert checked > 5


def test_all_views_of_a_sample_change_alike_and_draws_differ():
    np.random.seed(0)
    transform = ResizeCropFlipImage(CONF)
    draws = [transform.draw() for _ in range(200)]
    assert 60 < sum(d.flip for d in draws) < 140
    assert all(d.size == (32, 80) and d.corner[1] == d.resized[1] - 32 for d in draws)  # the bottom rows stay
    ratios = np.array([d.resized[0] / 160 for d in draws])
    assert 0.46 < ratios.min() < 0.49 < 0.6 < ratios.max() <= 0.625
    results = transform.transform(frame())
    change = results["lidar2img"] @ np.linalg.inv(frame()["lidar2img"])
    np.testing.assert_allclose(change[0], change[1], atol=1e-9)


def test_the_test_change_is_fixed_and_centred():
    change = ResizeCropFlipImage({**CONF, "H": 900, "W": 1600, "final_dim": (320, 800)}, training=False).draw()
    assert change == ImageChange(resized=(800, 450), corner=(0, 130), size=(320, 800))


def test_images_of_another_size_are_brought_to_the_one_that_is_configured():
    results = ResizeCropFlipImage(CONF, training=False).transform(frame(height=45, width=80))
    reference = ResizeCropFlipImage(CONF, training=False).transform(frame())
    np.testing.assert_allclose(results["lidar2img"][0][0, 2], reference["lidar2img"][0][0, 2])  # the same centre
    assert results["img"][0].shape == (32, 80, 3)


def test_a_crop_larger_than_the_image_is_black_outside():
    image = np.full((10, 10, 3), 7, np.uint8)
    out = ImageChange(resized=(10, 10), corner=(-3, -5), size=(20, 16)).apply(image)
    assert out.dtype == np.uint8 and (out[5:15, 3:13] == 7).all() and out.sum() == image.sum()


def test_an_empty_scene_moves_too():
    results = frame()
    results["gt_bboxes_3d"] = LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9)
    before = frame()
    np.random.seed(1)
    for transform in (GlobalRotScaleTransAll(), CustomRandomFlip3D(1.0, 1.0)):
        results = transform.transform(results)
    a, b = pixels(before, xyz(before)), pixels(results, xyz(results))
    np.testing.assert_allclose(a[a[..., 2] > 1][:, :2], b[a[..., 2] > 1][:, :2], atol=2e-3)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({**CONF, "resize_limit": (1, 1)}, "unknown key 'resize_limit'; did you mean 'resize_lim'"),
        ({"H": 900, "W": 1600}, "lacks 'final_dim'"),
        ({**CONF, "resize_lim": (2, 1)}, "resize_lim is"),
    ],
)
def test_mistakes_are_reported(conf, message):
    with pytest.raises(UserError, match=message):
        ResizeCropFlipImage(conf)
    with pytest.raises(UserError, match="flip_ratio_bev_vertical is 2"):
        CustomRandomFlip3D(0.5, 2)
