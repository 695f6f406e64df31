"""Weather on a LiDAR cloud: fog, snow, rain and wet ground against hand-worked numbers, on made-up and real clouds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from corruption_frames import make_cloud, real_keyframe
from scipy.constants import speed_of_light
from scipy.integrate import quad

from aqr_bench.corruptions.lidar.fog import CROSSING_M, PULSE_S, backscatter, fog, fog_response, transmission
from aqr_bench.corruptions.lidar.mie import rain_extinction
from aqr_bench.corruptions.lidar.optics import MIN_INTENSITY_PER_M2, ranges
from aqr_bench.corruptions.lidar.rain import rain, range_noise
from aqr_bench.corruptions.lidar.snow import flakes, occupancy, rain_rate, snow
from aqr_bench.corruptions.lidar.wet_ground import ground_plane, wet_gain, wet_ground

FOG = [(a, backscatter(a), 1.0) for a in (0.005, 0.01, 0.02, 0.03, 0.06)]  # nuScenes-C
FOG_MULTI = [(0.02, 0.008, 10.0), (0.03, 0.008, 10.0), (0.06, 0.05, 10.0)]  # MultiCorrupt
SNOW = [(0.5, 1.2), (2.5, 1.6), (1.5, 0.4)]
WEATHER = {
    "fog": lambda points, rng: fog(points, rng, 0.06, 0.05, 1e-6, 10.0),
    "snow": lambda points, rng: snow(points, rng, 2.5, 0.2),
    "rain": lambda points, rng: rain(points, rng, 7.29),
    "wet ground": lambda points, rng: wet_ground(points, rng, 1.2, 0.7),
}


def line(*distances, intensity=100.0):
    """Points straight ahead at these distances; column 4 numbers them."""
    points = np.zeros((len(distances), 5), np.float32)
    points[:, 1], points[:, 3], points[:, 4] = distances, intensity, np.arange(len(distances))
    return points


def many(distance, count=4000, intensity=10.0):
    return line(*[distance] * count, intensity=intensity)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def numbered(keyframe):
    """The real keyframe's points; column 4 numbers them, so that those left can be found again."""
    points = real_keyframe(keyframe).clouds[0].points.copy()
    points[:, 4] = np.arange(len(points))
    return points


def fate(before, after):
    """(part lost, part moved by more than half a metre)."""
    kept = after[:, 4].astype(int)
    moved = np.abs(ranges(after) - ranges(before)[kept]) > 0.5
    return 1 - len(after) / len(before), moved.sum() / len(before)


# ---------------------------------------------------------------- all weather


@pytest.mark.parametrize("name", WEATHER)
@pytest.mark.filterwarnings("error")
def test_hostile_clouds(name):
    cloud = make_cloud(rng(), 300).points
    for points in (cloud[:0], cloud[:1], cloud * 0, cloud * np.float32([1e6, 1e6, 1e6, 1, 1]), cloud[:, :4]):
        given = points.copy()
        given.flags.writeable = False
        out = WEATHER[name](given, rng())
        assert out.dtype == np.float32 and out.shape[1] == points.shape[1] and len(out) <= len(points)
        assert np.isfinite(out).all() and not np.shares_memory(out, given)
        assert out[:, 3].min(initial=0) >= 0 and out[:, 3].max(initial=0) <= 255


@pytest.mark.parametrize("name", WEATHER)
def test_points_move_along_their_ray_and_not_behind_the_target(name, numbered):
    out = WEATHER[name](numbered, rng())
    kept = out[:, 4].astype(int)
    assert (np.diff(kept) > 0).all() and not np.array_equal(out, numbered[kept])
    before, after = ranges(numbered)[kept], ranges(out)
    far = (before > 1) & (after > 0.5)
    direction = out[far, :3] / after[far, None] - numbered[kept][far, :3] / before[far, None]
    assert np.abs(direction).max() < 1e-5
    spread = 5 * 0.09 / np.sqrt(2 * 0.9) if name == "rain" else 1e-4
    assert (after - before).max() < spread
    assert np.array_equal(out[:, 3], np.rint(out[:, 3]))


@pytest.mark.parametrize("name", WEATHER)
def test_the_same_draws_give_the_same_points(name):
    points = make_cloud(rng(), 5000).points
    assert np.array_equal(WEATHER[name](points, rng(1)), WEATHER[name](points, rng(1)))
    assert np.array_equal(WEATHER[name](points, rng(1)), WEATHER[name](points, rng(2))) == (name == "wet ground")


