"""A wet road on one LiDAR cloud: water reflects the beam away from the sensor, the more the flatter it comes in."""

from __future__ import annotations

import numpy as np

from aqr_bench.corruptions.frame import INTENSITY, X, Y, Z
from aqr_bench.corruptions.lidar.optics import min_intensity, ranges, with_intensity

# LiDAR_snow_sim (tools/wet_ground): refractive indices of air and water, depth at which the texture of the pavement is
# full, distance from the ground's plane (m), and the ground's reflectivity, one over its power factor 15.
AIR_INDEX, WATER_INDEX = 1.0003, 1.33
PAVEMENT_DEPTH_MM = 1.2
ON_GROUND_M = 0.3
GROUND_REFLECTIVITY = 1 / 15
# nuScenes: the LiDAR is 1.84 m above the road. Where the road is searched, above and below that; its greatest slope.
SENSOR_HEIGHT_M, SEARCH_M, MAX_SLOPE = 1.84, 0.6, 0.15
NEAR_M, FAR_M = 3.0, 40.0
MIN_POINTS = 50
ROUNDS = 4


def ground_plane(points: np.ndarray) -> tuple[float, float, float]:
    """Plane z = a x + b y + c through the road (m), by least squares on points near its expected height.

    Three out of four points of the search band lie on the road as a rule; every round drops what is farther than the
    band, which halves. Too few points or too steep a plane: the flat road 1.84 m below the sensor.
    """
    xyz = points[:, :3].astype(np.float64)
    flat = np.hypot(xyz[:, X], xyz[:, Y])
    band = (np.abs(xyz[:, Z] + SENSOR_HEIGHT_M) < SEARCH_M) & (flat > NEAR_M) & (flat < FAR_M)
    xyz = xyz[band]
    plane = np.array([0.0, 0.0, -SENSOR_HEIGHT_M])
    off = np.abs(xyz[:, Z] + SENSOR_HEIGHT_M)
    for step in range(ROUNDS):
        near = off < SEARCH_M / 2**step
        if near.sum() < MIN_POINTS:
            break
        basis = np.column_stack([xyz[:, :2], np.ones(len(xyz))])
        fitted = np.linalg.lstsq(basis[near], xyz[near, Z], rcond=None)[0]
        if np.hypot(fitted[0], fitted[1]) > MAX_SLOPE:
            break
        plane = fitted
        off = np.abs(xyz[:, Z] - basis @ plane)
    return float(plane[0]), float(plane[1]), float(plane[2])


def wet_gain(cosine: np.ndarray, depth_mm: float) -> np.ndarray:
    """Intensity of a wet road over that of the dry one; float64 as ``cosine``, that of the angle of incidence.

    Light enters the water with 1 - R, the ground returns the part rho, and it leaves with 1 - R: T = (1 - R)^2 /
    (1 - rho R), all reflections between ground and surface summed (LiDAR_snow_sim). R is Fresnel's for the polarisation
    that passes more easily. Water covers ``depth_mm`` / 1.2 of the texture, so the gain is 1 - f + f T.
    """
    index = WATER_INDEX / AIR_INDEX
    inside = np.sqrt(1 - (1 - cosine**2) / index**2)
    reflected = ((index * cosine - inside) / (index * cosine + inside)) ** 2
    covered = np.clip(depth_mm / PAVEMENT_DEPTH_MM, 0.0, 1.0)
    return 1 - covered + covered * (1 - reflected) ** 2 / (1 - GROUND_REFLECTIVITY * reflected)


def wet_ground(points: np.ndarray, rng: np.random.Generator, water_mm: float, noise_floor: float = 0.7) -> np.ndarray:
    """Points on a wet road, after LiDAR_snow_sim's model in simple form; without random numbers.

    Args:
        points: float32 [P, F >= 4], one cloud in its sensor frame (m, z up), intensity 0..255.
        rng: not used; all weather has the same arguments.
        water_mm: depth of the water; 0: the points as they are.
        noise_floor: part of the weakest intensity seen that would still be registered.
    Returns:
        float32 [P' <= P, F], in the same order.
    """
    a, b, c = ground_plane(points)
    xyz = points[:, :3].astype(np.float64)
    steep = np.sqrt(1 + a * a + b * b)
    ground = np.abs(xyz[:, Z] - a * xyz[:, X] - b * xyz[:, Y] - c) / steep < ON_GROUND_M
    distance = ranges(points)
    # The sensor is c / steep away from the plane, and every beam that meets it does so at this cosine.
    cosine = np.clip(abs(c) / steep / np.maximum(distance, 1e-6), 0.0, 1.0)
    intensity = points[:, INTENSITY].astype(np.float64)
    target = np.where(ground, intensity * wet_gain(cosine, water_mm), intensity)
    lost = ground & (target < noise_floor * min_intensity(intensity, distance))
    return with_intensity(points.copy(), np.where(ground, target, intensity))[~lost]
