"""Objects along the streets that are never labelled: buildings, walls, hedges, trees, bushes, lamps and signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqr_bench.world.actor import Actor, cuboids
from aqr_bench.world.appearance import TEXELS, rgb
from aqr_bench.world.geometry import footprint
from aqr_bench.world.light import LIT, Light
from aqr_bench.world.placement import Occupancy
from aqr_bench.world.road import Layout, Street

REACH_M = 56.0  # things stand within this distance of the ego path
_BOX = [(0, 1, 0, 1, 0, 1)]


@dataclass(frozen=True)
class Plot:
    """A piece of land beside a street: ``corners`` (4, 2) in the global frame, ``colour`` (3,) of its ground."""

    corners: np.ndarray
    colour: np.ndarray


@dataclass
class _Site:
    """What the drawing of the scenery needs to know, and what it has drawn so far."""

    layout: Layout
    occupancy: Occupancy
    times: int
    light: Light
    rng: np.random.Generator
    clutter: float
    things: list[Actor]
    plots: list[Plot]

    def add(self, name, pose, size, parts, textures, intensity, margin=0.2, ground_size=None) -> bool:
        """Add a thing unless its ``ground_size`` (2,) overlaps another or comes within ``margin`` of the pavements."""
        base = np.asarray(size[:2] if ground_size is None else ground_size, float)
        if margin is not None:
            corner = footprint(pose, base[0], base[1])
            edge = np.concatenate([corner, (corner + np.roll(corner, 1, 0)) / 2])
            if not self.layout.clear_of_streets(edge, margin):
                return False
        if not self.occupancy.add_if_free(np.broadcast_to(pose, (self.times, 3)), base):
            return False
        textures = np.ascontiguousarray(textures, np.float32)
        intensity = np.clip(np.asarray(intensity) * np.exp(self.rng.normal(0, 0.2)), 2, 240)
        self.things.append(Actor(name, None, None, np.array(size, float), pose, 0.0, 0.0, parts, textures, intensity))
        return True


def draw_scenery(
    layout: Layout, travel_m: float, occupancy: Occupancy, light: Light, clutter: float, rng: np.random.Generator
) -> tuple[list[Actor], list[Plot], np.ndarray]:
    """Draw the roadside of a scene; ``clutter`` 0 .. 1 is how much of it is built up and overgrown.

    Returns the objects, which are added to the ``occupancy``, the plots of land and the places (L, 2) of street lamps.
    """
    site = _Site(layout, occupancy, occupancy.poses.shape[1], light, rng, clutter, [], [])
    spans = [(-REACH_M, REACH_M + travel_m), (-REACH_M, REACH_M)]
    for index, street in enumerate(layout.streets):
        for side in (-1, 1):
            _plots(site, index, street, side, *spans[index])
    lamps = []
    for index, street in enumerate(layout.streets):
        for side in (-1, 1):
            _kerbside(site, index, street, side, *spans[index], lamps)
    return site.things, site.plots, np.array(lamps).reshape(-1, 2)


def _plots(site: _Site, index: int, street: Street, side: int, first: float, last: float) -> None:
    """Part the land on one side of a street into plots, and build and plant on each."""
    rng, station = site.rng, first + site.rng.uniform(0, 8)
    while station < last:
        length = rng.uniform(12, 22)
        middle = station + length / 2
        station += length
        blocked = site.layout.in_junction(
            index, np.array([middle - length / 2, middle, middle + length / 2]), 3.0
        ).any()
        if blocked or (index == 1 and abs(middle) < site.layout.streets[0].edge + 18):
            continue  # the corner plots belong to the ego's street
        draw = rng.random()
        front = street.edge + rng.uniform(0.6, 3.0) + (rng.uniform(3, 9) if rng.random() < 0.3 else 0.0)
        ground = [(0.42, 0.42, 0.42), (0.37, 0.36, 0.35), (0.30, 0.38, 0.24), (0.45, 0.42, 0.34)][rng.integers(4)]
        colour = np.array(ground) * rng.uniform(0.85, 1.15)
        depth, tight = 16.0, 1 - side * street.curvature * (street.edge + 8)  # plots on the inner side are shorter
        edge = np.array([[-0.5, 0.0], [0.5, 0.0], [0.5, depth], [-0.5, depth]])
        corners = street.poses(middle + edge[:, 0] * length, street.middle + side * (street.edge + edge[:, 1]))[:, :2]
        site.plots.append(Plot(corners, colour))
        built = 0.75 * site.clutter
        if draw < built:
            _building(site, street, middle, side, front, length * tight - 1.0)
        elif draw < built + 0.12:
            _wall(site, street, middle, side, street.edge + 0.5, length * tight - 2.0)
        for _ in range(rng.poisson(1.5 * site.clutter + 0.3)):
            position = street.poses(
                middle + rng.uniform(-0.5, 0.5) * length,
                street.middle + side * (street.edge + rng.uniform(1.5, 26)),
            )
            _tree(site, position, 0.2) if rng.random() < 0.5 else _bush(site, position)


def _kerbside(
    site: _Site, index: int, street: Street, side: int, first: float, last: float, lamps: list[np.ndarray]
) -> None:
    """Put lamps, trees and signs on one pavement."""
    rng, station = site.rng, first + site.rng.uniform(0, 10)
    has_lamps, has_trees = rng.random() < 0.7, rng.random() < 0.25 + 0.6 * site.clutter
    while station < last:
        station += rng.uniform(7, 14)
        if site.layout.in_junction(index, station, 5.0) or any(
            street_index == index and abs(zebra - station) < 2.5 for street_index, zebra in site.layout.zebras
        ):
            continue
        draw = rng.random()
        pose = street.poses(station, street.middle + side * (street.half + 0.5))
        if draw < 0.3 and has_lamps:
            pose[2] -= side * np.pi / 2  # its arm reaches over the street
            if _lamp(site, pose):
                lamps.append(street.poses(station, street.middle + side * (street.half - 1.0))[:2])
        elif draw < 0.75 and has_trees:
            _tree(site, street.poses(station, street.middle + side * (street.half + 1.7)), None)
        elif draw > 0.9 - 0.1 * site.clutter:
            _sign(site, pose)


def _building(site: _Site, street: Street, station: float, side: int, front: float, length: float) -> None:
    rng = site.rng
    depth, height = rng.uniform(8, 13), rng.choice([4.0, 6.5, 9.5, 13.0]) * rng.uniform(0.9, 1.1)
    for back in (0.0, 1.5, 4.0):  # a straight front on a bend needs to stand back
        pose = street.poses(station, street.middle + side * (front + back + depth / 2))
        size = (max(length, 4.0), depth, height)
        if site.add("building", pose, size, cuboids(_BOX, np.array(size), 0.0), _facade(site, size), [30.0]):
            return


def _facade(site: _Site, size: tuple[float, float, float]) -> np.ndarray:
    """Return the faces (1, 6, S, S, 3) of a building: dull walls with rows of windows, a few lit by night."""
    rng = site.rng
    wall = rgb(rng.choice([20.0, 35.0, 45.0, 210.0]), rng.uniform(0.02, 0.28), rng.uniform(0.4, 0.75))
    face = np.broadcast_to(wall, (6, TEXELS, TEXELS, 3)) * (1 + rng.normal(0, 0.03, (6, TEXELS, TEXELS, 1)))
    storeys = max(1, min(4, round(size[2] / 3)))
    rows = np.arange(TEXELS) % (TEXELS // storeys)
    tall = (rows >= TEXELS // storeys // 3) & (rows < TEXELS // storeys * 0.75)
    wide = np.isin(np.arange(TEXELS) % 4, (1, 2))
    glass = np.array([0.22, 0.26, 0.32]) * rng.uniform(0.7, 1.3)
    windows = tall[:, None] & wide
    face[:4, windows] = glass
    if site.light.night:
        pane = rng.random((4, TEXELS // 4, TEXELS // 4)) < 0.25
        pane = pane.repeat(4, 1).repeat(4, 2) & windows
        face[:4][pane] = np.array([0.95, 0.8, 0.5]) * LIT * 0.6
    face[4:] = wall * 0.7
    return face[None]


def _wall(site: _Site, street: Street, station: float, side: int, front: float, length: float) -> None:
    rng, hedge = site.rng, site.rng.random() < 0.5
    size = np.array([max(length, 2.0), 0.9 if hedge else 0.3, rng.uniform(1.0, 2.2)])
    pose = street.poses(station, street.middle + side * (front + size[1] / 2 + abs(street.curvature) * length**2 / 8))
    texture = _leaves(rng, 1) if hedge else _masonry(rng)
    site.add("hedge" if hedge else "wall", pose, size, cuboids(_BOX, size, 0.0), texture, [22.0 if hedge else 32.0])


def _tree(site: _Site, position: np.ndarray, margin: float | None) -> None:
    """A trunk and two boxes of leaves. On a pavement (``margin`` None) only the trunk keeps others off: people walk
    below the crown. Elsewhere the crown does, or a lorry would stand in it.
    """
    rng = site.rng
    pose = np.array([position[0], position[1], rng.uniform(-np.pi, np.pi)])
    trunk, low, high = rng.uniform(0.12, 0.2), rng.uniform(2.5, 3.0), rng.uniform(1.4, 2.2)
    wide = rng.uniform(0.85, 1.15) if margin is None else rng.uniform(1.0, 1.9)
    parts = np.array(
        [
            [0, 0, low / 2 + 0.1, trunk, trunk, low / 2 + 0.1],
            [0, 0, low + high / 2, wide, wide, high / 2],
            [0, 0, low + high * 1.3, 0.65 * wide, 0.65 * wide, high * 0.3],
        ]
    )
    bark = np.broadcast_to(np.array([0.27, 0.21, 0.16]) * rng.uniform(0.8, 1.2), (1, 6, TEXELS, TEXELS, 3))
    size = np.array([2 * wide, 2 * wide, low + 1.6 * high])
    textures = np.concatenate([bark, _leaves(rng, 2)])
    ground = np.array([0.5, 0.5]) if margin is None else size[:2]
    site.add("tree", pose, size, parts, textures, [20.0, 18.0, 18.0], margin, ground)


def _bush(site: _Site, position: np.ndarray) -> None:
    size = site.rng.uniform([0.6, 0.6, 0.5], [1.8, 1.5, 1.4])
    pose = np.array([position[0], position[1], site.rng.uniform(-np.pi, np.pi)])
    site.add("bush", pose, size, cuboids(_BOX, size, 0.0), _leaves(site.rng, 1), [18.0])


def _lamp(site: _Site, pose: np.ndarray) -> bool:
    """A pole with an arm; by night its head shines."""
    parts = np.array([[0, 0, 2.9, 0.08, 0.08, 2.9], [0.7, 0, 5.75, 0.75, 0.1, 0.08]])
    steel = np.full((2, 6, TEXELS, TEXELS, 3), 0.45)
    if site.light.night:
        steel[1, 5] = np.array([1.0, 0.9, 0.65]) * LIT
        steel[1, :4, :, TEXELS // 2 :] = np.array([1.0, 0.9, 0.65]) * LIT
    return site.add("lamp", pose, (0.3, 0.3, 5.8), parts, steel, [45.0, 45.0], None, (0.3, 0.3))


def _sign(site: _Site, pose: np.ndarray) -> None:
    """A plate on a pole that returns almost all the light."""
    tall = site.rng.uniform(2.2, 2.8)
    parts = np.array([[0, 0, tall / 2, 0.04, 0.04, tall / 2], [0.05, 0, tall - 0.3, 0.02, 0.32, 0.32]])
    plate = np.broadcast_to(
        [(0.15, 0.25, 0.5), (0.8, 0.8, 0.78), (0.55, 0.55, 0.5)][site.rng.integers(3)], (6, 16, 16, 3)
    )
    steel = np.full((6, TEXELS, TEXELS, 3), 0.5)
    pose = pose + np.array([0, 0, np.pi])
    site.add("sign", pose, (0.4, 0.7, tall), parts, np.stack([steel, plate]), [45.0, 215.0], None, (0.3, 0.7))


def _leaves(rng: np.random.Generator, count: int) -> np.ndarray:
    base = rgb(rng.uniform(70, 105), rng.uniform(0.3, 0.5), rng.uniform(0.24, 0.4))
    blotches = np.exp(rng.normal(0, 0.3, (count, 6, TEXELS // 2, TEXELS // 2, 1))).repeat(2, 2).repeat(2, 3)
    return np.clip(base * blotches, 0, 0.75)


def _masonry(rng: np.random.Generator) -> np.ndarray:
    base = rgb(rng.uniform(15, 50), rng.uniform(0.05, 0.25), rng.uniform(0.45, 0.7))
    return base * np.clip(1 + rng.normal(0, 0.08, (1, 6, TEXELS, TEXELS, 1)), 0.7, 1.2)
