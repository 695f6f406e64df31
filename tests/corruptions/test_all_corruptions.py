"""What holds for every corruption: pure, seeded per sample, changes something, a clear error on hostile frames."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from corruption_frames import MemoryHistory, make_frame, real_keyframe

from aqr_bench.corruptions import CORRUPTIONS, Frame, FrameError, corrupt, sample_fingerprint
from aqr_bench.corruptions.frame import merged_xyz

EVERY = CORRUPTIONS.every()
CHANGING = [corruption for corruption in EVERY if corruption.modality != "none"]


def frame_hash(frame: Frame) -> str:
    """Fingerprint of all that a frame holds: clouds with their poses, images, calibration."""
    points = np.concatenate([c.points for c in frame.clouds]) if frame.clouds else np.zeros((0, 5), np.float32)
    poses = [c.to_key for c in frame.clouds] + [v.lidar2img for v in frame.views]
    return sample_fingerprint(points, [v.image for v in frame.views], poses).sha256


def with_past(seed=0, **kwargs) -> Frame:
    """The third frame of its scene."""
    frame = make_frame(seed, **kwargs)
    return replace(frame, history=MemoryHistory((frame.token, f"{frame.token}-1", f"{frame.token}-2")))


def with_much(seed=0) -> Frame:
    """A frame with ten sweeps and earlier frames enough, whose boxes hold 60 points or more: a thirtieth is some."""
    frame, rng = make_frame(seed, sweeps=10), np.random.default_rng(seed)
    parts = [frame.clouds[0].points]
    for box in frame.boxes:
        local, (c, s) = rng.uniform(-0.45, 0.45, (60, 3)) * box[3:6], (np.cos(box[6]), np.sin(box[6]))
        xyz = local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + box[:3]
        parts.append(np.concatenate([xyz, rng.integers(0, 256, (60, 1)), rng.integers(0, 32, (60, 1))], 1))
    key = replace(frame.clouds[0], points=np.concatenate(parts).astype(np.float32))
    past = (frame.token, *(f"{frame.token}-{k}" for k in range(1, 12)))
    return replace(frame, clouds=(key, *frame.clouds[1:]), history=MemoryHistory(past))


# So many that a corruption which strikes a tenth of the samples strikes some (0.9^40: 1 in 70 misses all).
MANY = [with_much(seed) for seed in range(40)]


@pytest.mark.parametrize("corruption", EVERY, ids=str)
def test_pure_and_repeatable(corruption):
    frame = with_past()
    before = frame_hash(frame)
    outs = [corrupt(corruption, frame, seed=3) for _ in range(2)]
    assert frame_hash(frame) == before and frame_hash(outs[0]) == frame_hash(outs[1])
    for cloud in outs[0].clouds:
        assert cloud.points.dtype == np.float32 and cloud.points.shape[1] == 5 and np.isfinite(cloud.points).all()
    for view in outs[0].views:
        assert view.image.dtype == np.uint8 and view.image.shape == (18, 32, 3)


@pytest.mark.parametrize("corruption", CHANGING, ids=str)
def test_changes_its_sensors_and_no_other(corruption):
    # Some corruptions strike only a share of the samples.
    assert any(frame_hash(frame) != corrupted_hash(corruption, number) for number, frame in enumerate(MANY))
    for before in MANY[:6]:
        after = corrupt(corruption, before)
        if corruption.modality in ("camera", "calibration"):
            assert after.clouds is before.clouds or np.array_equal(merged_xyz(after), merged_xyz(before))
        if corruption.modality in ("lidar", "calibration"):
            assert all(np.array_equal(a.image, b.image) for a, b in zip(before.views, after.views, strict=True))
        if corruption.modality in ("lidar", "camera"):
            pairs = {v.camera: v.lidar2img for v in before.views}
            assert all(np.array_equal(pairs[v.camera], v.lidar2img) for v in after.views)


@pytest.mark.parametrize("corruption", CHANGING, ids=str)
def test_severities_differ(corruption):
    for other in CORRUPTIONS[corruption.key]:
        if other.severity != corruption.severity:
            pairs = ((corrupted_hash(corruption, k), corrupted_hash(other, k)) for k in range(len(MANY)))
            assert any(one != two for one, two in pairs), other


def corrupted_hash(corruption, number: int) -> str:
    return _corrupted_hash(corruption.key, corruption.severity, number)


@cache
def _corrupted_hash(key: str, severity: int, number: int) -> str:
    return frame_hash(corrupt(CORRUPTIONS.get_corruption(key, severity or None), MANY[number]))


def _frozen(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


HOSTILE = {
    "zero points": with_past(points=0, boxes=0),
    "one point": with_past(points=1, boxes=1),
    "no box": with_past(boxes=0),
    "one-pixel images": with_past(size=(1, 1)),
    "one-row images": with_past(size=(1, 7)),
    "five cameras": with_past(cameras=tuple(v.camera for v in make_frame().views[1:])),
    "no cameras": with_past(cameras=()),
    "no sweeps": with_past(sweeps=0),
    "no LiDAR": replace(with_past(), clouds=()),
    "first frame": make_frame(),
    "no ring": with_past().with_points(lambda c: c.points[:, :4]),
    "xyz alone": with_past().with_points(lambda c: c.points[:, :3]),
    "nan": with_past().with_points(lambda c: np.where(np.arange(5) == 1, np.nan, c.points).astype(np.float32)),
    "huge": with_past().with_points(lambda c: c.points * np.float32(1e6) ** (np.arange(5) < 3).astype(np.float32)),
    "all at the origin": with_past().with_points(lambda c: c.points * (np.arange(5) == 4).astype(np.float32)),
    "read-only": with_past().with_points(lambda c: _frozen(c.points)).with_images(lambda v: _frozen(v.image)),
    "strided": with_past().with_images(lambda v: np.stack([v.image] * 2, -1)[..., 1]),
    "no annotations, no past": replace(make_frame(), boxes=None, history=None),
}


# The severities between the mildest and the strongest differ in numbers alone.
EXTREMES = [entry for entries in CORRUPTIONS.values() for entry in (*entries[:1], *entries[1:][-1:])]


@pytest.mark.parametrize("corruption", EXTREMES, ids=str)
@pytest.mark.filterwarnings("error")
def test_hostile_frames_give_a_result_or_a_clear_error(corruption):
    for hostile, frame in HOSTILE.items():
        try:
            out = corrupt(corruption, frame)
            assert all(np.isfinite(cloud.points).all() for cloud in out.clouds), hostile
        except FrameError as error:
            assert frame.token in str(error), hostile
        except Exception as error:
            raise AssertionError(f"{hostile}: {error!r}") from error


@pytest.mark.parametrize("corruption", [entries[-1] for entries in CORRUPTIONS.values()], ids=str)
def test_on_the_real_keyframe(corruption, keyframe_frame):
    out = corrupt(corruption, keyframe_frame)
    assert all(np.isfinite(cloud.points).all() for cloud in out.clouds)
    assert all(view.image.shape == (900, 1600, 3) for view in out.views)


@pytest.fixture(scope="module")
def keyframe_frame(keyframe):
    return real_keyframe(keyframe)
