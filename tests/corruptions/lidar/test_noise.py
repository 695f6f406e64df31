"""Noise and loss of LiDAR points: sigmas, counts, neighbours, angles; nothing but the coordinates changes."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_frames import calibration, make_frame, real_keyframe
from scipy.spatial import cKDTree

from aqr_bench.corruptions import Cloud, Frame, View
from aqr_bench.corruptions.frame import merged_xyz
from aqr_bench.corruptions.lidar import noise


def rng(seed=0):
    return np.random.default_rng(seed)


def cloud(count, seed=0):
    return make_frame(seed, points=count, sweeps=0).clouds[0].points


def shifts(kernel, points, *args):
    """Moves of the points [P, 3]; the other columns must be as they were."""
    out = kernel(points, rng(), *args)
    assert out.dtype == np.float32 and np.array_equal(out[:, 3:], points[:, 3:])
    return out[:, :3].astype(np.float64) - points[:, :3]


def test_gaussian_has_its_sigma_on_every_axis():
    moved = shifts(noise.gaussian, cloud(20_000), 0.1)
    assert np.allclose(moved.std(0), 0.1, rtol=0.03) and np.allclose(moved.mean(0), 0, atol=0.003)
    # Not clipped, not uniform: about 4.6 % lie beyond two sigmas.
    assert (np.abs(moved) > 0.2).mean() == pytest.approx(0.0455, abs=0.005)


def test_uniform_fills_its_interval():
    moved = shifts(noise.uniform, cloud(20_000), 0.06)
    assert np.abs(moved).max() <= 0.06 + 1e-5 and moved.max() > 0.0599 and moved.min() < -0.0599
    assert np.allclose(moved.std(0), 0.06 / np.sqrt(3), rtol=0.03)


@pytest.mark.parametrize(("count", "divisor", "struck"), [(299, 30, 9), (300, 10, 30), (9, 10, 0)])
def test_impulse_strikes_one_point_in_so_many(count, divisor, struck):
    moved = shifts(noise.impulse, cloud(count), divisor, 0.1)
    hit = moved.any(1)
    assert hit.sum() == struck and np.allclose(np.abs(moved[hit]), 0.1, atol=1e-5)
    if struck > 8:  # each axis has its own sign
        assert len({tuple(row) for row in np.sign(moved[hit])}) > 2


def test_crosstalk_moves_a_share_of_all_points_by_metres():
    frame = make_frame(points=25_000, sweeps=2)
    out = noise.crosstalk(frame, rng(), 0.02, 3.0)
    moves = []
    for before, after in zip(frame.clouds, out.clouds, strict=True):
        moves.append(after.points[:, :3].astype(np.float64) - before.points[:, :3])
        assert 400 < moves[-1].any(1).sum() < 600 and np.array_equal(before.points[:, 3:], after.points[:, 3:])
    moved = np.concatenate(moves)
    hit = moved.any(1)
    assert hit.sum() == 1500 and np.allclose(moved[hit].std(0), 3.0, rtol=0.08)
    # 0.4 % of 600 points are two, though of 200 they are none.
    few = noise.crosstalk(make_frame(points=200), rng(), 0.004, 3.0)
    assert (merged_xyz(few) != merged_xyz(make_frame(points=200))).any(1).sum() == 2


def test_thinning_drops_the_exact_share_and_keeps_the_order():
    points = cloud(100).copy()
    points[:, 3] = np.arange(100)
    for share, left in ((0.06, 94), (0.12, 88), (0.3, 70), (1.0, 0), (0.0, 100)):
        out = noise.drop_points(points, rng(), share)
        assert len(out) == left and (np.diff(out[:, 3]) > 0).all()
        assert np.array_equal(out, points[out[:, 3].astype(int)])


def test_shares_are_not_lost_to_rounding():
    assert [noise.share_of(100, share) for share in (0.07, 0.29, 0.57, 0.999)] == [7, 29, 57, 99]
    assert np.array_equal(noise.share_of(np.array([0, 3, 10]), 0.3), [0, 0, 3])


def test_a_patch_is_the_spatial_neighbourhood_across_sweeps_whatever_the_intensity():
    frame = make_frame(points=300, sweeps=2).with_points(lambda c: c.points * np.float32([1, 1, 1, 100, 1]))
    out = noise.cutout(frame, rng(), 1, 0.1)
    before, after = merged_xyz(frame), merged_xyz(out)
    assert len(after) == 810 and all(len(c.points) < 300 for c in out.clouds)
    gone = cKDTree(after).query(before)[0] > 0
    assert gone.sum() == 90
    # Some point that is gone has just the other 89 as its nearest neighbours.
    neighbours = cKDTree(before).query(before[gone], 90)[1]
    assert any(set(row) == set(np.flatnonzero(gone)) for row in neighbours)


def test_patches_are_shares_of_what_there_was_first():
    frame = make_frame(points=500, sweeps=1)
    assert len(merged_xyz(noise.cutout(frame, rng(), 10, 0.02))) == 1000 - 10 * 20
    assert len(merged_xyz(noise.cutout(make_frame(points=5, sweeps=0), rng(), 10, 0.02))) == 5


def ring_of(azimuths_deg):
    """Points at azimuths from ahead (+y), clockwise seen from above, 10 m away."""
    a = np.deg2rad(azimuths_deg)
    return np.stack([10 * np.sin(a), 10 * np.cos(a), 0 * a, 0 * a, 0 * a], 1).astype(np.float32)


def test_field_of_view_is_about_straight_ahead():
    angles = np.arange(-179, 181)
    frame = Frame("t", (Cloud(ring_of(angles)),))
    for half in (105, 90, 75, 60, 45):
        (left,) = noise.limit_fov(frame, half + 0.5).clouds
        assert np.array_equal(left.points, ring_of(np.arange(-half, half + 1)))


def test_field_of_view_is_that_of_the_key_frame_for_sweeps_too():
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]  # the sweep's x axis is the keyframe's y axis
    frame = Frame("t", (Cloud(ring_of(np.arange(4) * 90)), Cloud(ring_of(np.arange(4) * 90), turned)))
    key, sweep = noise.limit_fov(frame, 45.0).clouds
    assert np.array_equal(key.points, ring_of(np.array([0]))) and np.array_equal(sweep.points, ring_of(np.array([90])))


def test_the_blinded_sector_is_the_camera_mask():
    cam2img, lidar2cam = calibration("CAM_FRONT", 90, 160)
    view = View("CAM_FRONT", np.zeros((90, 160, 3), np.uint8), cam2img, lidar2cam)
    frame = make_frame(points=4000, sweeps=1)
    mask = np.zeros((90, 160), bool)
    mask[30:50, 60:110] = True
    out = noise.drop_in_mask(frame, view.lidar2img, mask)
    xyz = merged_xyz(frame)
    at = (view.lidar2img @ np.concatenate([xyz, np.ones((len(xyz), 1))], 1).T).T
    u, v = (at[:, :2] / at[:, 2:3]).T
    in_mask = (u >= 59.5) & (u < 109.5) & (v >= 29.5) & (v < 49.5)
    seen, mirrored = in_mask & (at[:, 2] > 0), in_mask & (at[:, 2] < 0)
    assert seen.sum() > 50 and mirrored.sum() > 10
    assert np.allclose(merged_xyz(out), xyz[~seen])


def test_half_of_the_view_is_lost_on_the_real_keyframe(keyframe):
    frame = real_keyframe(keyframe)
    left = noise.limit_fov(frame, 90.0).clouds[0].points
    assert (left[:, 1] >= 0).all() and len(left) == (frame.clouds[0].points[:, 1] >= 0).sum()
