"""Colours: the painted faces of every class and the grey of the distractors."""

from __future__ import annotations

import colorsys

import numpy as np

from aqr_bench.world.classes import ClassInfo
from aqr_bench.world.light import LIT

TEXELS = 16
# Faces of a cuboid, in the order of a texture: +x, -x, +y, -y, +z, -z.
FRONT, BACK, LEFT, RIGHT, TOP, BOTTOM = range(6)
GLASS = np.array([0.10, 0.13, 0.17])
RUBBER = np.array([0.05, 0.05, 0.06])
HEADLAMP = np.array([0.98, 0.97, 0.85])
SKIN_TONES = np.array([[0.95, 0.78, 0.66], [0.78, 0.57, 0.42], [0.50, 0.34, 0.25]])


def paint(
    info: ClassInfo | None,
    roles: list[str],
    category: str,
    attribute: str | None,
    rng: np.random.Generator,
    variation: float = 1.0,
    dark: bool = False,
    lit: bool = False,
) -> np.ndarray:
    """Paint the parts of one object; ``info`` None paints a distractor. Returns (P, 6, S, S, 3) float32.

    Colours lie in 0 .. 1, but for the lamps of a thing that is ``lit``, which shine. ``variation`` scales how much
    objects of one class differ in colour; ``dark`` paint has half the brightness. Rows run from the top down. Columns
    run from back to front on the sides and on top, from right to left at the ends.
    """
    if info is None:
        return np.stack([_clutter(rng)] * len(roles)).astype(np.float32)
    hue, saturation, value = info.colour_hsv
    hue += variation * rng.normal(0, 6)
    saturation *= np.exp(variation * rng.normal(0, 0.08))
    value *= np.exp(variation * rng.normal(0, 0.12)) * (0.5 if dark else 1.0)
    base = rgb(hue, saturation, value)
    tail = np.array([0.95, 0.06, 0.05]) if attribute == "vehicle.stopped" else np.array([0.55, 0.05, 0.05])
    painter = _PAINTERS.get(info.name)  # none for classes of the user: one colour
    painted = [painter(_plain(base), role, base, tail, rng) if painter else _plain(base) for role in roles]
    if category == "human.pedestrian.construction_worker":
        painted[0][:4, 5:8] = (0.75, 0.95, 0.15)
    painted = np.clip(np.stack(painted), 0, 1)
    if lit:
        shining = (painted == HEADLAMP).all(-1) | (painted == tail).all(-1)
        painted[shining] *= LIT
    return painted.astype(np.float32)


def rgb(hue_deg: float, saturation: float, value: float) -> np.ndarray:
    """Return a colour (3,) in 0 .. 1 from its hue in degrees, saturation and value."""
    return np.array(colorsys.hsv_to_rgb(hue_deg / 360 % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def _plain(colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, (6, TEXELS, TEXELS, 3)).copy()


def _clutter(rng: np.random.Generator) -> np.ndarray:
    """Dull grey or brownish patches: nothing that belongs to a class looks like it."""
    grey = rng.uniform(0.3, 0.7)
    tint = grey * (1 + rng.uniform(-0.05, 0.05, 3))
    blocks = 1 + rng.normal(0, 0.16, (6, 4, 4, 1))
    return np.clip(tint * blocks.repeat(TEXELS // 4, 1).repeat(TEXELS // 4, 2), 0, 1)


def _wheels(face: np.ndarray, columns: tuple[int, ...], top: int) -> None:
    for column in columns:
        face[LEFT : RIGHT + 1, top:, column : column + 3] = RUBBER


def _lamps(face: np.ndarray, tail: np.ndarray, rows: slice) -> None:
    for side in (slice(0, 4), slice(12, 16)):
        face[FRONT, rows, side] = HEADLAMP
        face[BACK, rows, side] = tail


def _car(face, role, base, tail, rng):
    if role == "body":
        _wheels(face, (2, 11), 9)
        _lamps(face, tail, slice(3, 8))
    else:
        face[:4, 2:12] = GLASS
        face[LEFT : RIGHT + 1, :, 7:9] = base
    return face


def _truck(face, role, base, tail, rng):
    if role == "cab":
        face[FRONT, 2:8] = GLASS
        face[LEFT : RIGHT + 1, 2:7, 5:14] = GLASS
        _wheels(face, (6,), 13)
        _lamps(face, tail, slice(11, 14))
    else:
        face[:4] = 0.35 * base + 0.6  # a pale box behind a coloured cab
        face[:4, 2:4] = base
        face[:4, 13:] = RUBBER * 2
        _wheels(face, (1, 5), 13)
        _lamps(face, tail, slice(11, 13))
    return face


def _bus(face, role, base, tail, rng):
    face[:4, 3:8] = GLASS
    face[LEFT : RIGHT + 1, 3:8, 3::4] = base
    _wheels(face, (2, 12), 13)
    _lamps(face, tail, slice(11, 14))
    return face


def _trailer(face, role, base, tail, rng):
    face[:4, :, ::4] = base * 0.55  # upright ribs, no windows
    face[:4, 13:] = RUBBER * 2
    _wheels(face, (1, 4), 13)
    face[BACK, 10:13, :3] = face[BACK, 10:13, 13:] = tail
    return face


def _construction_vehicle(face, role, base, tail, rng):
    rows, columns = np.mgrid[:TEXELS, :TEXELS]
    stripes = (rows + columns) // 4 % 2 == 0
    if role == "cab":
        face[:4, 2:9] = GLASS
        face[:4, 2:9, ::5] = base
    else:
        face[:4, stripes] = (0.06, 0.06, 0.06)
    _wheels(face, (1, 6, 12), 12)
    _lamps(face, tail, slice(10, 12))
    return face


def _pedestrian(face, role, base, tail, rng):
    face[:4, :3] = SKIN_TONES[rng.integers(3)]
    face[:4, 9:] = rgb(rng.uniform(200, 250), 0.5, 0.3)
    face[TOP] = (0.2, 0.14, 0.1)
    return face


def _cycle(face, role, base, tail, rng):
    if role == "rider":
        face[:4, :5] = base * 0.5 + 0.45
        face[TOP] = base * 0.5 + 0.45
    elif role == "frame":
        _wheels(face, (1, 12), 8)
    return face


def _bicycle(face, role, base, tail, rng):
    face = _cycle(face, role, base, tail, rng)
    if role == "frame":
        face[LEFT : RIGHT + 1, 2:8, 5:7] = face[LEFT : RIGHT + 1, 2:8, 9:11] = 0.9  # an open, pale frame
    return face


def _motorcycle(face, role, base, tail, rng):
    face = _cycle(face, role, base, tail, rng)
    if role == "frame":
        face[:4, 8:] = RUBBER * 2
        face[BACK, 3:7] = tail
    return face


def _traffic_cone(face, role, base, tail, rng):
    if role == "cone":
        face[:4, 3:6] = face[:4, 9:12] = 0.97
    return face


def _barrier(face, role, base, tail, rng):
    face[:4, :, :] = np.where((np.arange(TEXELS) // 3 % 2 == 0)[:, None], base, 0.95)
    face[TOP] = 0.9
    return face


_PAINTERS = {
    "car": _car,
    "truck": _truck,
    "bus": _bus,
    "trailer": _trailer,
    "construction_vehicle": _construction_vehicle,
    "pedestrian": _pedestrian,
    "motorcycle": _motorcycle,
    "bicycle": _bicycle,
    "traffic_cone": _traffic_cone,
    "barrier": _barrier,
}
