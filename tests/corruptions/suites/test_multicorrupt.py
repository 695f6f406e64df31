"""Suite multicorrupt: the numbers of the table at every severity, draws per sweep and per camera, the scene's start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from corruption_frames import MemoryHistory, make_frame, real_keyframe

from aqr_bench.corruptions import CORRUPTIONS, RandomStream, corrupt, get_corruption
from aqr_bench.corruptions.image import light as image_light
from aqr_bench.corruptions.lidar.noise import motion_noise, tilt
from aqr_bench.errors import UserError


def condition(name, severity, **options):
    return get_corruption(f"multicorrupt.{name}", severity, options)


def with_past(seed=0, **kwargs):
    frame = make_frame(seed, **kwargs)
    return replace(frame, history=MemoryHistory((frame.token, f"{frame.token}-1")))


def moved(before, after):
    return [not np.array_equal(a.points, b.points) for a, b in zip(before.clouds, after.clouds, strict=True)]


def test_ten_types_with_three_severities_each(request):
    names = [key for key in CORRUPTIONS if key.startswith("multicorrupt.")]
    assert len(names) == 10 and all([c.severity for c in CORRUPTIONS[name]] == [1, 2, 3] for name in names)
    both = {name.split(".")[1] for name in names if CORRUPTIONS[name][0].modality == "both"}
    assert both == {"fog", "snow_scatter", "motionblur", "temporalmisalignment"}
    suite = yaml.safe_load((request.config.rootpath / "ablations/conditions/multicorrupt.yaml").read_text())
    listed = [f"{c['corruption']}@{c['severity']}" for c in suite["conditions"][1:]]
    assert sorted(listed) == sorted(str(c) for name in names for c in CORRUPTIONS[name])
    highest = yaml.safe_load((request.config.rootpath / "ablations/conditions/multicorrupt_3.yaml").read_text())
    assert highest["conditions"] == [c for c in suite["conditions"] if c.get("severity") in (None, 3)]


# ---------------------------------------------------------------- LiDAR


@pytest.mark.parametrize(
    ("severity", "rings"), [(1, range(1, 32, 2)), (2, [1, 5, 9, 13, 17, 21, 25, 29]), (3, [1, 9, 17, 25])]
)
def test_beams(severity, rings):
    frame = make_frame(points=800)
    out = corrupt(condition("beamsreducing", severity), frame)
    for before, after in zip(frame.clouds, out.clouds, strict=True):
        assert np.array_equal(after.points, before.points[np.isin(before.points[:, 4], list(rings))])
        assert set(after.points[:, 4]) == set(rings)


@pytest.mark.parametrize(("severity", "left"), [(1, 60), (2, 40), (3, 20)])
def test_points_are_dropped_by_number_and_independently(severity, left):
    frame = make_frame(points=200).with_points(lambda c: np.tile(np.arange(200, dtype=np.float32)[:, None], 5))
    frame = replace(frame, clouds=tuple(replace(c, token=f"s{k}") for k, c in enumerate(frame.clouds)))
    remaining = [cloud.points[:, 0] for cloud in corrupt(condition("pointsreducing", severity), frame).clouds]
    assert [len(k) for k in remaining] == [left] * 3 and all((np.diff(k) > 0).all() for k in remaining)
    assert len({tuple(k) for k in remaining}) == 3


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.06), (2, 0.10), (3, 0.13)])
def test_motion_blur_shifts_each_sweep_and_jitters_each_point(severity, sigma):
    jitters, shifts = [], []
    for seed in range(40):
        frame = make_frame(seed, points=300, size=(1, 1))
        out = corrupt(condition("motionblur", severity), frame)
        for before, after in zip(frame.clouds, out.clouds, strict=True):
            change = (after.points - before.points).astype(float)
            assert not change[:, 3:].any()
            shifts.append(change[:, :3].mean(0))
            jitters.append(change[:, :3] - change[:, :3].mean(0))
    assert np.concatenate(jitters).std(0) == pytest.approx(sigma * np.array([0.15, 0.20, 0.12]), rel=0.03)
    assert np.std(shifts, axis=0) == pytest.approx([sigma] * 3, rel=0.25)
    assert len(np.unique(np.round(shifts, 6), axis=0)) == len(shifts)


def test_jitter_is_bounded():
    points = np.zeros((5000, 5), np.float32)
    change = motion_noise(points, np.random.default_rng(0), 0.1, (0.15, 9.0, 0.12), 3.0)[:, 1]
    assert np.ptp(change) == pytest.approx(0.6, abs=1e-5)


@pytest.mark.parametrize(("angle", "total"), [(1, 1.73), (2, 3.44), (3, 5.15)])
def test_tilt_is_three_turns_and_two_metres(angle, total):
    points = np.concatenate([np.eye(3), np.full((3, 2), 7)], 1).astype(np.float32)
    out = tilt(points, angle, 2.0)
    turn = (out[:, :3].astype(float) - [2, 0, 0]).T
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(total, abs=0.01)
    assert (out[:, 3:] == 7).all()
    # Clockwise about each axis: y turns towards -z, z towards -x, x towards -y.
    assert turn[2, 1] < 0 and turn[0, 2] < 0 and turn[1, 0] < 0


@pytest.mark.parametrize(("severity", "probability"), [(1, 0.2), (2, 0.4), (3, 0.6)])
def test_spatial_misalignment_draws_per_sweep_or_per_sample(severity, probability):
    frames = [make_frame(seed, points=5, size=(1, 1), sweeps=4) for seed in range(80)]
    per_sweep = [moved(f, corrupt(condition("spatialmisalignment", severity), f)) for f in frames]
    assert np.mean(per_sweep) == pytest.approx(probability, abs=0.08)
    assert any(len(set(m)) == 2 for m in per_sweep)
    together = condition("spatialmisalignment", severity, draw="per-sample")
    per_sample = [moved(f, corrupt(together, f)) for f in frames]
    assert all(len(set(m)) == 1 for m in per_sample) and np.mean(per_sample) == pytest.approx(probability, abs=0.2)
    with pytest.raises(UserError, match="per-sweep"):
        corrupt(condition("spatialmisalignment", severity, draw="sweep"), frames[0])


# ---------------------------------------------------------------- previous keyframe


@pytest.mark.parametrize(("severity", "probability"), [(1, 0.2), (2, 0.4), (3, 0.6)])
def test_temporal_misalignment_draws_per_sensor(severity, probability):
    lidar, cameras = [], []
    for seed in range(60):
        frame = with_past(seed, points=5, size=(2, 2))
        out = corrupt(condition("temporalmisalignment", severity), frame)
        lidar.append(moved(frame, out))
        for before, after in zip(frame.views, out.views, strict=True):
            assert np.array_equal(before.lidar2img, after.lidar2img) and before.camera == after.camera
        cameras.append([not np.array_equal(a.image, b.image) for a, b in zip(frame.views, out.views, strict=True)])
    assert all(len(set(m)) == 1 for m in lidar)  # the keyframe goes with its sweeps
    assert np.mean(lidar) == pytest.approx(probability, abs=0.17)
    assert np.mean(cameras) == pytest.approx(probability, abs=0.08) and any(len(set(c)) == 2 for c in cameras)


def test_temporal_misalignment_takes_the_earlier_frame_with_its_lags():
    frame = replace(with_past(), clouds=tuple(replace(c, time=c.time + 0.5) for c in with_past().clouds))
    earlier, views = frame.history.clouds(1), [frame.history.view(1, v.camera) for v in frame.views]
    always = condition("temporalmisalignment", 1, probability=1.0)
    out = corrupt(always, frame)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(out.clouds, earlier, strict=True))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(out.views, views, strict=True))
    assert [frame.clouds[0].time - c.time for c in out.clouds] == pytest.approx([0, 0.02, 0.04])
    assert out.clouds[1].to_key is not None and np.array_equal(out.clouds[1].to_key, earlier[1].to_key)
    key = corrupt(condition("temporalmisalignment", 1, probability=1.0, sweeps="key"), frame)
    assert [len(key.clouds), moved(frame, key)] == [3, [True, False, False]]
    first = make_frame()
    assert corrupt(always, first) is first


# ---------------------------------------------------------------- cameras


@pytest.mark.parametrize(("severity", "probability"), [(1, 0.2), (2, 0.4), (3, 0.6)])
def test_missing_cameras_are_drawn_one_by_one(severity, probability):
    outs = [corrupt(condition("missingcamera", severity), make_frame(seed, size=(2, 2))) for seed in range(80)]
    dark = np.array([[not view.image.any() for view in out.views] for out in outs])
    assert dark.mean() == pytest.approx(probability, abs=0.06) and dark.mean(0) == pytest.approx(probability, abs=0.2)
    assert all((out.state == 2) == row.all() for out, row in zip(outs, dark, strict=True))


@pytest.mark.parametrize(("severity", "add"), [(1, 0.5), (2, 0.6), (3, 0.7)])
def test_brightness_of_version_3(severity, add):
    frame = make_frame()
    out = corrupt(condition("brightness", severity), frame)
    raised = [np.minimum(view.image.max(-1) + 255 * add, 255) for view in frame.views]
    assert all(np.abs(v.image.max(-1) - r).max() < 0.51 for v, r in zip(out.views, raised, strict=True))


def test_numbers_of_dark_fog_snow_and_blur():
    columns = {
        "dark": {"scale": [0.6, 0.4, 0.3], "poisson_lambda": [250, 120, 50], "sigma": [0.008, 0.018, 0.026]},
        "fog": {
            "alpha_per_m": [0.02, 0.03, 0.06],
            "beta_per_m_sr": [0.008, 0.008, 0.05],
            "plasma_amount": [2, 3, 4],
            "haze_per_px": [0.0005, 0.001, 0.002],
        },
        "snow_scatter": {
            "snowfall_mm_h": [0.5, 2.5, 1.5],
            "terminal_m_s": [1.2, 1.6, 0.4],
            "flakes_zoom": [5, 4, 3],
            "flakes_threshold": [0.9, 0.85, 0.8],
            "blur_radius_px": [7, 8, 10],
            "mix": [0.9, 0.85, 0.8],
        },
        "motionblur": {"blur_sigma_px": [6, 10, 13], "sigma_m": [0.06, 0.10, 0.13]},
    }
    for name, table in columns.items():
        for key, values in table.items():
            assert [c.parameters[key] for c in CORRUPTIONS[f"multicorrupt.{name}"]] == values


def test_kernels_get_the_parameters_and_draws_of_the_camera():
    frame, dark = make_frame(), condition("dark", 2)
    stream = RandomStream(0, dark.key, 2)
    for view, out in zip(frame.views, corrupt(dark, frame).views, strict=True):
        rng = stream(frame.token, view.camera)
        assert np.array_equal(out.image, image_light.dark(view.image, rng, 0.4, 2.0, 120.0, 0.018))


@pytest.fixture(scope="module")
def real(keyframe):
    return real_keyframe(keyframe)


def distance(frame):
    return np.linalg.norm(frame.clouds[0].points[:, :3], axis=1)


def contrast(frame):
    return np.mean([view.image.std() for view in frame.views])


def test_fog_on_the_real_keyframe(real):
    outs = [corrupt(condition("fog", severity), real) for severity in (1, 2, 3)]
    # No point is lost; more and more come back from the fog in front of them, none from behind.
    assert all((distance(out) < distance(real) + 1e-3).all() for out in outs)
    assert (np.diff([distance(frame).mean() for frame in (real, *outs)]) < -0.5).all()
    assert all(np.array_equal(out.clouds[0].points[:, 4], real.clouds[0].points[:, 4]) for out in outs)
    assert max(contrast(out) for out in outs) < 0.5 * contrast(real)


def test_snow_on_the_real_keyframe(real):
    outs = [corrupt(condition("snow_scatter", severity), real) for severity in (1, 2, 3)]
    assert all(distance(out).mean() < distance(real).mean() - 1 for out in outs)
    light = [np.mean([view.image.mean() for view in frame.views]) for frame in (real, *outs)]
    assert light == sorted(light) and light[3] > light[0] + 30
