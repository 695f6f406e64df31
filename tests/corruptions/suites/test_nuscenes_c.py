"""Suite nuscenes_c: the table of the benchmark, which sensors see what, and the same draws for both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from corruption_frames import MemoryHistory, make_frame

from aqr_bench.corruptions import CORRUPTIONS, Frame, FrameError, corrupt, get_corruption, objects
from aqr_bench.corruptions.frame import merged_xyz
from aqr_bench.corruptions.lidar.snow import occupancy, rain_rate
from aqr_bench.study.load import load_suite

SUITE = CORRUPTIONS.every("nuscenes_c")

# The benchmark's table: type -> (what it hits, its severities as the one number or the numbers that change).
TABLE = {
    "snow_scatter": ("both", "snow_mix", (0.8, 0.7, 0.7, 0.65, 0.55)),
    "rain_scatter": ("both", "rate_mm_h", (0.20, 0.73, 1.5625, 3.125, 7.29)),
    "fog": ("both", "alpha_per_m", (0.005, 0.01, 0.02, 0.03, 0.06)),
    "sunlight": ("both", "radius_px", (30, 40, 50, 60, 70)),
    "density_decrease": ("lidar", "share", (0.06, 0.12, 0.18, 0.24, 0.30)),
    "cutout": ("lidar", "patches", (2, 3, 5, 7, 10)),
    "crosstalk": ("lidar", "share", (0.004, 0.008, 0.012, 0.016, 0.020)),
    "fov_lost": ("lidar", "half_angle_deg", (105, 90, 75, 60, 45)),
    "gaussian_lidar": ("lidar", "sigma_m", (0.02, 0.04, 0.06, 0.08, 0.10)),
    "uniform_lidar": ("lidar", "amount_m", (0.02, 0.04, 0.06, 0.08, 0.10)),
    "impulse_lidar": ("lidar", "divisor", (30, 25, 20, 15, 10)),
    "gaussian_camera": ("camera", "sigma", (0.08, 0.12, 0.18, 0.26, 0.38)),
    "uniform_camera": ("camera", "amount", (0.08, 0.12, 0.18, 0.26, 0.38)),
    "impulse_camera": ("camera", "amount", (0.03, 0.06, 0.09, 0.17, 0.27)),
    "motion_compensation": ("lidar", "rotation_sigma_rad", (0.002, 0.004, 0.006, 0.008, 0.010)),
    "moving_object": ("both", "distance_m", (0.2, 0.4, 0.6, 0.8, 1.0)),
    "motion_blur": ("camera", "zoom", (0.02, 0.04, 0.06, 0.08, 0.10)),
    "local_density": ("lidar", "share", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "local_cutout": ("lidar", "share", (0.3, 0.4, 0.5, 0.6, 0.7)),
    "local_gaussian": ("lidar", "sigma_m", (0.02, 0.04, 0.06, 0.08, 0.10)),
    "local_uniform": ("lidar", "amount_m", (0.02, 0.04, 0.06, 0.08, 0.10)),
    "local_impulse": ("lidar", "divisor", (30, 25, 20, 15, 10)),
    "shear": ("both", "coefficient", (0.05, 0.10, 0.15, 0.20, 0.25)),
    "scale": ("both", "camera_amount", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "rotation": ("both", "lidar_angle_deg", (1, 3, 5, 7, 9)),
    "spatial_misalignment": ("calibration", "translation_sigma_m", (0.04, 0.08, 0.12, 0.16, 0.20)),
    "temporal_misalignment": ("both", "sweeps_back", (2, 4, 6, 8, 10)),
}


def test_all_types_and_severities_of_the_table():
    assert [c.name for c in SUITE] == [name for name in TABLE for _ in range(5)]
    for name, (modality, key, numbers) in TABLE.items():
        family = CORRUPTIONS[f"nuscenes_c.{name}"]
        assert [c.severity for c in family] == [1, 2, 3, 4, 5] and {c.modality for c in family} == {modality}
        assert tuple(c.parameters[key] for c in family) == numbers
        assert all(c.deviations and c.source.startswith("nuScenes-C") for c in family)


@pytest.mark.parametrize(("name", "count"), [("nuscenes_c", 136), ("nuscenes_c_3", 28)])
def test_suites_are_clean_and_then_all_types(name, count):
    suite = load_suite(name)
    assert len(suite.conditions) == count and suite.conditions[0].name == "clean"
    wanted = [c for c in SUITE if name == "nuscenes_c" or c.severity == 3]
    given = [(c.name, c.corruption) for c in suite.conditions[1:]]
    assert given == [(f"{c.name}_{c.severity}", c) for c in wanted]


def test_snowfall_is_that_of_the_names_of_the_sources_files():
    rates, parts = [], []
    for condition in CORRUPTIONS["nuscenes_c.snow_scatter"]:
        fall = condition.parameters["snowfall_mm_h"], condition.parameters["terminal_m_s"]
        rates.append(rain_rate(*fall))
        parts.append(occupancy(*fall))
    assert rates == pytest.approx([2.621627, 42.730959, 200.207196, 367.804104, 791.388428], rel=1e-6)
    assert parts == pytest.approx([7.716049e-07, 4.960317e-06, 1.388889e-05, 2.083333e-05, 3.472222e-05], rel=1e-6)


def moved_share(before: Frame, after: Frame) -> float:
    return float((merged_xyz(before) != merged_xyz(after)).any(1).mean())


def test_numbers_reach_the_points():
    frame = make_frame(points=1500)
    total = 4500

    def left(name, severity):
        return len(merged_xyz(corrupt(get_corruption(f"nuscenes_c.{name}", severity), frame)))

    assert [left("density_decrease", s) for s in (1, 5)] == [0.94 * total, 0.7 * total]
    assert [left("cutout", s) for s in (1, 5)] == [total - 2 * 90, total - 10 * 90]
    assert left("fov_lost", 2) == (merged_xyz(frame)[:, 1] >= 0).sum()
    assert moved_share(frame, corrupt(get_corruption("nuscenes_c.crosstalk", 5), frame)) == 0.02
    assert moved_share(frame, corrupt(get_corruption("nuscenes_c.impulse_lidar", 4), frame)) == 1 / 15
    for severity, sigma in ((1, 0.02), (5, 0.1)):
        noisy = corrupt(get_corruption("nuscenes_c.gaussian_lidar", severity), frame)
        assert (merged_xyz(noisy) - merged_xyz(frame)).std() == pytest.approx(sigma, rel=0.03)


def test_sweeps_of_one_sample_are_not_disturbed_alike():
    frame = make_frame()
    frame = replace(frame, clouds=tuple(replace(c, points=frame.clouds[0].points) for c in frame.clouds))
    for name in ("gaussian_lidar", "density_decrease", "motion_compensation"):
        out = corrupt(get_corruption(f"nuscenes_c.{name}", 3), frame)
        assert not np.array_equal(out.clouds[0].points, out.clouds[1].points)


def test_keyframe_only_option():
    frame = make_frame()
    for condition in (c for c in SUITE if c.parameters.get("sweeps") == "all" and c.severity == 5):
        out = corrupt(condition.with_options({"sweeps": "key"}), frame)
        assert all(after is before for after, before in zip(out.clouds[1:], frame.clouds[1:], strict=True))


@pytest.mark.parametrize("name", ["shear", "scale", "rotation"])
def test_both_sensors_see_the_same_change_of_each_box(name, monkeypatch):
    seen = {}

    def points(frame, shapes, fit=False):
        seen["lidar"], seen["fit"] = shapes, fit
        return frame

    def image(view, boxes, shapes):
        seen[view.camera] = shapes
        return view.image

    monkeypatch.setattr(objects, "transform_points", points)
    monkeypatch.setattr(objects, "transform_image", image)
    frame = make_frame(boxes=40)
    corrupt(get_corruption(f"nuscenes_c.{name}", 3), frame)
    lidar, camera = seen["lidar"].linear, seen["CAM_BACK"].linear
    assert seen["fit"] == (name == "shear") and np.array_equal(camera, seen["CAM_FRONT"].linear)
    off = lidar - np.eye(3)
    assert len(np.unique(off.round(9), axis=0)) > 5  # boxes differ
    if name == "shear":
        assert np.array_equal(lidar, camera)
    elif name == "scale":
        assert np.allclose(camera - np.eye(3), off * 0.3 / 0.12)
    else:
        turns = [np.degrees(np.arctan2(m[:, 1, 0], m[:, 0, 0])) for m in (lidar, camera)]
        assert np.array_equal(np.sign(turns[0]), np.sign(turns[1]))
        assert np.allclose((np.abs(turns[0]) - 5) / 1, (np.abs(turns[1]) - 12) / 2)


def test_each_sensor_of_a_weather_is_hit():
    frame = make_frame(points=2000, size=(36, 64))
    for name in ("snow_scatter", "rain_scatter", "fog"):
        out = corrupt(get_corruption(f"nuscenes_c.{name}", 5), frame)
        for before, after in zip(frame.clouds, out.clouds, strict=True):
            assert before.points.shape != after.points.shape or (before.points != after.points).any()
        assert all((a.image != b.image).mean() > 0.5 for a, b in zip(frame.views, out.views, strict=True))
    foggy = [corrupt(get_corruption("nuscenes_c.fog", s), frame).clouds[0].points[:, 3].mean() for s in (1, 5)]
    assert foggy[1] < foggy[0] < frame.clouds[0].points[:, 3].mean()


def test_the_sun_is_in_the_front_camera_and_blinds_the_lidar_there():
    frame = make_frame(points=20_000, sweeps=0, size=(90, 160))
    frame = frame.with_images(lambda view: view.image // 4)
    out = corrupt(get_corruption("nuscenes_c.sunlight", 5), frame)
    for before, after in zip(frame.views, out.views, strict=True):
        assert (before.image != after.image).any() == (before.camera == "CAM_FRONT")
    front = next(view for view in out.views if view.camera == "CAM_FRONT")
    v, u = np.unravel_index(front.image.sum(2).argmax(), (90, 160))
    assert 0.25 * 160 - 8 <= u <= 0.75 * 160 + 8 and 0.30 * 90 - 8 <= v <= 0.45 * 90 + 8
    gone = len(frame.clouds[0].points) - len(out.clouds[0].points)
    assert 0 < gone < 1000
    blind = corrupt(get_corruption("nuscenes_c.sunlight", 5), replace(frame, views=()))
    assert moved_share(frame, blind) == 0.02


def stripes(view, axis, wide=1):
    """Stripes of so many pixels, horizontal (axis 0) or vertical (axis 1)."""
    on = np.arange((90, 160)[axis]) // wide % 2 == 0
    image = np.zeros((90, 160, 3), np.uint8)
    image[(slice(None),) * axis + (on,)] = 250
    return replace(view, image=image)


def test_side_cameras_blur_sideways_and_front_and_back_zoom():
    condition = get_corruption("nuscenes_c.motion_blur", 5)

    def blurred(view):
        return corrupt(condition, Frame("t", views=(view,))).views[0].image

    for view in make_frame(size=(90, 160)).views:
        rows, columns = blurred(stripes(view, 0)), blurred(stripes(view, 1))
        assert columns[:, :8].std() < 40  # of 125: vertical stripes are smeared by both
        if view.camera in ("CAM_FRONT", "CAM_BACK"):
            assert rows[:8].std() < 40
            coarse = blurred(stripes(view, 1, 4))
            assert coarse[:, 72:88].std() > 1.5 * coarse[:, :16].std()  # a zoom blurs least in the middle
        else:
            assert np.array_equal(rows, stripes(view, 0).image)  # horizontal stripes do not change


def test_moving_objects_blur_only_their_outlines():
    frame = make_frame(points=500, size=(90, 160), boxes=20)
    out = corrupt(get_corruption("nuscenes_c.moving_object", 5), frame)
    full_image = corrupt(get_corruption("nuscenes_c.motion_blur", 5), frame)
    shares = []
    for before, after, blurred in zip(frame.views, out.views, full_image.views, strict=True):
        changed = (before.image != after.image).any(2)
        assert np.array_equal(after.image[changed], blurred.image[changed])
        shares.append(changed.mean())
    assert 0 < max(shares) < 0.6 and 0 < moved_share(frame, out) < 0.5


def test_temporal_misalignment_takes_the_past_by_severity():
    frame = make_frame(sweeps=10, points=20)
    frame = replace(frame, history=MemoryHistory((frame.token, *(f"past{k}" for k in range(11)))))
    images = []
    for severity in range(1, 6):
        out = corrupt(get_corruption("nuscenes_c.temporal_misalignment", severity), frame)
        assert [cloud.token for cloud in out.clouds] == [f"sweep{2 * severity}"]
        images.append(out.views[0].image.tobytes())
    assert len(set(images)) == 5


@pytest.mark.parametrize("condition", [c for c in SUITE if c.needs and c.severity == 1], ids=str)
def test_what_is_needed_and_missing_is_named(condition):
    poor = replace(make_frame().with_points(lambda c: c.points[:, :3]), boxes=None, history=None)
    with pytest.raises(FrameError, match=f"token0, corruption '{condition}'.*needs"):
        corrupt(condition, poor)


def test_noise_needs_no_more_than_coordinates():
    poor = make_frame().with_points(lambda c: c.points[:, :3])
    assert corrupt(get_corruption("nuscenes_c.gaussian_lidar", 1), poor).clouds[0].points.shape == (200, 3)
