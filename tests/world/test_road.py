"""The streets: stations and laterals, what keeps to its lane, where junctions and zebra crossings are."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.world.geometry import arc
from aqr_bench.world.road import MAX_CURVATURE, Street, draw_layout


@pytest.mark.parametrize("curvature", [0.0, 1e-7, 0.02, -0.025])
def test_frame_undoes_poses(curvature):
    street = Street(np.array([200.0, 190.0, 2.2]), curvature, 2)
    station, lateral = np.meshgrid(np.linspace(-60, 90, 13), np.linspace(-25, 25, 9))
    back = street.frame(street.poses(station, lateral)[..., :2])
    np.testing.assert_allclose(back[0], station, atol=1e-3)
    np.testing.assert_allclose(back[1], lateral, atol=1e-3)


@pytest.mark.parametrize("curvature", [0.0, 0.02, -0.02])
@pytest.mark.parametrize("oncoming", [False, True])
def test_the_yaw_rate_of_a_lane_keeps_a_car_in_it(curvature, oncoming):
    street = Street(np.array([10.0, -5.0, 0.4]), curvature)
    lateral = 3.6 if oncoming else 0.0
    pose = street.poses(12.0, lateral)
    pose[2] += np.pi * oncoming
    path = arc(pose, 9.0, street.yaw_rate(lateral, 9.0, oncoming), np.linspace(0, 4, 20))
    station, across = street.frame(path[:, :2])
    np.testing.assert_allclose(across, lateral, atol=1e-6)
    assert station[-1] == pytest.approx(12 + (-1 if oncoming else 1) * 36 / (1 - curvature * lateral))


def test_half_of_the_scenes_have_a_crossing_with_the_documented_layout():
    rng = np.random.default_rng(0)
    layouts = [draw_layout(np.array([200, 200, 1.0]), MAX_CURVATURE, 20.0, rng) for _ in range(300)]
    crossings = [layout for layout in layouts if layout.crossing is not None]
    assert 0.4 < len(crossings) / len(layouts) < 0.6
    for layout in crossings:
        street, other = layout.streets
        middle = street.poses(layout.crossing, street.middle)
        station, lateral = other.frame(middle[:2])
        assert (station, lateral) == pytest.approx((0, other.middle), abs=1e-9)
        assert other.start[2] - middle[2] == pytest.approx(np.pi / 2)
        for index, station in layout.zebras:
            assert not layout.in_junction(index, station - 1.5, 0) and not layout.in_junction(index, station + 1.5, 0)
            assert layout.in_junction(index, station, 4.5)
        for index, station in layout.works:
            assert not layout.in_junction(index, np.linspace(station, station + 25, 30), 5).any()
    assert {len(layout.zebras) for layout in layouts} >= {0, 1, 3, 4}
