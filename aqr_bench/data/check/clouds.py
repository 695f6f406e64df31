"""Whether the points of a LiDAR file are what nuScenes' are: metres around the LiDAR, intensity, ring, a full scan."""

from __future__ import annotations

import numpy as np

from aqr_bench.corruptions.frame import INTENSITY, MAX_RINGS, MIN_POINTS_OF_A_SCAN, RING

MAX_DISTANCE_M = 1e4  # of any point from the LiDAR; larger numbers are no metres
MEDIAN_DISTANCE_M = (0.5, 300.0)  # of a scan's points; nuScenes' are around 8 m
MAX_INTENSITY = 1e6  # nuScenes': 255; LiDARs with 16 bits: 65,535. Larger numbers are times
SECTOR_DEG = 10  # a full scan has returns in every sector of this width; one that stopped early has not
EGO_RADIUS_M = 3.0  # the vehicle itself, around its LiDAR, returns the beam everywhere
EMPTY_SECTORS = 6  # a scan with so many empty ones in a row counts as incomplete
# Share of the variance of elevation that the values of a column explain. Real and synthetic rings: above 0.99, since a
# beam has one elevation; intensities: below 0.2.
IS_RING, IS_NO_RING = 0.9, 0.5

COLUMNS, RINGS, INTENSITIES, SCAN = "columns", "rings", "intensities", "scan"  # causes of a fault
CAUSES = (COLUMNS, RINGS, INTENSITIES, SCAN)
WARNINGS = frozenset([RINGS, INTENSITIES, SCAN])
POINT_FORMAT = (
    "float32 x, y, z (metres, from the LiDAR), intensity (0 to 255) and ring (number of the beam, from 0 at the bottom)"
)
REMEDIES = {
    COLUMNS: f"Write the files as {POINT_FORMAT}.",
    RINGS: "Write the number of the beam into column 4, or leave conditions that select beams out of the suites.",
    INTENSITIES: "Multiply it by 255: weather conditions and weights trained on nuScenes take that range for granted.",
}


def points_fault(points: np.ndarray) -> tuple[str, str]:
    """What is wrong with a cloud [P, 5], the worst first, and its cause, of ``CAUSES``; ('', '') if nothing is."""
    if not len(points):
        return "", ""
    xyz, intensity, ring = points[:, :3], points[:, INTENSITY], points[:, RING]
    distance = np.linalg.norm(xyz, axis=1)
    low, high = MEDIAN_DISTANCE_M
    if not np.abs(xyz).max():
        return "of which all points are at x = y = z = 0", COLUMNS
    if np.abs(xyz).max() > MAX_DISTANCE_M:
        return f"with a coordinate of {np.abs(xyz).max():g}, read as metres", COLUMNS
    if len(points) >= MIN_POINTS_OF_A_SCAN and not low <= np.median(distance) <= high:
        return f"whose points are {np.median(distance):.3g} m away in the median", COLUMNS
    if _are_swapped(points):
        return "with the ring in column 3 and the intensity in column 4, which are swapped", COLUMNS
    if np.abs(intensity).max() > MAX_INTENSITY:
        return f"with {np.abs(intensity).max():g} in column 3, which holds the intensity", COLUMNS
    if (ring != np.round(ring)).any() or ring.min() < 0 or ring.max() >= MAX_RINGS:
        bad = ring[(ring != np.round(ring)) | (ring < 0) | (ring >= MAX_RINGS)][0]
        return f"with {bad:g} in column 4, which holds the ring (0 to {MAX_RINGS - 1})", COLUMNS
    if len(points) >= MIN_POINTS_OF_A_SCAN and ring.min() == ring.max():
        return f"with {ring[0]:g} as ring of all points, so that beams cannot be told apart", RINGS
    if 0 < intensity.max() <= 1:
        return "with an intensity of at most 1, where nuScenes has up to 255", INTENSITIES
    if _largest_gap(xyz) >= EMPTY_SECTORS:
        return f"with a sector of {EMPTY_SECTORS * SECTOR_DEG} degrees or more without a return", SCAN
    return "", ""


def _are_swapped(points: np.ndarray) -> bool:
    """Whether it is column 3 that tells beams apart by their elevation, and column 4 that does not."""
    horizontal = np.hypot(points[:, 0], points[:, 1])
    far = horizontal > EGO_RADIUS_M
    elevation, intensity, ring = np.arctan2(points[far, 2], horizontal[far]), points[far, INTENSITY], points[far, RING]
    if len(elevation) < MIN_POINTS_OF_A_SCAN or (intensity != np.round(intensity)).any():
        return False
    values = np.unique(intensity)
    if not 1 < len(values) <= MAX_RINGS or values[0] < 0 or values[-1] >= MAX_RINGS:
        return False
    return _explained(elevation, intensity) > IS_RING and _explained(elevation, ring) < IS_NO_RING


def _explained(values: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of ``values`` that is between groups (eta squared); 0 where there is no variance."""
    _, group = np.unique(groups, return_inverse=True)
    mean = np.bincount(group, values) / np.bincount(group)
    total = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - mean[group]) ** 2).sum()) / total if total else 0.0


def _largest_gap(xyz: np.ndarray) -> int:
    """Successive sectors without a return."""
    x, y = xyz[np.hypot(xyz[:, 0], xyz[:, 1]) > EGO_RADIUS_M, :2].T
    sectors = ((np.degrees(np.arctan2(y, x)) + 180) // SECTOR_DEG).astype(int)
    hit = np.isin(np.arange(360 // SECTOR_DEG), sectors)
    # Twice around, so that a gap across the seam counts as one.
    return max(map(len, "".join("x" if h else "." for h in np.tile(hit, 2)).split("x")))
