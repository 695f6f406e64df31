"""The streets of a scene: lanes, kerbs and pavements, a crossing, zebra crossings, and where road works are.

A street is known by its reference line, the middle of the right-most lane in the direction of travel (the ego path for
the ego's own street). Places on it are given by station (m along the line) and lateral (m to the left of it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqr_bench.world.geometry import arc, rotate

LANE_M = 3.6
PARKING_M = 2.4  # a strip for parked cars between the outer lane and the kerb
PAVEMENT_M = 3.0
ZEBRA_M = 3.0  # length of a zebra crossing along the street
WORKS_M = 25.0  # length of a work site
MAX_CURVATURE = 0.025  # 1/m; a tighter bend would fold the plots on its inner side


@dataclass(frozen=True)
class Street:
    """One street: ``start`` (x, y, yaw) of its reference line, ``curvature`` in 1/m, ``lanes`` in each direction."""

    start: np.ndarray
    curvature: float = 0.0
    lanes: int = 1

    @property
    def middle(self) -> float:
        """Lateral of the line between the two directions."""
        return LANE_M * (self.lanes - 0.5)

    @property
    def half(self) -> float:
        """Half the width between the kerbs."""
        return LANE_M * self.lanes + PARKING_M

    @property
    def edge(self) -> float:
        """Half the width including the pavements."""
        return self.half + PAVEMENT_M

    def poses(self, station: np.ndarray | float, lateral: np.ndarray | float) -> np.ndarray:
        """Return the poses (..., 3) at stations and laterals, heading along the street."""
        poses = arc(self.start, 1.0, self.curvature, np.asarray(station, float))
        side = np.stack([-np.sin(poses[..., 2]), np.cos(poses[..., 2])], -1)
        xy = poses[..., :2] + np.asarray(lateral)[..., None] * side
        return np.concatenate([xy, np.broadcast_to(poses[..., 2:], (*xy.shape[:-1], 1))], -1)

    def frame(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the station and the lateral (...,) of points (..., 2)."""
        local = rotate(np.asarray(xy) - self.start[:2], -self.start[2])
        if abs(self.curvature) < 1e-6:
            return local[..., 0], local[..., 1]
        ahead, aside = self.curvature * local[..., 0], 1 - self.curvature * local[..., 1]
        return np.arctan2(ahead, aside) / self.curvature, (1 - np.hypot(ahead, aside)) / self.curvature

    def yaw_rate(self, lateral: float, speed: float, oncoming: bool) -> float:
        """Return the yaw rate (rad/s) that keeps a thing with ``speed`` at its lateral."""
        rate = speed * self.curvature / (1 - self.curvature * lateral)
        return -rate if oncoming else rate

    def off_middle(self, xy: np.ndarray) -> np.ndarray:
        """Return the distance (...,) of points (..., 2) to the middle of the street."""
        return np.abs(self.frame(xy)[1] - self.middle)


@dataclass(frozen=True)
class Layout:
    """The streets (the ego's first, then the crossing one if there is one), zebra crossings and road works.

    ``crossing`` is the station of the crossing on the ego's street. ``zebras`` and ``works`` are pairs of a street's
    index and a station; a work site lies on the side ``sides`` (-1 right, 1 left) of its street, from there on.
    """

    streets: tuple[Street, ...]
    crossing: float | None = None
    zebras: tuple[tuple[int, float], ...] = ()
    works: tuple[tuple[int, float], ...] = ()
    sides: tuple[int, ...] = ()

    def clear_of_streets(self, xy: np.ndarray, margin: float = 0.0) -> bool:
        """Return whether all points (N, 2) lie beyond the pavements, ``margin`` m away."""
        return all((street.off_middle(xy) > street.edge + margin).all() for street in self.streets)

    def in_junction(self, street: int, station: np.ndarray, margin: float) -> np.ndarray:
        """Return (...,) whether stations of a street lie within ``margin`` m of the other street's kerbs."""
        if self.crossing is None:
            return np.zeros(np.shape(station), bool)
        other = self.streets[1 - street]
        return np.abs(np.asarray(station) - (0.0 if street else self.crossing)) < other.half + margin


def draw_layout(start: np.ndarray, curvature: float, travel_m: float, rng: np.random.Generator) -> Layout:
    """Draw the streets for a car that starts at ``start`` (x, y, yaw) and drives ``travel_m``; half have a crossing."""
    street = Street(start, curvature, 1 + int(rng.random() < 0.35))
    streets, crossing, zebras = [street], None, []
    if rng.random() < 0.5:
        crossing = float(rng.uniform(-15, travel_m + 28))
        center = street.poses(crossing, street.middle)
        other = Street(np.array([0.0, 0.0, center[2] + np.pi / 2]), 0.0, 1)
        # Its reference line passes the middle of the junction at lateral -middle, station 0.
        shift = other.middle * np.array([np.sin(other.start[2]), -np.cos(other.start[2])])
        streets.append(Street(np.array([*(center[:2] + shift), other.start[2]]), 0.0, 1))
        for index, width, middle in ((0, other.half, crossing), (1, street.half, 0.0)):
            zebras += [(index, middle + side * (width + 1.0 + ZEBRA_M / 2)) for side in (-1, 1) if rng.random() < 0.8]
    elif rng.random() < 0.5:
        zebras.append((0, float(rng.uniform(-20, travel_m + 25))))
    works, sides = [], []
    for _ in range(int(rng.integers(1, 3))):
        index = int(rng.integers(len(streets)))
        first = float(rng.uniform(-30, 20 + travel_m * (index == 0)))
        if crossing is not None:  # keep the junction free: begin behind it, or end before it
            middle, clear = (0.0, street.half + 6) if index else (crossing, streets[1].half + 6)
            first = middle + clear + 1 if first > middle else min(first, middle - clear - WORKS_M)
        works.append((index, first))
        sides.append(int(rng.choice([-1, 1])))
    return Layout(tuple(streets), crossing, tuple(zebras), tuple(works), tuple(sides))
