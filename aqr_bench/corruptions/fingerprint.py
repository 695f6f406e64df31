"""Fingerprints of what a detector was given: hash, counts and means of its input, by sample and in all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# The counts and means of a sensor; all samples gave nothing where one of them is 0, and some where the last is not.
SENSOR_MEANS = {"lidar": ("points", "range_m"), "camera": ("views", "brightness")}
SAMPLES_WITHOUT = {"lidar": "without_points", "camera": "without_images"}


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprint of the input of one sample.

    Args:
        sha256: over points, images and projections, shapes and types included.
        points: number of points. ``range_m``: their mean distance from the sensor, 0 without points.
        views: number of images. ``brightness``: mean of their values, 0 without images.
    """

    sha256: str
    points: int
    range_m: float
    views: int
    brightness: float

    @property
    def empty_sensors(self) -> frozenset[str]:
        """Of ``lidar`` (no point, or all of them at the origin) and ``camera`` (no image, or all of them black)."""
        return frozenset(s for s, means in SENSOR_MEANS.items() if not all(getattr(self, name) for name in means))


def sample_fingerprint(
    points: np.ndarray, images: Sequence[np.ndarray], projections: Iterable[np.ndarray] = ()
) -> Fingerprint:
    """Fingerprint of points [P, F], images [h, w, 3] and projections [4, 4] as the detector gets them."""
    digest = hashlib.sha256()
    for array in (points, *images, *projections):
        array = np.ascontiguousarray(array)
        digest.update(str((array.shape, array.dtype.str)).encode())
        digest.update(array.data)
    ranges = np.sqrt((points[:, :3].astype(np.float64) ** 2).sum(1)) if len(points) else np.zeros(0)
    # Every image counts alike, whatever its size.
    means = [float(image.mean()) for image in images if image.size]
    return Fingerprint(
        sha256=digest.hexdigest(),
        points=len(points),
        range_m=float(ranges.mean()) if len(ranges) else 0.0,
        views=len(images),
        brightness=float(np.mean(means)) if means else 0.0,
    )


def evaluation_fingerprint(fingerprints: Mapping[str, Fingerprint]) -> dict[str, float | int | str]:
    """One fingerprint of all samples of an evaluation, by token: the order in which they were evaluated is no part.

    Returns:
        ``sha256``, number of ``samples``, and the mean over samples of each count and mean, as records have it. Where
        a sensor gave nothing in some of the samples, the number of these: ``without_points``, ``without_images``.
    """
    lines = "\n".join(f"{token} {fingerprints[token].sha256}" for token in sorted(fingerprints))
    ordered = [fingerprints[token] for token in sorted(fingerprints)]
    means = {
        name: round(float(np.mean([getattr(f, name) for f in ordered])) if ordered else 0.0, 6)
        for name in ("points", "range_m", "views", "brightness")
    }
    empty = {key: sum(sensor in f.empty_sensors for f in ordered) for sensor, key in SAMPLES_WITHOUT.items()}
    some = {key: count for key, count in empty.items() if 0 < count < len(ordered)}  # a mean of 0 says it of all
    return {"sha256": hashlib.sha256(lines.encode()).hexdigest(), "samples": len(ordered), **means, **some}


def emptied_sensors(
    inputs: Mapping[str, Any], reference: Mapping[str, Any] | None, removed: frozenset[str]
) -> dict[str, int]:
    """Sensors that a condition should only have changed, and in how many samples it left nothing of them.

    Args:
        inputs: as of :func:`evaluation_fingerprint`.
        reference: those without corruption, what is empty there is not the condition's doing; None: not known.
        removed: sensors that the condition removes, be it from some samples only.
    """
    before = {} if reference is None or reference is inputs else _empty_samples(reference)
    unused = {sensor for sensor, (count, _) in SENSOR_MEANS.items() if reference is not None and not reference[count]}
    counts = {sensor: n for sensor, n in _empty_samples(inputs).items() if sensor not in removed | unused}
    return {sensor: n for sensor, n in counts.items() if n > before.get(sensor, 0)}


def _empty_samples(inputs: Mapping[str, Any]) -> dict[str, int]:
    empty_in_all = {sensor for sensor, means in SENSOR_MEANS.items() if not all(inputs[name] for name in means)}
    return {s: inputs.get("samples" if s in empty_in_all else key, 0) for s, key in SAMPLES_WITHOUT.items()}
