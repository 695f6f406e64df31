"""Composed corruptions: applied in order, each with its own random numbers; what follows from their parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aqr_bench.corruptions import corrupt, get_composition, get_corruption, probe_frame, sample_fingerprint
from aqr_bench.errors import UserError

BEAMS = {"corruption": "nuscenes_r.beam_reduction", "severity": 2}
DARK = {"corruption": "multicorrupt.dark", "severity": 3}
POSES = {"corruption": "nuscenes_r.extrinsic_noise", "severity": 2}
STUCK = {"corruption": "nuscenes_r.camera_stuck", "severity": 9}
NO_LIDAR = {"corruption": "no_lidar"}


def digest(frame) -> str:
    arrays = [cloud.points for cloud in frame.clouds[1:]] + [view.lidar2img for view in frame.views]
    return sample_fingerprint(frame.clouds[0].points, [view.image for view in frame.views], arrays).sha256


def test_parts_are_applied_in_order_with_the_random_numbers_that_they_have_alone():
    frame = probe_frame()
    parts = [get_corruption(part["corruption"], part["severity"]) for part in (BEAMS, DARK, POSES)]
    expected = frame
    for part in parts:
        expected = corrupt(part, expected, seed=3)
    composed = get_composition([BEAMS, DARK, POSES])
    assert digest(corrupt(composed, frame, seed=3)) == digest(expected) != digest(corrupt(composed, frame, seed=4))
    flipped = get_composition([{"corruption": "multicorrupt.fog", "severity": 3}, BEAMS])
    assert str(flipped) == "composed.multicorrupt.fog@3+nuscenes_r.beam_reduction@2"


def test_options_reach_their_part():
    key_only = {**BEAMS, "options": {"sweeps": "key"}}
    counts = [
        [len(cloud.points) for cloud in corrupt(get_composition([part, DARK]), probe_frame()).clouds]
        for part in (BEAMS, key_only)
    ]
    assert counts[0][0] == counts[1][0] and counts[0][1] < counts[1][1] == 2000


@pytest.mark.parametrize(
    ("parts", "modality", "needs", "removed"),
    [
        ([BEAMS, DARK], "both", {"ring"}, set()),
        ([DARK, POSES], "camera", set(), set()),
        ([BEAMS, POSES], "both", {"ring"}, set()),
        ([STUCK, DARK, NO_LIDAR], "both", {"history"}, {"lidar"}),
        ([NO_LIDAR, {"corruption": "no_cameras"}], "both", set(), {"lidar", "camera"}),
    ],
)
def test_what_follows_from_the_parts(parts, modality, needs, removed):
    composed = get_composition(parts)
    assert composed.modality == modality and needs <= set(composed.needs) and composed.removed_sensors == removed
    assert composed.dropped_sensors == removed


def test_what_cannot_be_composed_is_refused():
    with pytest.raises(UserError, match=r"'multicorrupt.dark@3' is given twice"):
        get_composition([DARK, DARK])
    with pytest.raises(UserError, match=r"'nuscenes_r.camera_stuck@9' shows earlier frames.*Name those .* first"):
        get_composition([DARK, STUCK])
    with pytest.raises(UserError, match=r"has no severity 4"):
        get_composition([DARK, {**BEAMS, "corruption": "multicorrupt.fog", "severity": 4}])


def test_each_modality_is_dropped_by_itself_in_the_share_of_the_frames():
    condition, frame = get_corruption("modality_drop", 3), probe_frame(points=20, size=(4, 8))
    dropped = []
    for number in range(300):
        out = corrupt(condition, replace(frame, token=f"sample{number}"))
        dropped.append([not out.clouds[0].points.any(), not any(view.image.any() for view in out.views)])
    lidar, cameras = np.array(dropped).T
    assert 0.22 < lidar.mean() < 0.38 and 0.22 < cameras.mean() < 0.38
    assert 0.05 < (lidar & cameras).mean() < 0.14  # 0.09: independent of each other
    assert condition.removed_sensors == frozenset() and condition.dropped_sensors == {"lidar", "camera"}
