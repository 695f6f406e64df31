"""Where an object is or drives (lane, kerb, pavement, zebra, road works, plot), and which ground is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqr_bench.world.classes import ClassInfo
from aqr_bench.world.geometry import overlap, rotate
from aqr_bench.world.rig import EGO_CENTER_M, EGO_LENGTH_M, EGO_WIDTH_M
from aqr_bench.world.road import LANE_M, PARKING_M, PAVEMENT_M, Layout

GAP_M = 0.3  # smallest distance between boxes
EGO_GAP_M = 1.0
_HOUSE_M2 = 35.0  # whatever takes more ground than this is a building


class Occupancy:
    """Boxes that are taken, at all recording times: ``poses`` (N, T, 3) and ``sizes`` (N, 2), the ego car first."""

    def __init__(self, ego: np.ndarray):
        body = ego.copy()
        body[:, :2] += EGO_CENTER_M * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], -1)
        self._count, self._poses, self._sizes = 1, np.empty((64, len(ego), 3)), np.empty((64, 2))
        self._poses[0] = body
        self._sizes[0] = np.array([EGO_LENGTH_M, EGO_WIDTH_M]) + 2 * (EGO_GAP_M - GAP_M)

    @property
    def poses(self) -> np.ndarray:
        return self._poses[: self._count]

    @property
    def sizes(self) -> np.ndarray:
        return self._sizes[: self._count]

    def add_if_free(self, poses: np.ndarray, size: np.ndarray, gap: float = GAP_M) -> bool:
        """Add a box with ``poses`` (T, 3) and ``size`` (2,), length and width, unless it overlaps one.

        Returns whether it was added.
        """
        wide = size + 2 * gap
        reach = np.hypot(*wide) / 2 + np.hypot(*self.sizes.T) / 2
        offset = self.poses[..., :2] - poses[:, :2]
        other, moment = np.nonzero((offset**2).sum(-1) < reach[:, None] ** 2)
        if len(other):
            size_with_gap = np.broadcast_to(wide, (len(other), 2))
            if overlap(self.poses[other, moment], self.sizes[other], poses[moment], size_with_gap).any():
                return False
        if self._count == len(self._sizes):
            self._poses = np.concatenate([self._poses, np.empty_like(self._poses)])
            self._sizes = np.concatenate([self._sizes, np.empty_like(self._sizes)])
        self._poses[self._count], self._sizes[self._count] = poses, size
        self._count += 1
        return True


@dataclass(frozen=True)
class Placement:
    """A place to be at one moment: ``pose`` (x, y, yaw), ``yaw_rate`` in rad/s, ``zone`` of the street."""

    pose: np.ndarray
    yaw_rate: float
    zone: str  # lane, kerb, pavement, zebra, works or plot


@dataclass
class PlacementSampler:
    """Draws placements for one scene; ``lidar`` (K, 3) are the LiDAR poses at the keyframes, ``reach_m`` the range."""

    layout: Layout
    occupancy: Occupancy
    lidar: np.ndarray
    reach_m: float
    hidden_share: float
    rng: np.random.Generator
    _slots: int = 0

    def draw(self, info: ClassInfo, size: np.ndarray, speed: float, frame: int) -> Placement:
        """Draw a position for an object of ``size`` (l, w, h) and ``speed`` (0: parked) at keyframe ``frame``."""
        if not speed and self.rng.random() < self.hidden_share:
            hidden = self._behind(size, frame)
            if hidden is not None:
                return hidden
        zone = self._zone(info, speed)
        if zone == "plot":
            return self._plot(info, size, frame)
        if zone == "works":
            return self._works(info)
        index, street, station = self._abreast(frame, info.range_share * self.reach_m)
        for _ in range(8):  # nobody stops in a junction or on a zebra crossing
            if speed or not self._must_stay_clear(index, station, size[0] / 2):
                break
            index, street, station = self._abreast(frame, info.range_share * self.reach_m)
        rng, side = self.rng, int(self.rng.choice([-1, 1]))
        if zone == "zebra":
            index, station = self.layout.zebras[rng.integers(len(self.layout.zebras))]
            street = self.layout.streets[index]
            lateral = street.middle + rng.uniform(-1, 1) * street.half
            pose = street.poses(station + rng.uniform(-1.2, 1.2), lateral)
            return Placement(pose + np.array([0, 0, side * np.pi / 2 + rng.normal(0, 0.05)]), 0.0, zone)
        if zone == "pavement":
            lateral = side * (street.half + rng.uniform(0.5, PAVEMENT_M - 0.4))
            oncoming = bool(rng.random() < 0.5)
            drift = rng.normal(0, 0.06) if speed else rng.uniform(-np.pi, np.pi)
        else:
            oncoming = side > 0  # everyone drives on the right
            if zone == "kerb":
                lateral = side * (street.half - 0.15 - size[1] / 2)
                if info.attributes == "cycle":
                    lateral = side * (street.half + 0.5)
            else:
                lane = int(rng.integers(street.lanes))
                offset = -1.15 if info.name == "bicycle" else rng.normal(0, 0.12)
                lateral = side * (LANE_M * (lane + 0.5) - offset * (lane == street.lanes - 1))
            drift = rng.normal(0, 0.015)
        pose = street.poses(station, street.middle + lateral)
        pose[2] += np.pi * oncoming + drift
        rate = street.yaw_rate(street.middle + lateral, speed, oncoming)
        return Placement(pose, rate if speed else 0.0, zone)

    def _zone(self, info: ClassInfo, speed: float) -> str:
        """Draw what kind of place a class takes."""
        zebras = bool(self.layout.zebras)
        if info.attributes == "pedestrian":
            shares = {"pavement": 0.6, "zebra": 0.25 * zebras * (speed > 0), "plot": 0.2}
        elif info.attributes == "none":
            shares = {"works": 0.7, "pavement": 0.12, "plot": 0.18}
        elif info.attributes == "cycle":
            shares = {"lane": 1.0} if speed else {"kerb": 0.55, "plot": 0.35, "lane": 0.1}
        elif info.name == "construction_vehicle":
            shares = {"lane": 1.0} if speed else {"plot": 0.65, "kerb": 0.35}
        else:
            shares = {"lane": 1.0} if speed else {"kerb": 0.55, "plot": 0.33, "lane": 0.12}
        weights = np.array(list(shares.values()), float)
        return str(self.rng.choice(list(shares), p=weights / weights.sum()))

    def _abreast(self, frame: int, reach_m: float):
        """Draw a street and a station on it within reach of the car, more often close by."""
        index = int(self.rng.random() < 0.35) if len(self.layout.streets) > 1 else 0
        street = self.layout.streets[index]
        share = self.rng.uniform(-1, 1)
        if self.rng.random() < 0.5:
            share *= abs(share)
        return index, street, float(street.frame(self.lidar[frame, :2])[0]) + share * reach_m

    def _must_stay_clear(self, index: int, station: float, margin: float) -> bool:
        """Return whether a station of a street is within ``margin`` m of the junction or of a zebra crossing."""
        on_zebra = any(street == index and abs(station - zebra) < 2 + margin for street, zebra in self.layout.zebras)
        return on_zebra or bool(self.layout.in_junction(index, np.asarray(station), 2 + margin))

    def _plot(self, info: ClassInfo, size: np.ndarray, frame: int) -> Placement:
        """Draw a place off the streets, turned anyhow, or as in a car park."""
        reach, rng = self.reach_m * info.range_share, self.rng
        pose = np.zeros(3)
        for _ in range(20):
            if rng.random() < 0.5:
                offset = rng.uniform(-reach, reach, 2)
            else:
                angle = rng.uniform(-np.pi, np.pi)
                offset = rng.uniform(6, max(reach, 7)) * np.array([np.cos(angle), np.sin(angle)])
            pose[:2] = self.lidar[frame, :2] + rotate(offset, self.lidar[frame, 2])
            if self.layout.clear_of_streets(pose[:2], 0.3 + size[0] / 2) and not self._behind_a_building(pose, frame):
                break
        street = self.layout.streets[0]
        heading = street.poses(street.frame(pose[:2])[0], 0.0)[2]
        pose[2] = rng.uniform(-np.pi, np.pi)
        if info.attributes == "vehicle" and rng.random() < 0.5:
            pose[2] = heading + rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.04)
        return Placement(pose, 0.0, "plot" if self.layout.clear_of_streets(pose[:2]) else "pavement")

    def _behind_a_building(self, pose: np.ndarray, frame: int) -> bool:
        """Return whether a house is between the LiDAR and a place: what is hidden there is for ``hidden_share``."""
        houses = np.nonzero(self.occupancy.sizes.prod(1) > _HOUSE_M2)[0]
        at, size = self.occupancy.poses[houses, 0], self.occupancy.sizes[houses]
        line = self.lidar[frame, :2] + np.linspace(0, 1, 24)[:, None, None] * (pose[:2] - self.lidar[frame, :2])
        return bool((np.abs(rotate(line - at[:, :2], -at[:, 2])) < size / 2).all(-1).any())

    def _works(self, info: ClassInfo) -> Placement:
        """Draw the next place in a row of cones or barriers that fences a strip of the carriageway off."""
        slot, sites = self._slots, len(self.layout.works)
        self._slots += 1
        (index, first), side = self.layout.works[slot % sites], self.layout.sides[slot % sites]
        street = self.layout.streets[index]
        barrier = info.name == "barrier"
        ahead = (slot // sites % 9) * 2.9 + (1.4 if barrier else 0.0) + self.rng.normal(0, 0.1)
        lateral = street.half - PARKING_M + (0.35 if barrier else 0.0)
        pose = street.poses(first + ahead, street.middle + side * lateral)
        pose[2] += np.pi / 2 + self.rng.normal(0, 0.06)  # a barrier's length is its width: it lies across its heading
        return Placement(pose, 0.0, "works")

    def _behind(self, size: np.ndarray, frame: int) -> Placement | None:
        """Draw a place behind something that is placed already, as seen from the LiDAR, off the carriageways."""
        lidar = self.lidar[frame]
        offset = self.occupancy.poses[1:, 0, :2] - lidar[:2]
        distance = np.hypot(*offset.T)
        near = np.nonzero((distance > 4) & (distance < 0.75 * self.reach_m))[0]
        if not len(near):
            return None
        chosen = near[self.rng.integers(len(near))]
        gap = np.hypot(*self.occupancy.sizes[1 + chosen]) / 2 + np.hypot(*size[:2]) / 2 + self.rng.uniform(0.5, 3)
        position = lidar[:2] + offset[chosen] * (1 + gap / distance[chosen])
        if any(street.off_middle(position) < street.half + size[0] / 2 for street in self.layout.streets):
            return None
        pose = np.array([*position, self.rng.uniform(-np.pi, np.pi)])
        return Placement(pose, 0.0, "plot" if self.layout.clear_of_streets(position) else "pavement")
