"""Fog on one LiDAR cloud: attenuated targets, and the return of the fog itself where it is stronger."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

from aqr_bench.corruptions.frame import INTENSITY
from aqr_bench.corruptions.lidar.optics import MAX_INTENSITY, moved, ranges, with_intensity

# Hahner et al. ICCV 2021 (MartinHahner/LiDAR_fog_sim, ParameterSet): half-power width of the laser pulse; the receiver
# sees nothing of the beam up to CROSSING_M[0] and all of it from CROSSING_M[1] on, linear between.
PULSE_S = 20e-9
CROSSING_M = (0.9, 1.0)
# Rasshofer et al. 2011: backscatter (1/(m sr)) times meteorological optical range; the range is ln(20) / alpha.
BACKSCATTER_RANGE = 0.046
STEP_M = 0.01


def backscatter(alpha: float) -> float:
    """beta of a fog (1/(m sr)) as LiDAR_fog_sim and nuScenes-C derive it from the attenuation alpha (1/m)."""
    return BACKSCATTER_RANGE * alpha / np.log(20)


def transmission(alpha: float, distance: np.ndarray) -> np.ndarray:
    """Part of the light that comes back from a target at a distance (m): exp(-2 alpha r) (the paper's hard target)."""
    return np.exp(-2 * alpha * distance)


@lru_cache(maxsize=64)
def fog_response(alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The strongest return of the fog in front of a target.

    The paper's soft target: the pulse sin^2(pi t / (2 tau)), 0 <= t <= 2 tau, convolved with the fog's impulse response
    exp(-2 alpha s) xi(s) / s^2 up to the target. With s = R - c t / 2 the integral over time becomes one over the depth
    s, so its running value gives the response for all targets at once. A target farther than the depth from which the
    strongest return still gets light does not change it: the table ends at 7 m, and is constant up to any range.

    Returns:
        (target distance (m), distance at which the fog appears (m), response (s/m^2)), float64 [K] each.
    """
    length = scipy.constants.speed_of_light * PULSE_S
    depth = np.arange(CROSSING_M[0], CROSSING_M[1] + length + STEP_M, STEP_M)
    seen = np.clip((depth - CROSSING_M[0]) / (CROSSING_M[1] - CROSSING_M[0]), 0.0, 1.0)
    impulse = np.exp(-2 * alpha * depth) * seen / depth**2
    # R is where the receiver looks: a return of the pulse's middle from s appears at R = s + length / 2.
    looked_at = np.arange(CROSSING_M[0], depth[-1] + length, 2 * STEP_M)
    lag = looked_at[:, None] - depth
    pulse = np.where((lag >= 0) & (lag <= length), np.sin(np.pi * lag / length) ** 2, 0.0)
    response = scipy.integrate.cumulative_trapezoid(
        2 / scipy.constants.speed_of_light * pulse * impulse, depth, axis=1, initial=0.0
    )
    peak = response.argmax(axis=0)
    appears = np.clip(looked_at[peak] - length / 2, CROSSING_M[0], depth)
    table = depth, appears, response[peak, np.arange(len(depth))]
    for column in table:
        column.flags.writeable = False
    return table


def fog(
    points: np.ndarray, rng: np.random.Generator, alpha: float, beta: float, gamma: float, noise_m: float
) -> np.ndarray:
    """Points in homogeneous fog, after Hahner et al. ICCV 2021; no point is lost.

    The target's intensity becomes I exp(-2 alpha r), rounded; the fog in front of it returns I r^2 beta / beta_0 times
    :func:`fog_response`, at most 255. Where the fog returns more, the point moves to it along its ray. Its distance is
    multiplied by r / U(r - n, r + n), n = ``noise_m`` but at most r / 2, and never exceeds r. (The source takes n =
    ``noise_m`` always: nearer than that its points fly off or come out behind the sensor.)

    Args:
        points: float32 [P, F >= 4], one cloud in its sensor frame (m), intensity 0..255.
        alpha: attenuation (1/m). ``beta``: backscatter (1/(m sr)), :func:`backscatter` of alpha in LiDAR_fog_sim.
        gamma: reflectivity of the target, beta_0 = gamma / pi; 1e-6 in both benchmarks.
        noise_m: half width of the noise (m): 1 in nuScenes-C, 10 in MultiCorrupt.
    Returns:
        float32 [P, F].
    """
    distance = ranges(points)
    intensity = points[:, INTENSITY].astype(np.float64)
    hard = np.rint(intensity * transmission(alpha, distance))
    target, appears, response = fog_response(float(alpha))
    soft = intensity * distance**2 * (beta * np.pi / gamma) * np.interp(distance, target, response, left=0.0)
    soft = np.minimum(soft, MAX_INTENSITY)
    in_fog = soft > hard
    noise = np.minimum(noise_m, distance / 2) * rng.uniform(-1.0, 1.0, len(points))
    with np.errstate(invalid="ignore", divide="ignore"):  # a point at the origin is never in the fog
        after = np.interp(distance, target, appears) * distance / (distance + noise)
    out = moved(points, in_fog, distance, np.minimum(after, distance))
    return with_intensity(out, np.where(in_fog, soft, hard))
