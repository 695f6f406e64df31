"""What a synthetic world is made of: one frozen, checked set of numbers, read from a tier file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, nearest, quoted, require_file, short
from aqr_bench.study.schema import read_yaml
from aqr_bench.study.spec import SPLITS
from aqr_bench.world.custom_classes import class_hashes, classes_with

GENERATOR_VERSION = "2"  # raise it whenever the same spec would give other bytes


# What a level of difficulty sets unless the tier says otherwise; "normal" are the defaults of the fields below.
LEVELS: dict[str, dict[str, Any]] = {
    "easy": {
        "clutter": 0.3,
        "distractor_ratio": 0.2,
        "dark_share": 0.0,
        "hidden_share": 0.0,
        "night_share": 0.0,
        "dusk_share": 0.0,
        "colour_variation": 0.5,
        "dropout": (0.0, 0.1),
    },
    "normal": {
        "clutter": 0.6,
        "distractor_ratio": 0.45,
        "dark_share": 0.12,
        "hidden_share": 0.08,
        "night_share": 0.12,
        "dusk_share": 0.12,
        "colour_variation": 1.0,
        "dropout": (0.1, 0.3),
    },
    "hard": {
        "clutter": 0.9,
        "distractor_ratio": 0.7,
        "dark_share": 0.3,
        "hidden_share": 0.2,
        "night_share": 0.3,
        "dusk_share": 0.2,
        "colour_variation": 1.8,
        "dropout": (0.2, 0.5),
    },
}
# Scenes for training and for evaluation in the official splits. Reading them from the devkit takes seconds.
OFFICIAL_COUNTS = {"v1.0-trainval": (700, 150), "v1.0-mini": (8, 2)}
_CHOICES = {"version": tuple(SPLITS), "level": tuple(LEVELS), "class_mix": ("balanced", "nuscenes")}

# Inclusive limits of every number; a pair is checked element by element.
_LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "train_scenes": (0, 700),
    "val_scenes": (0, 150),
    "frames_per_scene": (2, 80),
    "keyframe_interval_s": (0.1, 2.0),
    "image_size": (16, 4096),
    "beams": (2, 256),
    "azimuths": (32, 8192),
    "lidar_sweeps": (0, 19),
    "camera_sweeps": (0, 9),
    "objects_per_frame": (1, 80),
    "distractor_ratio": (0, 3),
    "half_range_m": (12, 120),
    "clutter": (0, 1),
    "dark_share": (0, 1),
    "hidden_share": (0, 0.6),
    "night_share": (0, 1),
    "dusk_share": (0, 1),
    "rain_share": (0, 1),
    "colour_variation": (0, 3),
    "light": (0.2, 2),
    "size_jitter": (0, 0.4),
    "max_range_m": (10, 200),
    "range_noise_m": (0, 0.5),
    "dropout": (0, 0.95),
    "half_return_m": (5, 10_000),
    "jpeg_quality": (30, 100),
}
_INTEGER = {"seed", "train_scenes", "val_scenes", "frames_per_scene", "image_size", "beams", "azimuths"} | {
    "lidar_sweeps",
    "camera_sweeps",
    "jpeg_quality",
}
_PAIRS = {"image_size": "[width, height]", "light": "[low, high]", "dropout": "[low, high]"}


@dataclass(frozen=True)
class WorldSpec:
    """Everything that decides the bytes of a world. Lengths in metres, times in seconds.

    ``lidar_sweeps`` and ``camera_sweeps`` count the extra recordings in the interval before each keyframe.
    ``objects_per_frame`` is the mean number of annotated boxes with ``|x|, |y| <= half_range_m`` around the LiDAR,
    ``distractor_ratio`` the number of unlabelled solids in that range as a share of it.
    ``clutter`` (0 .. 1) is how built-up and overgrown the roadside is, ``dark_share`` the share of vehicles that
    reflect almost no LiDAR light, ``hidden_share`` that of standing objects put behind something on purpose.
    ``night_share`` and ``dusk_share`` are shares of scenes (the night's comes first if they exceed 1 together).
    ``rain_share`` is the share of scenes in the rain, by day or night; streets and objects are those of the dry scene.
    ``light`` is the range of a scene's brightness by day, ``dropout`` that of its share of lost LiDAR returns;
    ``half_return_m`` is the range at which a surface of reflectance 10 of 255, met head-on, returns half the pulses.
    ``classes``: object classes of the user beside the ten that ship, by name, see ``custom_classes``.
    ``level`` gives the defaults in ``LEVELS``: use ``from_dict``, the constructor does not look at it.
    """

    seed: int = 1
    level: str = "normal"
    class_mix: str = "balanced"
    classes: tuple[str, ...] = ()
    version: str = "v1.0-trainval"
    train_scenes: int = 150
    val_scenes: int = 24
    frames_per_scene: int = 8
    keyframe_interval_s: float = 0.5
    image_size: tuple[int, int] = (176, 96)
    beams: int = 32
    azimuths: int = 720
    lidar_sweeps: int = 1
    camera_sweeps: int = 0
    objects_per_frame: float = 20.0
    distractor_ratio: float = 0.45
    half_range_m: float = 38.4
    clutter: float = 0.6
    dark_share: float = 0.12
    hidden_share: float = 0.08
    night_share: float = 0.12
    dusk_share: float = 0.12
    rain_share: float = 0.0
    colour_variation: float = 1.0
    light: tuple[float, float] = (0.6, 1.1)
    size_jitter: float = 0.12
    max_range_m: float = 70.0
    range_noise_m: float = 0.03
    dropout: tuple[float, float] = (0.1, 0.3)
    half_return_m: float = 52.0
    jpeg_quality: int = 92

    @property
    def keyframes(self) -> int:
        """Number of keyframes (nuScenes samples) in the whole world."""
        return (self.train_scenes + self.val_scenes) * self.frames_per_scene

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, in field order."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        for key in ("classes", "rain_share"):  # worlds of before have no such keys
            if not values[key]:
                del values[key]
        return values

    @property
    def sha256(self) -> str:
        """Return the identity of the world: spec, generator version and files of the user, as 64 hex digits."""
        files = {"files": class_hashes(self.classes)} if self.classes else {}
        text = json.dumps({"generator": GENERATOR_VERSION, "spec": self.as_dict(), **files}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], source: str = "world") -> WorldSpec:
        """Build a spec from parsed YAML; ``source`` names the file in messages.

        Raises UserError on an unknown key, a value of the wrong type or out of range, and on more scenes than the
        official split of that nuScenes version has.
        """
        if not isinstance(mapping, Mapping):
            raise UserError(f"{source}: 'world' must be a mapping of keys to values, got {quoted(mapping)}")
        known = {field.name for field in dataclasses.fields(cls)}
        values = {}
        for key, value in mapping.items():
            if key not in known:
                raise UserError(f"{source}: unknown key 'world.{short(key)}'{nearest(key, known)}")
            values[key] = _checked(key, value, source)
        spec = cls(**(LEVELS[values.get("level", "normal")] | values))
        _check_scene_counts(spec, source)
        return spec


def read_tier(path: str | Path) -> WorldSpec:
    """Read the ``world`` mapping and ``data.version`` of a tier file. Raises UserError on any mistake in them."""
    path = require_file(path, "tier file", "Give --tier one of ablations/tiers/*.yaml.")
    tier = read_yaml(path)
    data = tier.get("data")
    if not isinstance(data, Mapping) or data.get("kind") != "synthetic":
        raise UserError(f"{path}: data.kind must be 'synthetic' to write a world; other tiers bring their own data")
    if "world" not in tier:
        raise UserError(f"{path}: key 'world' is missing; write 'world: {{}}' for the default world")
    world = tier["world"] if tier["world"] is not None else {}
    if not isinstance(world, Mapping):
        raise UserError(f"{path}: 'world' must be a mapping of keys to values, got {quoted(world)}")
    world = dict(world)
    if "version" in data and world.setdefault("version", data["version"]) != data["version"]:
        both = f"data.version is {quoted(data['version'])}, world.version is {quoted(world['version'])}"
        raise UserError(f"{path}: {both}; drop the latter")
    return WorldSpec.from_dict(world, str(path))


def official_scenes(version: str) -> tuple[list[str], list[str]]:
    """Return the scene names of the official train and val split that belong to a nuScenes version."""
    from nuscenes.utils import splits  # late: the devkit's package import costs a second or two

    names = splits.create_splits_scenes()
    train, val = SPLITS[version]
    return list(names[train]), list(names[val])


def _checked(key: str, value: Any, source: str) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            choices = ", ".join(sorted(_CHOICES[key]))
            raise UserError(f"{source}: world.{key} is {quoted(value)}; it must be one of {choices}")
        return value
    if key == "classes":
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{source}: world.classes must be a list of names, got {quoted(value)}")
        try:
            classes_with(value)
        except UserError as error:
            raise UserError(f"{source}: world.classes: {error.message}", error.remedy) from error
        return tuple(value)
    if key not in _PAIRS:
        return _number(key, value, source)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{source}: world.{key} must be {_PAIRS[key]}, got {quoted(value)}")
    low, high = (_number(key, item, source) for item in value)
    if key != "image_size" and low > high:
        raise UserError(f"{source}: world.{key} must be {_PAIRS[key]} with low <= high, got {quoted(value)}")
    return (low, high)


def _number(key: str, value: Any, source: str) -> int | float:
    integer = key in _INTEGER
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        wanted = "an integer" if integer else "a number"
        raise UserError(f"{source}: world.{key} must be {wanted}, got {quoted(value)}")
    low, high = _LIMITS[key]
    if not low <= value <= high:
        raise UserError(f"{source}: world.{key} must lie in {low:g} .. {high:g}, got {quoted(value)}")
    return int(value) if integer else float(value)


def _check_scene_counts(spec: WorldSpec, source: str) -> None:
    train, val = OFFICIAL_COUNTS[spec.version]
    for key, count, maximum in (("train_scenes", spec.train_scenes, train), ("val_scenes", spec.val_scenes, val)):
        if count > maximum:
            raise UserError(
                f"{source}: world.{key} is {count}, but {spec.version} has only {maximum} such scenes in the "
                "official split that the evaluation uses; lower it or use v1.0-trainval"
            )
    if spec.train_scenes + spec.val_scenes == 0:
        raise UserError(f"{source}: world.train_scenes and world.val_scenes are both 0; there is nothing to write")
