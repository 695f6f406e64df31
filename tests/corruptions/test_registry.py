"""Registry: names, severities, options; random streams; what is checked before a corruption is applied."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corruption_frames import make_frame

from aqr_bench import corruptions
from aqr_bench.corruptions import CORRUPTIONS, Cloud, Corruption, FrameError, Registry, corrupt, sample_rng
from aqr_bench.errors import UserError


def shift(frame, stream, parameters):
    by = stream(frame.token, "LIDAR_TOP").normal() * parameters["scale_m"]
    return frame.with_points(lambda cloud: cloud.points + np.float32(by))


def entry(name, severity=0, **parameters):
    return Corruption(name, "test", severity, "lidar", "shifts", {"scale_m": 1.0, **parameters}, "-", shift)


SHIFTS = Registry([entry("shift", s, scale_m=float(s)) for s in (1, 2)] + [entry("alone"), entry("key", sweeps="key")])


def test_names_severities_and_options():
    assert SHIFTS.get_corruption("test.shift", 2).parameters["scale_m"] == 2.0
    assert SHIFTS.get_corruption("shift@1").severity == 1 and str(SHIFTS.get_corruption("shift@1")) == "test.shift@1"
    assert SHIFTS.get_corruption("alone", options={"scale_m": 3.0}).parameters["scale_m"] == 3.0
    assert SHIFTS.get_corruption("alone").parameters["scale_m"] == 1.0
    with pytest.raises(TypeError):
        SHIFTS.get_corruption("alone").parameters["scale_m"] = 2.0


@pytest.mark.parametrize(
    ("name", "severity", "options", "message"),
    [
        ("test.shfit", 1, {}, "unknown corruption 'test.shfit'; did you mean 'test.shift'"),
        ("shift", None, {}, "has 2 severities: give one, as in test.shift@1"),
        ("shift", 3, {}, r"no severity 3 \(known: 1, 2\)"),
        ("shift@2", 1, {}, "after @ comes a severity"),
        ("alone", 1, {}, "no severity 1"),
        ("alone", None, {"scale": 1}, "no parameter 'scale'; did you mean 'scale_m'"),
    ],
)
def test_mistakes_are_named(name, severity, options, message):
    with pytest.raises(UserError, match=message):
        SHIFTS.get_corruption(name, severity, options)


def test_key_frame_only_is_a_parameter_of_any_corruption():
    frame = make_frame()
    out = corrupt(SHIFTS.get_corruption("key"), frame)
    assert not np.array_equal(out.clouds[0].points, frame.clouds[0].points)
    for before, after in zip(frame.clouds[1:], out.clouds[1:], strict=True):
        assert after is before


def test_random_streams_depend_on_every_part_of_their_key():
    keys = [(0, "a", 1, "t", "x"), (1, "a", 1, "t", "x"), (0, "b", 1, "t", "x"), (0, "a", 2, "t", "x")]
    keys += [(0, "a", 1, "u", "x"), (0, "a", 1, "t", "y")]
    draws = {sample_rng(*key).integers(0, 2**62) for key in keys}
    assert len(draws) == len(keys)
    assert sample_rng(*keys[0]).integers(0, 2**62) == sample_rng(*keys[0]).integers(0, 2**62)


def cloud_with(column, value):
    points = make_frame().clouds[0].points.copy()
    points[3, column] = value
    return replace(make_frame(), clouds=(Cloud(points, token="key.bin"),))


@pytest.mark.parametrize(
    ("frame", "needs", "message"),
    [
        (cloud_with(0, np.nan), (), "sample token0, .* key.bin: 1 of 200 points"),
        (cloud_with(2, -np.inf), (), "not finite"),
        (cloud_with(3, np.nan), (), "key.bin: 1 of 200 points have a value that is not finite"),
        (cloud_with(4, 0.05), ("ring",), "before sweeps are merged"),
        (cloud_with(4, -1), ("ring",), "ring index in column 4"),
        (replace(make_frame(), boxes=None), ("boxes",), "needs ground-truth boxes"),
        (replace(make_frame(), boxes=np.full((1, 7), np.inf)), ("boxes",), "sample token0, .*box is not finite"),
        (replace(make_frame(), history=None), ("history",), "no 'scene_token'"),
        (make_frame().with_points(lambda c: c.points[:, :4]), ("ring",), "4 columns"),
        (make_frame().with_points(lambda c: c.points[:, :3]), ("intensity",), "3 columns"),
        (make_frame().with_points(lambda c: c.points[:, :2]), (), r"shape \(200, 2\)"),
        (make_frame().with_images(lambda v: v.image[..., 0]), (), r"CAM_FRONT.*expected uint8 \[h, w, 3\]"),
        (make_frame().with_images(lambda v: v.image[:0]), (), "expected uint8"),
        (make_frame().with_images(lambda v: v.image / 2), (), "float64"),
    ],
)
def test_a_frame_that_cannot_be_worked_on_is_named(frame, needs, message):
    with pytest.raises(FrameError, match=message):
        corrupt(replace(entry("alone"), needs=needs), frame)


def test_a_corruption_that_leaves_nan_is_named():
    def spoil(frame, _stream, _parameters):
        return frame.with_points(lambda cloud: cloud.points / np.float32([1, 1, 1, np.nan, 1]))

    with pytest.raises(FrameError, match=r"sample token0, result of corruption 'test.alone', LiDAR .*200 of 200"):
        corrupt(replace(entry("alone"), apply=spoil), make_frame())


def test_every_corruption_is_described():
    for corruption in CORRUPTIONS.every():
        assert corruption.summary and corruption.source and str(corruption).startswith(corruption.key)


def test_names_are_resolved_where_suites_and_pipelines_are_loaded_and_nowhere_else():
    package = Path(corruptions.__file__).parents[1]
    callers = set()
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(ast.parse(path.read_text()))}
        if "get_corruption" in names and room != "corruptions":
            callers.add(room)
    assert callers == {"study", "data"}  # a suite's conditions; SensorCondition and RandomCondition of a config
