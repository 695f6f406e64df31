"""What all weather models share: ranges, moving a point along its ray, the weakest return that the sensor registers."""

from __future__ import annotations

import numpy as np

from aqr_bench.corruptions.frame import INTENSITY

MAX_INTENSITY = 255.0
# The intensity of a nuScenes point is calibrated reflectivity, so the power received goes with intensity / range^2, and
# the weakest return that the sensor registers is an intensity that grows with range^2. Measured on the real keyframe:
# from 25 to 50 m one point in a hundred lies below 0.003 r^2. (LISA assumes 0.9 * 255 / 200^2 = 0.0057.)
MIN_INTENSITY_PER_M2 = 0.003
DIVERGENCE_RAD = 3e-3  # full opening angle of a beam: LISA and LiDAR_snow_sim


def ranges(points: np.ndarray) -> np.ndarray:
    """float64 [P]: distance of every point from the sensor (m); points float32 [P, F >= 3]."""
    xyz = points[:, :3].astype(np.float64)
    return np.sqrt(np.einsum("ij,ij->i", xyz, xyz))


def moved(points: np.ndarray, where: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A copy of the points, those of ``where`` at another distance on the same ray.

    Args:
        points: float32 [P, F >= 3]. ``where``: bool [P]; False for a point at the origin, which has no ray.
        before: float64 [P], distance now (m). ``after``: float64 [P], distance then (m), 0 or more.
    """
    out = points.copy()
    scale = after[where] / before[where]
    out[where, :3] = points[where, :3] * scale[:, None]
    return out


def with_intensity(points: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """The points, written to in place, with their intensity rounded to an integer of 0..255."""
    points[:, INTENSITY] = np.clip(np.rint(intensity), 0, MAX_INTENSITY)
    return points


def min_intensity(intensity: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Weakest intensity that the sensor registers at a distance (m); float64 [P].

    A point that was recorded although it is weaker counts as just registered: no clean point is below.
    """
    return np.minimum(MIN_INTENSITY_PER_M2 * distance**2, intensity)
