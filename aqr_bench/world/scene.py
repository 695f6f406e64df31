"""Simulate one scene: its objects, their positions, motion and looks, and the light."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from aqr_bench.errors import UserError
from aqr_bench.world.actor import Actor, cuboids
from aqr_bench.world.appearance import paint
from aqr_bench.world.classes import CYCLE_ALONE_PARTS, ClassInfo, class_shares
from aqr_bench.world.custom_classes import classes_with
from aqr_bench.world.geometry import Solids, arc, rotate
from aqr_bench.world.light import Light, draw_light, in_rain
from aqr_bench.world.placement import Occupancy, Placement, PlacementSampler
from aqr_bench.world.rig import lidar_pose
from aqr_bench.world.road import MAX_CURVATURE, Layout, Street, draw_layout
from aqr_bench.world.scenery import Plot, draw_scenery
from aqr_bench.world.spec import WorldSpec

MAP_SIZE_M = 400.0  # scenes lie near the middle of a square map of this side
DARK_REFLECTANCE = 0.07  # what a dark vehicle reflects, as a share of what others do
_RAIN_STREAM = 3  # 1 and 2 are those of the sensors
_MAX_TRIES_PER_OBJECT = 10  # so many places are tried before an object is given up and another class drawn


@dataclass(frozen=True)
class Scene:
    """One simulated scene. Times are seconds since its first keyframe.

    ``actors`` are labelled objects and distractors, ``scenery`` what is never labelled and never moves; ``lamps``
    (L, 2) are the street lamps in the global frame. Without a ``layout`` there is one street, along the ego path.
    """

    split: int  # 0 train, 1 val
    index: int
    ego_start: np.ndarray
    ego_speed: float
    ego_yaw_rate: float
    light: Light
    dropout: float
    actors: tuple[Actor, ...]
    scenery: tuple[Actor, ...] = ()
    layout: Layout | None = None
    plots: tuple[Plot, ...] = ()
    lamps: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    rain: bool = False

    def ego_pose(self, time_s: float | np.ndarray) -> np.ndarray:
        """Return the ego pose (x, y, yaw) at a time, or poses (T, 3) at times (T,), in the global frame."""
        return arc(self.ego_start, self.ego_speed, self.ego_yaw_rate, np.asarray(time_s))

    @cached_property
    def roads(self) -> Layout:
        """The streets of the scene."""
        curvature = self.ego_yaw_rate / self.ego_speed if self.ego_speed else 0.0
        return self.layout or Layout((Street(self.ego_start, curvature),))

    @cached_property
    def _things(self) -> tuple[np.ndarray, ...]:
        """Starts (A, 3), speeds, yaw rates and numbers of parts (A,) of actors and scenery, all parts (P, 6)."""
        things = self.actors + self.scenery
        counts = np.array([len(thing.parts) for thing in things], int)
        parts = np.concatenate([thing.parts for thing in things]) if things else np.zeros((0, 6))
        start = np.array([thing.start for thing in things]).reshape(-1, 3)
        speed = np.array([thing.speed for thing in things])
        return start, speed, np.array([thing.yaw_rate for thing in things]), counts, parts

    @cached_property
    def textures(self) -> np.ndarray:
        """The faces (P, 6, S, S, 3) float32 of all cuboids, in the order of ``solids``."""
        things = self.actors + self.scenery
        empty = np.zeros((1, 6, 16, 16, 3), np.float32)  # a compiled function wants an array, whatever its length
        return np.ascontiguousarray(np.concatenate([thing.textures for thing in things])) if things else empty

    @cached_property
    def intensity(self) -> np.ndarray:
        """The mean reflectance (P,) of all cuboids, 0 .. 255, in the order of ``solids``."""
        return np.concatenate([np.zeros(0), *(thing.intensity for thing in self.actors + self.scenery)])

    def solids(self, time_s: float) -> Solids:
        """Return all cuboids at a time, in the global frame; owners count the actors first, then the scenery."""
        start, speed, yaw_rate, counts, parts = self._things
        owner = np.repeat(np.arange(len(counts)), counts)
        pose = arc(start, speed, yaw_rate, np.asarray(time_s))[owner]
        center = parts[:, :3].copy()
        center[:, :2] = pose[:, :2] + rotate(center[:, :2], pose[:, 2])
        return Solids(center, pose[:, 2], parts[:, 3:], owner)


def stream(spec: WorldSpec, split: int, index: int, *purpose: int) -> np.random.Generator:
    """Return the random numbers of one scene and purpose, independent of every other and of who draws first."""
    return np.random.default_rng(np.random.SeedSequence([spec.seed, split, index, *purpose]))


def keyframe_times(spec: WorldSpec) -> np.ndarray:
    """Return the keyframe times (K,) in seconds."""
    return np.arange(spec.frames_per_scene) * spec.keyframe_interval_s


def sweep_times(spec: WorldSpec, sweeps: int) -> np.ndarray:
    """Return times (K, sweeps + 1) of a sensor: the intermediate recordings before each keyframe, then the keyframe."""
    back = np.arange(sweeps, -1, -1) / (sweeps + 1) * spec.keyframe_interval_s
    return keyframe_times(spec)[:, None] - back


def in_range(spec: WorldSpec, lidar_poses: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return (..., K) whether points (..., K, 2) lie in the annotated square around the LiDAR at poses (K, 3)."""
    local = rotate(xy - lidar_poses[:, :2], -lidar_poses[:, 2])
    return np.abs(local).max(-1) <= spec.half_range_m


