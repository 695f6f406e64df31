"""Fingerprints of what a detector was given: hash, counts and means of its input, by sample and in all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


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
        ``sha256``, number of ``samples``, and the mean over samples of each count and mean, as records have it.
    """
    lines = "\n".join(f"{token} {fingerprints[token].sha256}" for token in sorted(fingerprints))
    ordered = [fingerprints[token] for token in sorted(fingerprints)]
    means = {
        name: round(float(np.mean([getattr(f, name) for f in ordered])) if ordered else 0.0, 6)
        for name in ("points", "range_m", "views", "brightness")
    }
    return {"sha256": hashlib.sha256(lines.encode()).hexdigest(), "samples": len(ordered), **means}
