"""Object classes of the user in the synthetic world: a ClassInfo in a file or package, checked when it is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aqr_bench import plugins
from aqr_bench.errors import UserError, nearest, short
from aqr_bench.study.hashes import SHORT, source_hash
from aqr_bench.world.classes import CATEGORIES, CLASSES, ClassInfo

ATTRIBUTE_FAMILIES = ("vehicle", "cycle", "pedestrian", "none")
MAX_SIDE_M = 20.0


def classes_with(names: Sequence[str]) -> tuple[ClassInfo, ...]:
    """The classes that ship, and those of the user by reference or registered name.

    Raises:
        UserError: one cannot be found, is no ClassInfo, or has values that the world cannot use.
    """
    classes = list(CLASSES)
    for name in names:
        info = plugins.find(name, plugins.WORLD_CLASSES)
        if info is None:
            remedy = "Name it as my_file.py:NAME or package.module:NAME."
            raise UserError(f"no object class '{short(name)}'", remedy)
        if not isinstance(info, ClassInfo):
            raise UserError(f"object class '{short(name)}' is of type {type(info).__name__}, expected a ClassInfo")
        if problem := next(_problems(info, [other.name for other in classes]), None):
            raise UserError(f"object class '{short(name)}': {problem}")
        classes.append(info)
    return tuple(classes)


def class_hashes(names: Sequence[str]) -> dict[str, str]:
    """Hash of each file of the user behind the names, as parts of the identity of a world."""
    files = {key: file for name in names for key, file in plugins.source_files(name, plugins.WORLD_CLASSES).items()}
    return {key: source_hash(file)[:SHORT] for key, file in sorted(files.items())}


def _problems(info: ClassInfo, other_names: Sequence[str]) -> Iterator[str]:
    if not info.name.isidentifier() or info.name in other_names:
        yield f"name '{short(info.name)}' is taken, or has other characters than letters, digits and '_'"
    known = [name for name, _ in CATEGORIES]
    for category, share in info.categories:
        if category not in known:
            yield f"'{short(category)}' is no category of nuScenes{nearest(category, known)}"
        if not share > 0:
            yield f"the share of {category} is {share}, it must be above 0"
    if not info.categories or not info.parts:
        yield "it needs a category and a part"
    for role, extent in info.parts:
        low, high = extent[0::2], extent[1::2]
        if len(extent) != 6 or not all(0 <= a < b <= 1 for a, b in zip(low, high, strict=True)):
            yield f"part '{role}' has {extent}, expected x0, x1, y0, y1, z0, z1 from 0 to 1, with x0 < x1 and so on"
    if len(info.size_lwh) != 3 or not all(0 < side <= MAX_SIDE_M for side in info.size_lwh):
        yield f"size_lwh is {info.size_lwh}, expected three lengths up to {MAX_SIDE_M:g} m"
    for key, low, high in (("moving_share", 0, 1), ("range_share", 0.1, 1), ("intensity", 0, 255)):
        if not low <= getattr(info, key) <= high:
            yield f"{key} is {getattr(info, key)}, it must lie in {low:g} .. {high:g}"
    if not info.frequency > 0:
        yield f"frequency is {info.frequency}, it must be above 0; those of the ten classes sum to 1"
    if len(info.speed) != 2 or not 0 <= info.speed[0] <= info.speed[1] <= 30:
        yield f"speed is {info.speed}, expected the lowest and the highest in m/s, up to 30"
    if info.attributes not in ATTRIBUTE_FAMILIES:
        yield f"attributes '{short(info.attributes)}' is not one of {', '.join(ATTRIBUTE_FAMILIES)}"