def simulate(spec: WorldSpec, split: int, index: int) -> Scene:
    """Draw scene ``index`` of split 0 (train) or 1 (val). Raises UserError if the objects asked for do not fit."""
    rng = stream(spec, split, index)
    start = np.array([*(MAP_SIZE_M / 2 + rng.uniform(-30, 30, 2)), rng.uniform(-np.pi, np.pi)])
    ego_speed = 0.0 if rng.random() < 0.12 else float(rng.uniform(1.5, 9.0))
    curvature = float(np.clip(rng.normal(0, 0.01), -MAX_CURVATURE, MAX_CURVATURE))
    ego_yaw_rate = ego_speed * curvature
    light = draw_light(spec, rng)
    rain = bool(stream(spec, split, index, _RAIN_STREAM).random() < spec.rain_share)
    light = in_rain(light) if rain else light
    dropout = float(rng.uniform(*spec.dropout))

    keys = keyframe_times(spec)
    times = np.unique(np.concatenate([sweep_times(spec, n).ravel() for n in (spec.lidar_sweeps, spec.camera_sweeps)]))
    lidar = np.stack([lidar_pose(pose) for pose in arc(start, ego_speed, ego_yaw_rate, keys)])
    occupancy = Occupancy(arc(start, ego_speed, ego_yaw_rate, times))
    travel_m = ego_speed * keys[-1]
    layout = draw_layout(start, curvature, travel_m, rng)
    scenery, plots, lamps = draw_scenery(layout, travel_m, occupancy, light, spec.clutter, rng)

    sampler = PlacementSampler(layout, occupancy, lidar, spec.half_range_m, spec.hidden_share, rng)
    classes = classes_with(spec.classes)
    shares = class_shares(spec.class_mix, classes)
    wanted = spec.objects_per_frame * rng.uniform(0.8, 1.2)
    actors: list[Actor] = []
    for labelled, count in ((True, wanted), (False, wanted * spec.distractor_ratio)):
        placed, tries = 0.0, 0
        while placed < count:
            tries += 1
            if tries > 60 + 8 * count:
                what = "objects" if labelled else "distractors"
                raise UserError(
                    f"the world is too full: {count:.0f} {what} do not fit into a range of {spec.half_range_m:g} m; "
                    "lower world.objects_per_frame, world.distractor_ratio or world.clutter, or raise "
                    "world.half_range_m"
                )
            info = classes[rng.choice(len(classes), p=shares)]
            size = np.array(info.size_lwh) * np.exp(rng.normal(0, spec.size_jitter, 3).clip(-0.35, 0.35))
            speed = float(rng.uniform(*info.speed)) if labelled and rng.random() < info.moving_share else 0.0
            for _ in range(_MAX_TRIES_PER_OBJECT):
                frame = int(rng.integers(len(keys)))
                placement = sampler.draw(info, size, speed, frame)
                begin = arc(placement.pose, -speed, -placement.yaw_rate, np.asarray(frame * spec.keyframe_interval_s))
                here = in_range(spec, lidar, arc(begin, speed, placement.yaw_rate, keys)[:, :2]).mean()
                if here and occupancy.add_if_free(arc(begin, speed, placement.yaw_rate, times), size[:2]):
                    actors.append(_make_actor(spec, info, size, begin, speed, placement, labelled, light, rng))
                    placed += here
                    break
    return Scene(
        split, index, start, ego_speed, ego_yaw_rate, light, dropout, tuple(actors), tuple(scenery), layout,
        tuple(plots), lamps, rain,
    )  # fmt: skip


def _make_actor(
    spec: WorldSpec,
    info: ClassInfo,
    size: np.ndarray,
    start: np.ndarray,
    speed: float,
    placement: Placement,
    labelled: bool,
    light: Light,
    rng: np.random.Generator,
) -> Actor:
    """Return an object at its placement, with a category, an attribute, a shape and colours."""
    attribute, parts = _attribute(info, rng, speed > 0, placement.zone), info.parts
    if attribute == "cycle.without_rider":
        parts, size = CYCLE_ALONE_PARTS, size * np.array([1, 1, 0.72])
    elif attribute == "pedestrian.sitting_lying_down":
        size = size * np.array([1, 1, 0.7])
    names, shares = zip(*info.categories, strict=True)
    category = names[rng.choice(len(names), p=np.array(shares) / sum(shares))]
    dark = bool(info.attributes == "vehicle" and rng.random() < spec.dark_share)
    lit = light.night and attribute in ("vehicle.moving", "vehicle.stopped", "cycle.with_rider")
    roles = [role for role, _ in parts]
    textures = paint(
        info if labelled else None, roles, category, attribute, rng, spec.colour_variation, dark, bool(lit)
    )
    intensity = info.intensity * np.exp(rng.normal(0, 0.35, len(parts))) * (DARK_REFLECTANCE if dark else 1.0)
    return Actor(
        class_name=info.name,
        category=category if labelled else None,
        attribute=attribute if labelled else None,
        size=size,
        start=start,
        speed=speed,
        yaw_rate=placement.yaw_rate,
        parts=cuboids([extent for _, extent in parts], size),
        textures=textures,
        intensity=np.clip(intensity, 1, 240),
    )


def _attribute(info: ClassInfo, rng: np.random.Generator, moving: bool, zone: str) -> str | None:
    if info.attributes == "vehicle":
        return "vehicle.moving" if moving else "vehicle.stopped" if zone == "lane" else "vehicle.parked"
    if info.attributes == "cycle":
        return "cycle.with_rider" if moving or zone == "lane" or rng.random() < 0.1 else "cycle.without_rider"
    if info.attributes == "pedestrian":
        if moving:
            return "pedestrian.moving"
        return "pedestrian.sitting_lying_down" if rng.random() < 0.2 else "pedestrian.standing"
    return None
