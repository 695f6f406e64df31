"""Occluded nuScenes' LiDAR occlusions: exact shares, sides and sectors as seen from the car's origin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from corruption_frames import make_frame

from aqr_bench.corruptions import Frame, corrupt, get_corruption
from aqr_bench.study.load import load_suite

AHEAD = {"front": (1, 0), "back": (-1, 0), "left": (0, 1), "right": (0, -1)}  # in the car's frame


def at(xy_car: np.ndarray, lidar2ego: np.ndarray | None = None) -> Frame:
    """A frame of one cloud with points at these places of the car's frame."""
    frame = make_frame()
    xyz = np.column_stack([xy_car, np.zeros(len(xy_car))])
    if lidar2ego is None:  # nuScenes' LiDAR: x right, y ahead, 0.94 m in front of the origin
        xyz = np.column_stack([-xyz[:, 1], xyz[:, 0] - 0.94, xyz[:, 2]])
    else:
        xyz = (xyz - lidar2ego[:3, 3]) @ lidar2ego[:3, :3]
    points = np.column_stack([xyz, np.arange(len(xyz)), np.zeros(len(xyz))]).astype(np.float32)
    return replace(frame, clouds=(replace(frame.clouds[0], points=points),), lidar2ego=lidar2ego)


def left(name: str, frame: Frame) -> set[int]:
    return set(corrupt(get_corruption(f"occluded_nuscenes.{name}"), frame).clouds[0].points[:, 3].astype(int))


@pytest.mark.parametrize(("severity", "share"), enumerate((0.6, 0.7, 0.8, 0.9), 1))
def test_the_share_is_dropped_from_every_sweep(severity, share):
    frame = make_frame(points=1000, sweeps=2)
    out = corrupt(get_corruption("occluded_nuscenes.point_drop", severity), frame)
    assert [len(cloud.points) for cloud in out.clouds] == [round(1000 * (1 - share))] * 3


@pytest.mark.parametrize("mounting", ["as nuScenes'", "x ahead"])
@pytest.mark.parametrize("side", AHEAD)
def test_sides_and_sectors_are_those_of_the_car(side, mounting):
    angle = np.radians(np.arange(2.5, 360.0, 5.0))
    xy = np.column_stack([np.cos(angle), np.sin(angle)])
    lidar2ego = None
    if mounting == "x ahead":
        lidar2ego = np.eye(4)
        lidar2ego[:3, 3] = 1.0, 0.2, 1.8
    frame, along = at(0.5 * xy, lidar2ego), xy @ AHEAD[side]
    assert left(f"region_{side}", frame) == set(np.flatnonzero(along <= 0))
    assert left(f"sector_{side}", frame) == set(np.flatnonzero(along < np.cos(np.radians(45))))
    assert (len(left(f"region_{side}", frame)), len(left(f"sector_{side}", frame))) == (36, 54)


def test_the_suite_has_them_all():
    names = {condition.name for condition in load_suite("occluded_nuscenes").conditions}
    sides = {f"{kind}_{side}" for kind in ("region", "sector") for side in AHEAD}
    assert names == {"clean", *sides, *(f"point_drop_{severity}" for severity in (1, 2, 3, 4))}
