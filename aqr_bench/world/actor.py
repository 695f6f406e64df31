"""One object of a scene, labelled or not: its box, its motion, the cuboids it is made of and their faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqr_bench.world.geometry import arc

# The solid is a little smaller than its annotated box, as annotated boxes are: range noise then leaves most of its
# points inside the box.
SKIN_M = 0.04


@dataclass(frozen=True)
class Actor:
    """A labelled object, an unlabelled distractor or a piece of scenery (``category`` None). Sizes l, w, h in metres.

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


def cuboids(extents: list[tuple[float, ...]], size: np.ndarray, skin_m: float = SKIN_M) -> np.ndarray:
    """Return centre and half size (P, 6) in metres of parts given as fractions of a box of ``size`` (l, w, h)."""
    skin = np.minimum(skin_m, 0.08 * size)
    low, high = np.array(extents).reshape(-1, 3, 2).transpose(2, 0, 1)
    inner = size - np.array([2, 2, 1]) * skin  # on the ground: no skin below
    base = np.array([-inner[0] / 2, -inner[1] / 2, 0])
    return np.concatenate([base + (low + high) / 2 * inner, (high - low) / 2 * inner], 1)
