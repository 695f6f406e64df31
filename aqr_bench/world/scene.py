"""Simulate one scene: who stands where, how it moves, how it looks, and the light it all is seen in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqr_bench.errors import UserError
from aqr_bench.world.appearance import Light, draw_light, paint
from aqr_bench.world.classes import CLASSES, CYCLE_ALONE_PARTS, ClassInfo
from aqr_bench.world.geometry import Solids, arc, overlap, rotate
from aqr_bench.world.rig import EGO_CENTER_M, EGO_LENGTH_M, EGO_WIDTH_M, lidar_pose
from aqr_bench.world.spec import WorldSpec

MAP_SIZE_M = 400.0  # scenes lie near the middle of a square map of this side
ROAD_CENTER_M, ROAD_HALF_WIDTH_M = 2.0, 6.0  # the car drives on the right: the middle of the road is on its left
GAP_M = 0.3  # least distance between boxes
EGO_GAP_M = 1.0
# The solid is a little smaller than its annotated box, as annotated boxes are: range noise then leaves most of its
# points inside the box.
SKIN_M = 0.04


@dataclass(frozen=True)
class Actor:
    """A labelled object or an unlabelled distractor (``category`` None). Sizes l, w, h in metres.

    ``start`` is (x, y, yaw) at time 0, ``parts`` (P, 6) the centre and half size of its cuboids in its own frame
    (origin on the ground below the box centre), ``textures`` (P, 6, S, S, 3) their faces, ``intensity`` (P,) their
    mean LiDAR reflectance.
    """

    class_name: str
    category: str | None
    attribute: str | None
    size: np.ndarray
    start: np.ndarray
    speed: float
    yaw_rate: float
    parts: np.ndarray
    textures: np.ndarray
    intensity: np.ndarray

    def poses(self, time_s: np.ndarray) -> np.ndarray:
        """Return (x, y, yaw) at each time, shape (T, 3), in the global frame."""
        return arc(self.start, self.speed, self.yaw_rate, np.asarray(time_s))


@dataclass(frozen=True)
class Scene:
    """One simulated scene. Times are seconds since its first keyframe."""

    split: int  # 0 train, 1 val
    index: int
    ego_start: np.ndarray
    ego_speed: float
    ego_yaw_rate: float
    light: Light
    dropout: float
    actors: tuple[Actor, ...]

    def ego_pose(self, time_s: float | np.ndarray) -> np.ndarray:
        """Return the ego pose (x, y, yaw) at a time, or poses (T, 3) at times (T,), in the global frame."""
        return arc(self.ego_start, self.ego_speed, self.ego_yaw_rate, np.asarray(time_s))

    @property
    def curvature(self) -> float:
        """Curvature of the road in 1/m, positive to the left."""
        return self.ego_yaw_rate / self.ego_speed if self.ego_speed else 0.0

    def solids(self, time_s: float) -> Solids:
        """Return all cuboids at a time, in the global frame."""
        centers, yaws, halves, owners = [], [], [], []
        for index, actor in enumerate(self.actors):
            pose = actor.poses(time_s)
            center = actor.parts[:, :3].copy()
            center[:, :2] = pose[:2] + rotate(center[:, :2], pose[2])
            centers.append(center)
            yaws.append(np.full(len(center), pose[2]))
            halves.append(actor.parts[:, 3:])
            owners.append(np.full(len(center), index))
        if not centers:
            return Solids(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)), np.zeros(0, int))
        return Solids(*(np.concatenate(parts) for parts in (centers, yaws, halves, owners)))


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
    """Tell (..., K) whether points (..., K, 2) lie in the annotated square around the LiDAR at poses (K, 3)."""
    local = rotate(xy - lidar_poses[:, :2], -lidar_poses[:, 2])
    return np.abs(local).max(-1) <= spec.half_range_m


def simulate(spec: WorldSpec, split: int, index: int) -> Scene:
    """Draw scene ``index`` of split 0 (train) or 1 (val). Raises UserError if the objects asked for do not fit."""
    rng = stream(spec, split, index)
    start = np.array([*(MAP_SIZE_M / 2 + rng.uniform(-30, 30, 2)), rng.uniform(-np.pi, np.pi)])
    standing = rng.random() < 0.12
    ego_speed = 0.0 if standing else float(rng.uniform(1.5, 9.0))
    ego_yaw_rate = 0.0 if standing else float(np.clip(rng.normal(0, 0.05), -0.15, 0.15))
    light = draw_light(spec, rng)
    dropout = float(rng.uniform(*spec.dropout))

    keys = keyframe_times(spec)
    times = np.unique(np.concatenate([sweep_times(spec, n).ravel() for n in (spec.lidar_sweeps, spec.camera_sweeps)]))
    ego = arc(start, ego_speed, ego_yaw_rate, times)
    lidar_keys = np.stack([lidar_pose(pose) for pose in arc(start, ego_speed, ego_yaw_rate, keys)])
    crowd = _Crowd(ego)
    wanted = spec.objects_per_frame * rng.uniform(0.8, 1.2)
    actors = []
    for labelled, count in ((True, wanted), (False, wanted * spec.distractor_ratio)):
        got, tries = 0.0, 0
        while got < count:
            tries += 1
            if tries > 400 + 60 * count:
                what = "objects" if labelled else "distractors"
                raise UserError(
                    f"the world is too full: {count:.0f} {what} do not fit into a range of {spec.half_range_m:g} m; "
                    "lower world.objects_per_frame or world.distractor_ratio, or raise world.half_range_m"
                )
            actor = _draw_actor(spec, rng, labelled, lidar_keys, (start, ego_yaw_rate, ego_speed))
            here = in_range(spec, lidar_keys, actor.poses(keys)[:, :2]).mean()
            if here == 0 or not crowd.admit(actor, times):
                continue
            actors.append(actor)
            got += here
    return Scene(split, index, start, ego_speed, ego_yaw_rate, light, dropout, tuple(actors))


class _Crowd:
    """The boxes admitted so far at all recording times, for refusing those that would overlap one."""

    def __init__(self, ego: np.ndarray):
        body = ego.copy()
        body[:, :2] += EGO_CENTER_M * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], -1)
        self.poses = body[None]  # (N, T, 3)
        extra = 2 * (EGO_GAP_M - GAP_M)
        self.sizes = np.array([[EGO_LENGTH_M + extra, EGO_WIDTH_M + extra]])

    def admit(self, actor: Actor, times: np.ndarray) -> bool:
        poses = actor.poses(times)
        size = actor.size[:2] + 2 * GAP_M
        reach = np.hypot(*size) / 2 + np.hypot(*self.sizes.T) / 2
        near = np.hypot(*np.moveaxis(self.poses[..., :2] - poses[:, :2], -1, 0)) < reach[:, None]
        other, moment = np.nonzero(near)
        if len(other):
            mine = np.broadcast_to(size, (len(other), 2))
            if overlap(self.poses[other, moment], self.sizes[other], poses[moment], mine).any():
                return False
        self.poses = np.concatenate([self.poses, poses[None]])
        self.sizes = np.concatenate([self.sizes, actor.size[None, :2]])
        return True


def _draw_actor(
    spec: WorldSpec,
    rng: np.random.Generator,
    labelled: bool,
    lidar_keys: np.ndarray,
    road: tuple[np.ndarray, float, float],
) -> Actor:
    weights = np.array([info.frequency for info in CLASSES])
    info = CLASSES[rng.choice(len(CLASSES), p=weights / weights.sum())]
    moving = labelled and rng.random() < info.moving_share
    speed = float(rng.uniform(*info.speed)) if moving else 0.0
    yaw_rate = float(np.clip(rng.normal(0, 0.12), -0.3, 0.3)) if moving and rng.random() < 0.4 else 0.0

    # Where: near the path, more often close by; it passes the drawn place at the drawn keyframe.
    frame = int(rng.integers(len(lidar_keys)))
    reach = spec.half_range_m * info.range_share
    if rng.random() < 0.5:
        offset = rng.uniform(-reach, reach, 2)
    else:
        angle = rng.uniform(-np.pi, np.pi)
        offset = rng.uniform(3, reach) * np.array([np.cos(angle), np.sin(angle)])
    place = lidar_keys[frame, :2] + rotate(offset, lidar_keys[frame, 2])
    lateral, heading = _road_frame(place, *road)
    if info.attributes in ("vehicle", "cycle") and rng.random() < 0.75:
        yaw = heading + (np.pi if lateral > ROAD_CENTER_M else 0.0) + rng.normal(0, 0.08)  # drives on the right
    else:
        yaw = rng.uniform(-np.pi, np.pi)
    pose = np.array([*place, yaw])
    start = arc(pose, -speed, -yaw_rate, np.array(frame * spec.keyframe_interval_s))

    size = np.array(info.size_lwh) * np.exp(rng.normal(0, spec.size_jitter, 3).clip(-0.35, 0.35))
    attribute, parts = _attribute(info, rng, moving, abs(lateral - ROAD_CENTER_M) < ROAD_HALF_WIDTH_M), info.parts
    if attribute == "cycle.without_rider":
        parts, size[2] = CYCLE_ALONE_PARTS, size[2] * 0.72
    elif attribute == "pedestrian.sitting_lying_down":
        size[2] *= 0.7
    names, shares = zip(*info.categories, strict=True)
    category = names[rng.choice(len(names), p=np.array(shares) / sum(shares))]
    textures = paint(info if labelled else None, [role for role, _ in parts], category, attribute, rng)
    intensity = np.clip(info.intensity * np.exp(rng.normal(0, 0.35, len(parts))), 2, 240)
    return Actor(
        class_name=info.name,
        category=category if labelled else None,
        attribute=attribute if labelled else None,
        size=size,
        start=start,
        speed=speed,
        yaw_rate=yaw_rate,
        parts=_cuboids([extent for _, extent in parts], size),
        textures=textures,
        intensity=intensity,
    )


def _road_frame(place: np.ndarray, start: np.ndarray, yaw_rate: float, speed: float) -> tuple[float, float]:
    """Return the signed distance to the left of the ego path and the path's heading abreast of ``place``."""
    curvature = yaw_rate / speed if speed else 0.0
    local = rotate(place - start[:2], -start[2])
    if abs(curvature) < 1e-6:
        return float(local[1]), float(start[2])
    to_center = np.array([0, 1 / curvature]) - local
    lateral = (1 / abs(curvature) - np.hypot(*to_center)) * np.sign(curvature)
    heading = np.arctan2(to_center[1], to_center[0]) - np.sign(curvature) * np.pi / 2
    return float(lateral), float(start[2] + heading)


def _attribute(info: ClassInfo, rng: np.random.Generator, moving: bool, on_road: bool) -> str | None:
    if info.attributes == "vehicle":
        return "vehicle.moving" if moving else "vehicle.stopped" if on_road else "vehicle.parked"
    if info.attributes == "cycle":
        return "cycle.with_rider" if moving or rng.random() < 0.15 else "cycle.without_rider"
    if info.attributes == "pedestrian":
        if moving:
            return "pedestrian.moving"
        return "pedestrian.sitting_lying_down" if rng.random() < 0.2 else "pedestrian.standing"
    return None


def _cuboids(extents: list[tuple[float, ...]], size: np.ndarray) -> np.ndarray:
    """Return centre and half size (P, 6) in metres of parts given as fractions of a box of ``size`` (l, w, h)."""
    skin = np.minimum(SKIN_M, 0.08 * size)
    low, high = np.array(extents).reshape(-1, 3, 2).transpose(2, 0, 1)
    inner = size - np.array([2, 2, 1]) * skin  # it stands on the ground: no skin below
    base = np.array([-inner[0] / 2, -inner[1] / 2, 0])
    return np.concatenate([base + (low + high) / 2 * inner, (high - low) / 2 * inner], 1)
