"""Sensor conditions: named, seeded per sample, pure functions from sensor data to sensor data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from aqr_bench.errors import UserError, nearest

CLEAN, NO_LIDAR, NO_CAMERAS = 0, 1, 2  # sensor states, as the router's supervision knows them


@dataclass(frozen=True)
class SensorData:
    """One sample's raw input.

    Args:
        points: float32 [P, F], LiDAR frame, metres; F >= 3.
        images: one uint8 or float32 [h, w, 3] per camera, BGR, before normalisation.
        state: 0 clean, 1 no LiDAR, 2 no cameras.
    """

    points: np.ndarray
    images: tuple[np.ndarray, ...]
    state: int = CLEAN


@dataclass(frozen=True)
class Condition:
    """A named sensor condition; ``apply`` gets the data and a generator of this sample alone."""

    name: str
    suite: str
    summary: str
    source: str
    apply: Callable[[SensorData, np.random.Generator], SensorData] = field(repr=False)
    severity: int = 0


def sample_rng(seed: int, condition: str, severity: int, token: str, sensor: str) -> np.random.Generator:
    """Generator seeded by a hash of what it is for: the same whatever the workers, order, batch or model."""
    key = f"{seed}|{condition}|{severity}|{token}|{sensor}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))


def corrupt(condition: Condition, data: SensorData, token: str, seed: int = 0) -> SensorData:
    """Apply a condition to one sample; the input arrays are not written to."""
    return condition.apply(data, sample_rng(seed, condition.name, condition.severity, token, "all"))


def _clean(data: SensorData, _rng: np.random.Generator) -> SensorData:
    return data


def _no_lidar(data: SensorData, _rng: np.random.Generator) -> SensorData:
    # Published protocol: the points are multiplied by zero, not removed.
    return replace(data, points=np.zeros_like(data.points), state=NO_LIDAR)


def _no_cameras(data: SensorData, _rng: np.random.Generator) -> SensorData:
    # Zeroed before normalisation: the network sees -mean / std, as in the published protocol.
    return replace(data, images=tuple(np.zeros_like(image) for image in data.images), state=NO_CAMERAS)


_SOURCE = "CMT (ICCV 2023), masked-modal training and missing-sensor test"
CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition("clean", "missing_sensors", "all sensors as recorded", "-", _clean),
        Condition("no_lidar", "missing_sensors", "every LiDAR point zero-filled", _SOURCE, _no_lidar),
        Condition("no_cameras", "missing_sensors", "every image zero-filled", _SOURCE, _no_cameras),
    )
}


def get_condition(name: str) -> Condition:
    """The condition of that name; UserError naming the nearest one otherwise."""
    if name not in CONDITIONS:
        raise UserError(f"unknown condition '{name}'{nearest(name, CONDITIONS)}")
    return CONDITIONS[name]


def fingerprint(data: SensorData) -> str:
    """SHA-256 of what the detector will see of one sample: points and images, shapes included."""
    digest = hashlib.sha256()
    for array in (data.points, *data.images):
        digest.update(str((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
