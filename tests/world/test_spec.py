"""What a tier file may say about the world, and how a mistake in it is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqr_bench.errors import UserError
from aqr_bench.study.spec import SPLITS
from aqr_bench.world.spec import LEVELS, OFFICIAL_COUNTS, WorldSpec, official_scenes, read_tier


def test_defaults_are_valid_and_survive_a_round_trip():
    spec = WorldSpec.from_dict({})
    assert spec == WorldSpec()
    assert WorldSpec.from_dict(spec.as_dict()) == spec
    assert WorldSpec.from_dict(spec.as_dict()).sha256 == spec.sha256


def test_every_field_changes_the_identity():
    other = {"version": "v1.0-mini", "train_scenes": 1, "val_scenes": 1, "image_size": [64, 48], "light": [0.7, 0.9]}
    other |= {"dropout": [0, 0.1], "seed": 2, "frames_per_scene": 9, "keyframe_interval_s": 0.25, "beams": 16}
    other |= {"azimuths": 360, "lidar_sweeps": 2, "camera_sweeps": 1, "objects_per_frame": 9, "distractor_ratio": 0}
    other |= {"half_range_m": 30, "night_share": 1, "size_jitter": 0, "max_range_m": 50, "range_noise_m": 0}
    other |= {"jpeg_quality": 80, "level": "hard", "class_mix": "nuscenes", "clutter": 0.1, "dark_share": 0.5}
    other |= {"hidden_share": 0.1, "dusk_share": 0.5, "colour_variation": 2, "half_return_m": 100}
    assert set(other) == set(WorldSpec().as_dict())
    small = {"train_scenes": 1, "val_scenes": 0}
    base = WorldSpec.from_dict(small).sha256
    for key, value in other.items():
        if key != "train_scenes":
            assert WorldSpec.from_dict(small | {key: value}).sha256 != base, key


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_gives_defaults_that_a_tier_may_override(level):
    spec = WorldSpec.from_dict({"level": level, "dropout": [0.05, 0.06]})
    assert spec.dropout == (0.05, 0.06)
    for key, value in LEVELS[level].items():
        assert key == "dropout" or getattr(spec, key) == value
    assert WorldSpec.from_dict(spec.as_dict()) == spec


def test_levels_set_the_same_fields_and_rise():
    easy, normal, hard = (LEVELS[level] for level in ("easy", "normal", "hard"))
    assert set(easy) == set(normal) == set(hard)
    assert WorldSpec.from_dict({"level": "normal"}) == WorldSpec()
    for key in normal:
        assert easy[key] < normal[key] < hard[key], key


def test_the_tiers_of_this_repository_are_read():
    tiers = Path(__file__).parents[2] / "ablations" / "tiers"
    assert [read_tier(path).level for path in sorted(tiers.glob("*.yaml")) if "synthetic" in path.read_text()]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"train_scene": 3}, "unknown key 'world.train_scene'; did you mean 'train_scenes'?"),
        ({3: 3}, "unknown key 'world.3'"),
        ({"seed": -1}, "world.seed must lie in 0"),
        ({"seed": True}, "world.seed must be an integer, got True"),
        ({"seed": "1"}, "world.seed must be an integer, got '1'"),
        ({"frames_per_scene": 1}, "world.frames_per_scene must lie in 2 .. 80, got 1"),
        ({"frames_per_scene": 2.5}, "must be an integer"),
        ({"night_share": 1.5}, "world.night_share must lie in 0 .. 1"),
        ({"night_share": float("nan")}, "world.night_share must lie in 0 .. 1"),
        ({"max_range_m": float("inf")}, "world.max_range_m must lie in"),
        ({"half_range_m": None}, "world.half_range_m must be a number, got None"),
        ({"image_size": 176}, r"world.image_size must be \[width, height\]"),
        ({"image_size": [176, 96, 3]}, r"world.image_size must be \[width, height\]"),
        ({"image_size": [176, 0]}, "world.image_size must lie in"),
        ({"dropout": [0.5, 0.1]}, "low <= high"),
        ({"level": "harder"}, "world.level is 'harder'; it must be one of easy, hard, normal"),
        ({"level": ["hard"]}, "must be one of easy, hard, normal"),
        ({"class_mix": "kitti"}, "must be one of balanced, nuscenes"),
        ({"hidden_share": 0.7}, "world.hidden_share must lie in 0 .. 0.6"),
        ({"version": "v1.0-test"}, "must be one of v1.0-mini, v1.0-trainval"),
        ({"version": ["v1.0-mini"]}, "must be one of v1.0-mini, v1.0-trainval"),
        ({"version": "v1.0-mini", "train_scenes": 9, "val_scenes": 1}, "is 9, but v1.0-mini has only 8"),
        ({"version": "v1.0-mini", "train_scenes": 8, "val_scenes": 3}, "is 3, but v1.0-mini has only 2"),
        ({"train_scenes": 0, "val_scenes": 0}, "nothing to write"),
    ],
)  # fmt: skip
def test_a_bad_value_is_reported_in_one_line_with_its_file(mapping, message):
    with pytest.raises(UserError, match=message) as error:
        WorldSpec.from_dict(mapping, "some.yaml")
    assert str(error.value).startswith("some.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {kind: nuscenes}\nworld: {}", "data.kind must be 'synthetic'"),
        ("data: {kind: synthetic, version: v1.0-mini}", "key 'world' is missing"),
        ("data: {kind: synthetic}\nworld: 3", "'world' must be a mapping"),
        ("data: {kind: synthetic, version: v1.0-mini}\nworld: {version: v1.0-trainval}", "drop the latter"),
        ("data: {kind: synthetic, version: v1.0-mini}\nworld: {}", "world.train_scenes is 150"),
        ("data: [", "not valid YAML"),
        ("- 3", "expected a mapping of keys to values, found list"),
    ],
)
def test_a_bad_tier_file_is_named(tmp_path, text, message):
    path = tmp_path / "tier.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_tier(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_tier_file_is_named(tmp_path):
    with pytest.raises(UserError, match="tier file not found"):
        read_tier(tmp_path / "none.yaml")


def test_a_tier_file_gives_its_version_to_the_world(tmp_path):
    path = tmp_path / "tier.yaml"
    path.write_text(
        "data: {kind: synthetic, version: v1.0-mini}\nworld: {train_scenes: 3, val_scenes: 1, light: [1, 1]}"
    )
    spec = read_tier(path)
    assert (spec.version, spec.train_scenes, spec.light) == ("v1.0-mini", 3, (1.0, 1.0))


@pytest.mark.parametrize("version", SPLITS)
def test_scene_names_are_the_official_ones(version):
    names = official_scenes(version)
    assert (len(names[0]), len(names[1])) == OFFICIAL_COUNTS[version]
    assert not set(names[0]) & set(names[1])
