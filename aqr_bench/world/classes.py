"""Object classes: size, motion, shape and colour of each detection class, and the vocabularies of nuScenes.

Sizes follow nuScenes' class means, moved closer together where two classes should look alike to a LiDAR: bus and
trailer share one shape, truck and construction vehicle another, bicycle and motorcycle a third. Colours and patterns
tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Part: role and the extent of a cuboid within its box, as fractions: x from back (0) to front (1), y from right (0)
# to left (1), z from ground (0) to top (1): (x0, x1, y0, y1, z0, z1).
Part = tuple[str, tuple[float, float, float, float, float, float]]

_CAR: tuple[Part, ...] = (("body", (0, 1, 0, 1, 0, 0.56)), ("cabin", (0.14, 0.72, 0.06, 0.94, 0.56, 1)))
_LORRY: tuple[Part, ...] = (("cab", (0.74, 1, 0.03, 0.97, 0, 0.86)), ("cargo", (0, 0.72, 0, 1, 0, 1)))
_BLOCK: tuple[Part, ...] = (("block", (0, 1, 0, 1, 0, 1)),)
_CYCLE: tuple[Part, ...] = (("frame", (0, 1, 0.28, 0.72, 0, 0.62)), ("rider", (0.25, 0.68, 0, 1, 0.5, 1)))
CYCLE_ALONE_PARTS: tuple[Part, ...] = (("frame", (0, 1, 0.28, 0.72, 0, 0.92)), ("bars", (0.7, 0.86, 0, 1, 0.75, 1)))
_PERSON: tuple[Part, ...] = (("person", (0, 1, 0, 1, 0, 1)),)
_CONE: tuple[Part, ...] = (("base", (0, 1, 0, 1, 0, 0.1)), ("cone", (0.18, 0.82, 0.18, 0.82, 0.1, 1)))
_BARRIER: tuple[Part, ...] = (("barrier", (0, 1, 0, 1, 0, 1)),)


@dataclass(frozen=True)
class ClassInfo:
    """One detection class. Sizes in metres, speeds in m/s, colours as (hue in degrees, saturation, value).

    ``range_share`` keeps small things within the range in which the detection benchmark counts them.
    """

    name: str
    categories: tuple[tuple[str, float], ...]  # nuScenes category and its share
    size_lwh: tuple[float, float, float]
    parts: tuple[Part, ...]
    frequency: float
    moving_share: float
    speed: tuple[float, float]
    colour_hsv: tuple[float, float, float]
    intensity: float  # mean LiDAR reflectance, 0 .. 255
    attributes: str  # family of attributes: vehicle, cycle, pedestrian or none
    range_share: float


# fmt: off
CLASSES: tuple[ClassInfo, ...] = tuple(ClassInfo(*row) for row in (
    # name, categories, size (l, w, h), parts, frequency, moving share, speed, colour, intensity, attributes, range
    ("car", (("vehicle.car", 1),),
     (4.6, 1.95, 1.7), _CAR, 0.2, 0.5, (3, 10), (218, 0.8, 0.72), 34, "vehicle", 1),
    ("truck", (("vehicle.truck", 1),),
     (7.2, 2.55, 3.0), _LORRY, 0.09, 0.5, (3, 9), (275, 0.6, 0.7), 36, "vehicle", 1),
    ("bus", (("vehicle.bus.rigid", 1),),
     (9.4, 2.8, 3.35), _BLOCK, 0.08, 0.55, (3, 8), (52, 0.85, 0.9), 40, "vehicle", 1),
    ("trailer", (("vehicle.trailer", 1),),
     (8.8, 2.65, 3.4), _BLOCK, 0.08, 0.4, (3, 8), (180, 0.75, 0.75), 44, "vehicle", 1),
    ("construction_vehicle", (("vehicle.construction", 1),),
     (6.5, 2.65, 3.1), _LORRY, 0.08, 0.35, (1, 3), (28, 0.95, 0.9), 38, "vehicle", 1),
    ("pedestrian", (("human.pedestrian.adult", 0.85), ("human.pedestrian.construction_worker", 0.15)),
     (0.72, 0.68, 1.76), _PERSON, 0.15, 0.65, (0.6, 1.7), (318, 0.75, 0.85), 26, "pedestrian", 0.92),
    ("motorcycle", (("vehicle.motorcycle", 1),),
     (2.05, 0.8, 1.5), _CYCLE, 0.08, 0.6, (3, 9), (2, 0.9, 0.75), 32, "cycle", 0.92),
    ("bicycle", (("vehicle.bicycle", 1),),
     (1.75, 0.66, 1.4), _CYCLE, 0.08, 0.6, (2, 5), (130, 0.85, 0.6), 28, "cycle", 0.92),
    ("traffic_cone", (("movable_object.trafficcone", 1),),
     (0.44, 0.44, 1.05), _CONE, 0.09, 0, (0, 0), (16, 0.95, 0.98), 60, "none", 0.72),
    ("barrier", (("movable_object.barrier", 1),),
     (0.55, 2.5, 1.0), _BARRIER, 0.07, 0, (0, 0), (355, 0.85, 0.85), 50, "none", 0.72),
))
# fmt: on

# Annotated boxes of nuScenes v1.0-trainval by detection class; where the numbers come from: docs/world.md.
NUSCENES_COUNTS: dict[str, int] = {
    "car": 493_322,
    "truck": 88_519,
    "bus": 16_321,
    "trailer": 24_860,
    "construction_vehicle": 14_671,
    "pedestrian": 220_194,
    "motorcycle": 12_617,
    "bicycle": 11_859,
    "traffic_cone": 97_959,
    "barrier": 152_087,
}


def class_shares(class_mix: str, classes: Sequence[ClassInfo] = CLASSES) -> np.ndarray:
    """Return the share of each class among the objects, for ``class_mix`` balanced or nuscenes.

    A class that does not ship has its ``frequency``, beside the others' sum of 1, in either mix.
    """
    total = sum(NUSCENES_COUNTS.values()) if class_mix == "nuscenes" else 1
    counts = NUSCENES_COUNTS if class_mix == "nuscenes" else {}
    weights = [counts.get(info.name, info.frequency * total) for info in classes]
    return np.array(weights) / sum(weights)


# nuScenes' 23 categories, 8 attributes and 4 visibility levels, by their own names.
CATEGORIES: tuple[tuple[str, str], ...] = (
    ("human.pedestrian.adult", "A grown person."),
    ("human.pedestrian.child", "A child."),
    ("human.pedestrian.wheelchair", "A wheelchair and who sits in it."),
    ("human.pedestrian.stroller", "A pushchair."),
    ("human.pedestrian.personal_mobility", "A skateboard, scooter or the like in use."),
    ("human.pedestrian.police_officer", "A police officer."),
    ("human.pedestrian.construction_worker", "A person at work on a building site."),
    ("animal", "Any animal."),
    ("vehicle.car", "A passenger car."),
    ("vehicle.motorcycle", "A motorcycle, with its rider if there is one."),
    ("vehicle.bicycle", "A bicycle, with its rider if there is one."),
    ("vehicle.bus.bendy", "A bus with a joint."),
    ("vehicle.bus.rigid", "A bus without a joint."),
    ("vehicle.truck", "A lorry or pick-up."),
    ("vehicle.construction", "A machine made for building work."),
    ("vehicle.emergency.ambulance", "An ambulance."),
    ("vehicle.emergency.police", "A police vehicle."),
    ("vehicle.trailer", "A trailer, drawn or parked."),
    ("movable_object.barrier", "A barrier that can be moved."),
    ("movable_object.trafficcone", "A traffic cone."),
    ("movable_object.pushable_pullable", "A thing people push or pull, such as a bin."),
    ("movable_object.debris", "Debris too large to drive over."),
    ("static_object.bicycle_rack", "A place where bicycles are locked."),
)
ATTRIBUTES: tuple[tuple[str, str], ...] = (
    ("vehicle.moving", "The vehicle moves."),
    ("vehicle.stopped", "The vehicle stands but is about to go on."),
    ("vehicle.parked", "The vehicle is parked."),
    ("cycle.with_rider", "Someone rides it."),
    ("cycle.without_rider", "Nobody rides it."),
    ("pedestrian.sitting_lying_down", "The person sits or lies."),
    ("pedestrian.standing", "The person stands."),
    ("pedestrian.moving", "The person walks or runs."),
)
# token, level, upper limit of the share of visible pixels
VISIBILITY: tuple[tuple[str, str, float], ...] = (
    ("1", "v0-40", 0.4),
    ("2", "v40-60", 0.6),
    ("3", "v60-80", 0.8),
    ("4", "v80-100", 1.0),
)


def visibility_token(visible_share: float) -> str:
    """Return the token of the visibility level that holds ``visible_share`` (0 .. 1)."""
    for token, _, upper in VISIBILITY:
        if visible_share <= upper:
            return token
    return VISIBILITY[-1][0]
