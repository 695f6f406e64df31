"""Objects alone: shares of points per box, transforms in the axes of the box, outlines and warps in the images."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from corruption_frames import calibration, real_keyframe

from aqr_bench.corruptions import Cloud, Frame, View, objects
from aqr_bench.corruptions.frame import merged_xyz
from aqr_bench.corruptions.geometry import box_of_points, corners

YAW = 0.5
BOXES = np.array([[10.0, 2, 0, 4, 2, 1.5, YAW], [-8.0, 20, 1, 9, 3, 3, -2.0], [30.0, 30, 0, 4, 2, 1.5, 0.0]])
COUNTS = (100, 30, 0)  # the third box is empty


def rng(seed=0):
    return np.random.default_rng(seed)


def boxed_frame(sweeps=1) -> Frame:
    """Points spread over two boxes and as many clouds, 50 points elsewhere; column 3 numbers them."""
    draw, parts = rng(5), [np.full((50, 3), [0.0, -40, 0]) + rng(6).normal(size=(50, 3))]
    for box, count in zip(BOXES, COUNTS, strict=True):
        parts.append(placed(draw.uniform(-0.49, 0.49, (count, 3)) * box[3:6], box))
    xyz = np.concatenate(parts)
    points = np.concatenate([xyz, np.arange(len(xyz))[:, None], np.zeros((len(xyz), 1))], 1)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], [3.0, 1, 0]
    clouds = [Cloud(points[:: sweeps + 1].astype(np.float32), token="key")]
    for k in range(1, sweeps + 1):
        part = points[k :: sweeps + 1].copy()
        part[:, :3] = (part[:, :3] - pose[:3, 3]) @ pose[:3, :3]
        clouds.append(Cloud(part.astype(np.float32), pose, -0.05 * k, f"sweep{k}"))
    return Frame("token", tuple(clouds), boxes=BOXES)


def placed(local, box):
    c, s = np.cos(box[6]), np.sin(box[6])
    return local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + box[:3]


def unplaced(xyz, box):
    c, s = np.cos(box[6]), np.sin(box[6])
    return (xyz - box[:3]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def by_number(frame):
    """(numbers [P], xyz [P, 3] in the keyframe), ordered by number."""
    number = np.concatenate([cloud.points[:, 3] for cloud in frame.clouds]).astype(int)
    order = np.argsort(number)
    return number[order], merged_xyz(frame)[order]


def test_points_of_sweeps_belong_to_boxes_of_the_key_frame():
    points = objects.box_points(boxed_frame())
    assert tuple(points.sizes) == COUNTS and np.array_equal(np.bincount(points.owner, minlength=3), COUNTS)


@pytest.mark.parametrize("change", [objects.drop_points, objects.cutout])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_each_box_loses_the_exact_share(change, share):
    frame = boxed_frame()
    numbers, xyz = by_number(change(frame, rng(), share))
    before = by_number(frame)
    assert np.array_equal(numbers[:50], np.arange(50)) and np.allclose(xyz, before[1][numbers])
    owner = box_of_points(xyz, BOXES)
    assert [(owner == box).sum() for box in range(3)] == [100 - round(100 * share), 30 - round(30 * share), 0]


def test_local_cutout_takes_neighbours():
    frame = boxed_frame()
    numbers, _ = by_number(objects.cutout(frame, rng(), 0.3))
    xyz = by_number(frame)[1]
    gone = np.setdiff1d(np.arange(50, 150), numbers)
    distance = np.linalg.norm(xyz[gone][:, None] - xyz[None, 50:150], axis=2)
    near = np.argsort(distance, 1)[:, :30] + 50
    assert any(set(row) == set(gone) for row in near)


def noises(change, *args):
    frame = boxed_frame()
    before, after = by_number(frame), by_number(change(frame, rng(), *args))
    assert np.array_equal(before[0], after[0])
    moved = after[1] - before[1]
    assert np.array_equal(moved[:50], np.zeros((50, 3)))
    return moved[50:]


def test_local_noises_have_their_sizes_and_stay_in_boxes():
    assert noises(objects.gaussian, 0.1).std() == pytest.approx(0.1, rel=0.15)
    even = noises(objects.uniform, 0.06)
    assert 0.055 < np.abs(even).max() <= 0.0601 and even.std() == pytest.approx(0.06 / np.sqrt(3), rel=0.15)
    struck = noises(objects.impulse, 15, 0.1)
    hit = (np.abs(struck) > 0.01).any(1)
    assert hit[:100].sum() == 6 and hit[100:].sum() == 2
    assert np.allclose(np.sort(np.abs(struck[hit])), 0.1, atol=1e-4)


def test_noise_in_every_box_leaves_unboxed_points_bit_for_bit():
    frame = boxed_frame()
    out = objects.gaussian(frame, rng(), 0.1)
    for before, after in zip(frame.clouds, out.clouds, strict=True):
        outside = before.points[:, 3] < 50
        assert np.array_equal(before.points[outside], after.points[outside])
        assert np.array_equal(before.points[:, 3:], after.points[:, 3:])


def test_shears_follow_the_matrix():
    transforms = objects.shears(rng(), 200, 0.15, 0.05)
    free = transforms.linear[:, [2, 0, 2, 0], [0, 1, 1, 2]]
    assert ((np.abs(free) >= 0.1) & (np.abs(free) <= 0.2)).all()
    assert all(0.3 < (free[:, k] > 0).mean() < 0.7 for k in range(4))
    rest = transforms.linear.copy()
    rest[:, [2, 0, 2, 0], [0, 1, 1, 2]] = 0
    assert np.array_equal(rest, np.broadcast_to(np.eye(3), (200, 3, 3))) and not transforms.offset.any()


def test_scales_change_one_axis_and_keep_the_ground():
    boxes = np.repeat(BOXES[:1], 300, 0)
    transforms = objects.scales(rng(), boxes, 0.2)
    factors = np.diagonal(transforms.linear, axis1=1, axis2=2)
    changed = factors != 1
    assert (changed.sum(1) == 1).all() and np.allclose(np.abs(factors[changed] - 1), 0.2)
    assert all(60 < changed[:, k].sum() < 140 for k in range(3)) and 0.4 < (factors[changed] > 1).mean() < 0.6
    ground = np.tile([1.0, 0.5, -0.75], (300, 1))
    assert np.allclose(transforms.apply(ground, np.arange(300))[:, 2], -0.75)


def test_rotations_stay_in_their_interval_about_the_vertical():
    transforms = objects.rotations(rng(), 300, 5, 1)
    ahead = transforms.apply(np.tile([1.0, 0, 2.0], (300, 1)), np.arange(300))
    angle = np.degrees(np.arctan2(ahead[:, 1], ahead[:, 0]))
    assert (np.abs(np.abs(angle) - 5) <= 1 + 1e-9).all() and 0.4 < (angle > 0).mean() < 0.6
    assert np.allclose(ahead[:, 2], 2) and np.allclose(np.hypot(ahead[:, 0], ahead[:, 1]), 1)


def test_points_change_in_the_axes_of_their_box():
    frame = boxed_frame()
    longer = objects.BoxTransforms(np.tile(np.diag([1.2, 1, 1]), (3, 1, 1)), np.tile([0, 0, 0.1], (3, 1)))
    before, after = by_number(frame)[1], by_number(objects.transform_points(frame, longer))[1]
    local, new = unplaced(before[50:150], BOXES[0]), unplaced(after[50:150], BOXES[0])
    assert np.allclose(new, local * [1.2, 1, 1] + [0, 0, 0.1], atol=1e-4)
    assert np.array_equal(after[:50], before[:50])


def test_fitting_presses_points_back_into_the_box():
    frame = boxed_frame()
    sheared = objects.shears(rng(), 3, 0.25, 0.05)
    loose, fitted = (by_number(objects.transform_points(frame, sheared, fit))[1] for fit in (False, True))
    for box, part in ((BOXES[0], slice(50, 150)), (BOXES[1], slice(150, 180))):
        out, fitted_points = (unplaced(xyz[part], box) for xyz in (loose, fitted))
        excess = np.maximum(np.abs(out).max(0) / (box[3:6] / 2), 1)
        assert excess.max() > 1.05 and np.allclose(fitted_points, out / excess, atol=1e-4)


def test_moving_objects_go_along_their_heading_the_rear_third_by_half():
    frame = boxed_frame()
    before, after = by_number(frame)[1], by_number(objects.move_forward(frame, 0.6))[1]
    local, new = unplaced(before[50:150], BOXES[0]), unplaced(after[50:150], BOXES[0])
    assert np.allclose(new - local, np.where(local[:, :1] < -4 / 6, 0.3, 0.6) * [1, 0, 0], atol=1e-4)
    assert 0 < (local[:, 0] < -4 / 6).sum() < 100


# ---------------------------------------------------------------- images


def front_view(image):
    return View("CAM_FRONT", image, *calibration("CAM_FRONT", *image.shape[:2]))


BOX_AHEAD = np.array([[0.0, 12, 0, 4, 2, 2, np.pi / 2]])  # seen from behind, in the middle of the image


def test_outlines_need_all_corners_in_front():
    view = front_view(np.zeros((90, 160, 3), np.uint8))
    shifts = np.array([[0, 12], [0, -12], [0, 3.6], [0, 3.4]])  # the camera is at y = 1.5, half a length is 2 m
    boxes = np.repeat(BOX_AHEAD, 4, 0)
    boxes[:, :2] = shifts
    boxes[:, 4:6] = 0.1
    uv, ahead = objects.project(view, corners(boxes))
    assert list(ahead) == [True, False, True, False] and np.isfinite(uv).all()
    assert uv[0].mean(0) == pytest.approx([80, 45], abs=0.5)


def test_regions_are_clipped_to_the_image():
    image = np.zeros((90, 160, 3), np.uint8)
    assert objects.region(np.array([[-5.0, 3.2], [10.5, 7.0]]), image) == (slice(3, 8), slice(0, 12))
    assert objects.region(np.array([[-9.0, 3], [-5, 7]]), image) is None
    assert objects.region(np.array([[200.0, 3], [300, 7]]), image) is None
    assert objects.region(np.array([[0.0, 0], [5, 5]]), image[:1]) is None


def square_image():
    """The face of the box ahead is white on grey."""
    view = front_view(np.full((180, 320, 3), 100, np.uint8))
    uv, _ = objects.project(view, corners(BOX_AHEAD))
    rows, columns = objects.region(uv[0], view.image)
    image = view.image.copy()
    image[rows, columns] = 255
    return front_view(image), rows, columns


@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_wider_boxes_look_wider_and_narrower_ones_narrower(factor):
    view, _, columns = square_image()
    out = objects.transform_image(
        view, BOX_AHEAD, objects.BoxTransforms(np.diag([1, factor, 1.0])[None], np.zeros((1, 3)))
    )
    white = np.flatnonzero(out[90, :, 0] > 180)
    width = columns.stop - columns.start
    assert len(white) == pytest.approx(factor * width, abs=3) and white.mean() == pytest.approx(160, abs=2)
    assert np.array_equal(out[:40], view.image[:40])  # far above the box nothing changes


def test_boxes_that_keep_their_shape_leave_the_image():
    view, *_ = square_image()
    view = replace(view, image=cv2.GaussianBlur(rng().integers(0, 255, (180, 320, 3), dtype=np.uint8), (5, 5), 0))
    same = objects.BoxTransforms(np.eye(3)[None], np.zeros((1, 3)))
    assert np.abs(objects.transform_image(view, BOX_AHEAD, same).astype(int) - view.image).max() <= 1


def test_blur_stays_within_outlines():
    view, rows, columns = square_image()
    out = objects.blur_objects(view, BOX_AHEAD, np.zeros_like)
    assert not out[rows, columns][2:-2, 2:-2].any()
    inside = np.zeros(out.shape[:2], bool)
    inside[rows, columns] = True
    assert np.array_equal(out[~inside], view.image[~inside])
    behind = BOX_AHEAD * [1, -1, 1, 1, 1, 1, 1]
    assert np.array_equal(objects.blur_objects(view, behind, np.zeros_like), view.image)


def test_on_the_real_keyframe_boxes_hold_points_and_images_change_only_near_boxes(keyframe):
    frame = real_keyframe(keyframe)
    points = objects.box_points(frame)
    assert (points.sizes > 0).sum() > 20
    view = frame.views[0]
    out = objects.transform_image(view, frame.boxes, objects.rotations(rng(), len(frame.boxes), 20, 2))
    changed = (out != view.image).any(2)
    uv, ahead = objects.project(view, corners(frame.boxes))
    assert 100 < changed.sum() < 0.6 * changed.size
    lows, highs = uv[ahead].min(1).min(0), uv[ahead].max(1).max(0)
    rows = np.flatnonzero(changed.any(1))
    assert rows.min() >= lows[1] - 60 and rows.max() <= highs[1] + 60