def test_no_weather_changes_nothing():
    points = make_cloud(rng(), 500).points
    clear = (
        fog(points, rng(), 0.0, 0.0, 1e-6, 10.0),
        snow(points, rng(), 0.0, 1.2),
        rain(points, rng(), 0.0),
        wet_ground(points, rng(), 0.0, 0.7),
    )
    for out in clear:
        assert np.array_equal(out, points) and out is not points


# ---------------------------------------------------------------- fog


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
    found = np.interp(target, table[0], table[2])
    looked_at = np.linspace(1.0, 9.0, 161)
    values = [response(at) for at in looked_at]
    assert found == pytest.approx(max(values), rel=5e-3)
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


# ---------------------------------------------------------------- snow


@pytest.mark.parametrize(
    ("pair", "rate", "share"),
    [
        ((0.5, 1.2), 4.8162, 1.1574e-6),
        ((2.5, 1.6), 34.975, 4.3403e-6),
        ((1.5, 0.4), 130.04, 1.04167e-5),
        ((0.5, 1.8), 2.6216, 7.716e-7),  # the five of nuScenes-C, by the names of its flake files
        ((2.5, 1.4), 42.731, 4.9603e-6),
        ((1.0, 0.2), 200.21, 1.38889e-5),
        ((1.5, 0.2), 367.80, 2.08333e-5),
        ((2.5, 0.2), 791.39, 3.47222e-5),
    ],
)
def test_rain_rate_and_occupancy_of_the_reference(pair, rate, share):
    assert rain_rate(*pair) == pytest.approx(rate, rel=1e-4)
    assert occupancy(*pair) == pytest.approx(share, rel=1e-4)


def test_light_taken_by_flakes_has_a_closed_form():
    # Without a largest flake: volume pi N0 / Lambda^4, area pi N0 / (2 Lambda^3), so occupancy Lambda / 2.
    law, per_m = flakes(0.5, 1.2)
    assert law.slope_per_mm == pytest.approx(2.55 * 4.8162**-0.48, rel=1e-4)
    assert per_m == pytest.approx(1.1574e-6 * law.slope_per_mm * 1e3 / 2, rel=1e-3)
    assert law.per_m3_mm == pytest.approx(1.1574e-6 * (1e3 * law.slope_per_mm) ** 4 / np.pi * 1e-3, rel=1e-3)


def test_snow_dims_a_bright_target_by_what_flakes_take():
    points = many(30.0, 20_000, 255.0)
    out = snow(points, rng(), 1.5, 0.4)
    seen = np.isclose(ranges(out), 30.0)
    # exp(-30 m * 1.54e-3 / m) = 0.955; flakes that win are left out, so the mean is a little higher.
    assert seen.mean() > 0.9 and 0.95 < out[seen, 3].mean() / 255 < 0.97


def test_a_flake_wins_where_it_returns_more_than_the_target():
    out = snow(many(30.0, 20_000, 10.0), rng(), 1.5, 0.4)
    flake = ranges(out) < 29
    assert flake.mean() > 0.2 and ranges(out)[flake].min() >= 1.0
    power = (out[flake, 3] + 0.5) / ranges(out)[flake] ** 2
    assert (power > 10 * 0.5 / 30**2).all() and out[flake, 3].max() <= 230
    assert snow(many(0.5, 2000), rng(), 1.5, 0.4)[:, 1].min() == 0.5  # no flake is seen nearer than 1 m


def test_heavier_snow_spoils_more(numbered):
    extinction = [flakes(*pair)[1] for pair in SNOW]
    assert extinction == sorted(extinction)
    spoiled = [np.mean([sum(fate(numbered, snow(numbered, rng(s), *pair))) for s in range(4)]) for pair in SNOW]
    assert 0.05 < spoiled[0] < spoiled[2] < 0.2
    published = [(0.5, 1.8), (2.5, 1.4), (1.0, 0.2), (1.5, 0.2), (2.5, 0.2)]
    spoiled = [sum(fate(numbered, snow(numbered, rng(), *pair))) for pair in published]
    assert spoiled == sorted(spoiled)


# ---------------------------------------------------------------- rain


