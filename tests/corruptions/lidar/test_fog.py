"""Fog on a LiDAR cloud against hand-worked numbers, and on the real keyframe."""

from __future__ import annotations

import numpy as np
import pytest
from lidar_clouds import fate, line, many, rng
from scipy.constants import speed_of_light
from scipy.integrate import quad

from aqr_bench.corruptions.lidar.fog import CROSSING_M, PULSE_S, backscatter, fog, fog_response, transmission
from aqr_bench.corruptions.lidar.optics import ranges

FOG = [(a, backscatter(a), 1.0) for a in (0.005, 0.01, 0.02, 0.03, 0.06)]  # nuScenes-C
FOG_MULTI = [(0.02, 0.008, 10.0), (0.03, 0.008, 10.0), (0.06, 0.05, 10.0)]  # MultiCorrupt


def test_fog_attenuates_by_hand_worked_numbers():
    out = fog(line(10, 50), rng(), 0.02, 0.0, 1e-6, 10.0)  # 100 exp(-0.4) = 67.0, 100 exp(-2) = 13.5
    assert out[:, 3].tolist() == [67.0, 14.0] and np.array_equal(out[:, :3], line(10, 50)[:, :3])
    distance = np.array([5.0, 80.0])
    assert np.allclose(np.log(transmission(0.06, distance)), 2 * np.log(transmission(0.03, distance)))


def test_backscatter_of_the_source():
    # alpha 0.06: meteorological optical range ln 20 / 0.06 = 49.93 m, beta 0.046 / 49.93.
    assert backscatter(0.06) == pytest.approx(9.213e-4, rel=1e-3)


@pytest.mark.parametrize("target", [2.5, 4.0, 30.0])
def test_fog_response_is_the_convolution_in_time(target):
    """The running integral over depth against the paper's integral over time, solved by quadrature at the peak."""
    length, alpha = speed_of_light * PULSE_S, 0.02

    def response(looked_at):
        def integrand(t):
            depth = looked_at - speed_of_light * t / 2
            if not CROSSING_M[0] < depth < target:
                return 0.0
            seen = min((depth - 0.9) / 0.1, 1.0)
            return np.sin(np.pi * t / (2 * PULSE_S)) ** 2 * np.exp(-2 * alpha * depth) * seen / depth**2

        last = min(max(2 * (looked_at - 0.9) / speed_of_light, 0.0), 2 * PULSE_S)
        return quad(integrand, 0, last, limit=400, epsabs=1e-14, points=[last * 0.9])[0]

    table = fog_response(alpha)
    interpolated = np.interp(target, table[0], table[2])
    looked_at = np.linspace(1.0, 9.0, 161)
    values = [response(at) for at in looked_at]
    assert interpolated == pytest.approx(max(values), rel=5e-3)
    peak = looked_at[int(np.argmax(values))] - length / 2
    assert np.interp(target, table[0], table[1]) == pytest.approx(min(max(peak, 0.9), target), abs=0.06)


def test_response_no_longer_depends_on_far_targets():
    for alpha in (0.005, 0.02, 0.06):
        target, appears, response = fog_response(alpha)
        assert response[0] == 0 and (np.diff(response) >= 0).all()
        assert response[-1] == response[np.searchsorted(target, 6.0)] and 1.4 < appears[-1] < 2.0


def test_fog_wins_over_far_targets_and_its_noise_is_the_ratio_of_the_source():
    points = many(60.0, 5000)
    out = fog(points, rng(), 0.06, 0.05, 1e-6, 10.0)  # target: 10 exp(-7.2) rounds to 0
    peak = fog_response(0.06)[1][-1]
    ratio = ranges(out) / peak  # 60 / U(50, 70)
    assert ratio.min() > 60 / 70 - 1e-6 and ratio.max() < 60 / 50 + 1e-6 and ratio.std() > 0.09
    expected = min(10 * 60**2 * 0.05 * np.pi / 1e-6 * fog_response(0.06)[2][-1], 255)
    assert (out[:, 3] == np.rint(expected)).all()
    near = fog(many(4.0, 5000, 1.0), rng(), 0.2, 0.5, 1e-6, 10.0)  # nearer than the noise: the source flies off
    assert (near[:, 1] > 0).all() and ranges(near).max() <= 4.0 and ranges(near).min() < 2.0


@pytest.mark.parametrize("settings", [FOG, FOG_MULTI], ids=["nuScenes-C", "MultiCorrupt"])
def test_thicker_fog_moves_and_dims_more(settings, numbered):
    outs = [fog(numbered, rng(), alpha, beta, 1e-6, noise) for alpha, beta, noise in settings]
    fates = [fate(numbered, out) for out in outs]
    assert all(lost == 0 for lost, _ in fates)
    shares = [moved for _, moved in fates]
    assert shares == sorted(shares) and shares[-1] > 0.15
    far = ranges(numbered) > 5
    means = [out[far & (ranges(out) > 5), 3].mean() for out in outs]
    assert means == sorted(means, reverse=True)