def test_rain_attenuates_and_its_ranges_get_worse_with_distance():
    alpha = rain_extinction(50.0)
    for distance in (20.0, 60.0):
        out = rain(many(distance, 5000, 200.0), rng(), 50.0)
        seen = np.abs(ranges(out) - distance) < 1
        target = 200 * np.exp(-2 * alpha * distance)
        assert (out[seen, 3] == np.rint(target)).all()
        sigma = 0.09 / np.sqrt(2 * target / (MIN_INTENSITY_PER_M2 * distance**2))
        assert (ranges(out)[seen] - distance).std() == pytest.approx(sigma, rel=0.05)
        assert range_noise(np.array([target]), np.array([distance])) == pytest.approx(sigma)


def test_weak_targets_are_lost_in_rain_and_none_without_attenuation():
    # At 60 m the weakest registered intensity is 0.003 * 3600 = 10.8; at 50 mm/h 11 becomes 11 * 0.597 < 0.9 * 10.8.
    left = rain(many(60.0, 1000, 11.0), rng(), 50.0)
    assert 100 < len(left) < 400 and ranges(left).max() < 10  # what is left are drops
    assert len(rain(many(60.0, 1000, 30.0), rng(), 50.0)) == 1000


def test_more_rain_spoils_more(numbered):
    spoiled = [sum(fate(numbered, rain(numbered, rng(), rate))) for rate in (0.2, 0.73, 1.5625, 3.125, 7.29)]
    assert spoiled == sorted(spoiled) and spoiled[0] > 0 and spoiled[-1] < 0.05


# ---------------------------------------------------------------- wet ground


def road(slope=0.0, count=4000):
    draws = rng()
    xy = draws.uniform(-40, 40, (count, 2))
    z = -1.84 + slope * xy[:, 1] + draws.normal(0, 0.02, count)
    high = np.column_stack([draws.uniform(-40, 40, (count // 3, 2)), draws.uniform(-1, 3, count // 3)])
    xyz = np.concatenate([np.column_stack([xy, z]), high])
    number = np.arange(len(xyz))
    return np.column_stack([xyz, np.full(len(xyz), 20.0), number]).astype(np.float32)


def test_road_is_found_on_a_slope_and_on_the_real_keyframe(numbered):
    for slope in (0.0, 0.01):
        assert np.allclose(ground_plane(road(slope)), (0, slope, -1.84), atol=[0.002, 0.002, 0.02])
    a, b, c = ground_plane(numbered)
    assert abs(a) < 0.05 and abs(b) < 0.05 and -2.0 < c < -1.7
    assert ground_plane(numbered[:10]) == (0.0, 0.0, -1.84)


def test_wet_gain_by_hand():
    # Straight down: R = (0.3297 / 2.3303)^2 = 0.0200, (1 - R)^2 / (1 - R / 15) = 0.9616; flat: everything is reflected.
    gain = wet_gain(np.array([1.0, 0.0, 0.1]), 1.2)
    assert gain[0] == pytest.approx(0.9616, abs=5e-4) and gain[1] == 0
    assert wet_gain(np.array([0.1]), 0.6) == pytest.approx(0.5 + 0.5 * gain[2])
    brewster = np.cos(np.arctan(1.33 / 1.0003))
    assert wet_gain(np.array([brewster]), 5.0) == pytest.approx(1.0)


def test_only_the_road_gets_wet_and_more_water_takes_more():
    points = road()
    outs = [wet_ground(points, rng(), depth, 0.7) for depth in (0.2, 0.6, 1.2)]
    high = points[:, 2] > -1.4
    for out in outs:
        assert np.array_equal(out[out[:, 2] > -1.4], points[high])
    lost = [1 - len(out) / len(points) for out in outs]
    assert lost == sorted(lost) and lost[0] < 0.01 and lost[-1] > 0.2
    assert len(wet_ground(points, rng(), 1.2, 0.1)) > len(outs[-1])


def test_ring_and_further_columns_stay():
    points = np.column_stack([make_cloud(rng(), 2000).points, np.full(2000, 7)]).astype(np.float32)
    points[:, 4] = np.arange(2000)
    for weather in (*WEATHER.values(), partial(rain, rate_mm_h=30.0)):
        out = weather(points, rng())
        assert np.isin(out[:, 4], points[:, 4]).all() and (out[:, 5] == 7).all()
