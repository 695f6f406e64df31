"""Count what is in a nuScenes root and compare it with what is published about nuScenes.

python -m aqr_bench.world.statistics ROOT [--version v1.0-trainval] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqr_bench.errors import UserError, reading
from aqr_bench.world.classes import CLASSES, NUSCENES_COUNTS, VISIBILITY

RANGES_M = ((0, 10), (10, 20), (20, 30), (30, 50))
MOVING_MPS = 0.5  # nuScenes' paper calls faster things moving

_CLASS_OF = {
    "vehicle.car": "car", "vehicle.truck": "truck", "vehicle.bus.bendy": "bus", "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer", "vehicle.construction": "construction_vehicle", "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle", "human.pedestrian.adult": "pedestrian", "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian", "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone", "movable_object.barrier": "barrier",
}  # fmt: skip

# Published numbers. A dash in the tables: none is known to us.
PUBLISHED_BOXES, PUBLISHED_KEYFRAMES = 1_166_187, 34_149  # v1.0-trainval, all 23 categories
# Mean length, width, height in metres over v1.0-trainval. Bus and pedestrian: their largest category (bus.rigid,
# pedestrian.adult).
PUBLISHED_SIZES_LWH: dict[str, tuple[float, float, float]] = {
    "car": (4.62, 1.95, 1.73),
    "truck": (6.93, 2.51, 2.84),
    "bus": (11.23, 2.93, 3.47),
    "trailer": (12.29, 2.90, 3.87),
    "construction_vehicle": (6.37, 2.85, 3.19),
    "pedestrian": (0.73, 0.67, 1.77),
    "motorcycle": (2.11, 0.77, 1.47),
    "bicycle": (1.70, 0.60, 1.28),
    "traffic_cone": (0.41, 0.41, 1.07),
    "barrier": (0.50, 2.53, 0.98),
}
PUBLISHED_SPEEDS_MPS = {"car": 6.6, "pedestrian": 1.3, "bicycle": 4.0}
SOURCES = (
    "Boxes and keyframes: the tables of v1.0-trainval, as nuscenes-devkit prints them when it loads them: 34149 "
    "sample, 1166187 sample_annotation.",
    "Class counts and sizes: what nuscenes-devkit's `list_categories()` prints for v1.0-trainval, as quoted in "
    "public code. Its 23 counts add up to the 1166187 boxes above. Shares are those among the ten detection classes.",
    "Speeds of moving things: nuScenes paper, arXiv:1903.11027v5, supplementary material.",
)


@dataclass(frozen=True)
class Annotations:
    """All annotations of the ten detection classes of a data set, one row each.

    ``name`` (N,) class names, ``size`` (N, 3) length, width, height in m, ``distance`` (N,) from the ego origin in m,
    ``points`` (N,) LiDAR points inside, ``speed`` (N,) in m/s, nan where unknown, ``visibility`` (N,) tokens;
    ``keyframes`` in all of the data set, ``boxes`` of all categories.
    """

    name: np.ndarray
    size: np.ndarray
    distance: np.ndarray
    points: np.ndarray
    speed: np.ndarray
    visibility: np.ndarray
    keyframes: int
    boxes: int


def read_annotations(root: str | Path, version: str | None = None) -> Annotations:
    """Read the tables under ``root``; ``version`` may be left out where there is only one. Raises UserError."""
    root = Path(root)
    versions = sorted(path.parent.name for path in root.glob("v1.0-*/sample_annotation.json"))
    if not versions:
        raise UserError(f"{root} holds no v1.0-*/sample_annotation.json; give the root of a nuScenes data set")
    if version is None and len(versions) > 1:
        raise UserError(f"{root} holds {', '.join(versions)}; choose one with --version")
    if version is not None and version not in versions:
        raise UserError(f"{root} holds no {version}, only {', '.join(versions)}")

    folder = root / (version or versions[0])
    with reading(folder, "the tables", "See what is wrong: aqr-bench data check --root ROOT."):
        return _annotations(folder)


def _annotations(folder: Path) -> Annotations:
    def table(name: str) -> list[dict]:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    time_us = {row["token"]: row["timestamp"] for row in table("sample")}
    category = {row["token"]: row["name"] for row in table("category")}
    class_of = {row["token"]: _CLASS_OF.get(category[row["category_token"]]) for row in table("instance")}
    rows = table("sample_annotation")
    positions = {row["token"]: (row["translation"], time_us[row["sample_token"]]) for row in rows}
    ego = _ego_positions(table("sample_data"), table("ego_pose"))
    labelled = [row for row in rows if class_of[row["instance_token"]]]
    center = np.array([row["translation"][:2] for row in labelled]).reshape(-1, 2)
    car = np.array([ego[row["sample_token"]] for row in labelled]).reshape(-1, 2)
    return Annotations(
        name=np.array([class_of[row["instance_token"]] for row in labelled]),
        size=np.array([row["size"] for row in labelled]).reshape(-1, 3)[:, [1, 0, 2]],
        distance=np.hypot(*(center - car).T),
        points=np.array([row["num_lidar_pts"] for row in labelled], int),
        speed=np.array([_speed(row, positions) for row in labelled], float),
        visibility=np.array([row["visibility_token"] for row in labelled]),
        keyframes=len(time_us),
        boxes=len(rows),
    )


def _ego_positions(recordings: list[dict], poses: list[dict]) -> dict[str, list[float]]:
    """Return the place (x, y) of the car at each keyframe's LiDAR scan, by sample token."""
    positions = {row["token"]: row["translation"][:2] for row in poses}
    scans = (row for row in recordings if row["is_key_frame"] and "LIDAR_TOP" in row["filename"])
    return {row["sample_token"]: positions[row["ego_pose_token"]] for row in scans}


def _speed(row: dict, positions: dict[str, tuple[list[float], int]]) -> float:
    """Return the speed on the ground from the neighbouring annotations, as the devkit's box_velocity has it."""
    start, end = row["prev"] or row["token"], row["next"] or row["token"]
    (first, begin_us), (last, end_us) = positions[start], positions[end]
    elapsed = (end_us - begin_us) / 1e6
    longest = 3.0 if row["prev"] and row["next"] else 1.5
    if not 0 < elapsed <= longest:
        return float("nan")
    return float(np.hypot(last[0] - first[0], last[1] - first[1]) / elapsed)


def report(data: Annotations) -> str:
    """Return the statistics as Markdown tables, each with a column of published nuScenes numbers."""
    names, published = [info.name for info in CLASSES], sum(NUSCENES_COUNTS.values())
    of = {name: data.name == name for name in names}
    moving = data.speed > MOVING_MPS
    lines = [
        *_table(
            ["", "this data set", "nuScenes trainval"],
            [
                ["keyframes", f"{data.keyframes:,}", f"{PUBLISHED_KEYFRAMES:,}"],
                ["boxes", f"{data.boxes:,}", f"{PUBLISHED_BOXES:,}"],
                ["boxes per keyframe", _mean(data.boxes, data.keyframes), f"{PUBLISHED_BOXES / 34_149:.1f}"],
                ["boxes without a LiDAR point", _share((data.points == 0).sum(), len(data.points)), "-"],
                *(
                    [f"visibility {level}", _share((data.visibility == token).sum(), len(data.points)), "-"]
                    for token, level, _ in VISIBILITY
                ),
            ],
        ),
        "",
        *_table(
            ["class", "share", "nuScenes", "l, w, h (m)", "nuScenes", "moving", "their speed (m/s)", "nuScenes"],
            [
                [
                    name,
                    _share(of[name].sum(), len(data.name)),
                    _share(NUSCENES_COUNTS[name], published),
                    _size(data.size[of[name]].mean(0)) if of[name].any() else "-",
                    _size(PUBLISHED_SIZES_LWH[name]),
                    _share((of[name] & moving).sum(), of[name].sum()),
                    f"{data.speed[of[name] & moving].mean():.1f}" if (of[name] & moving).any() else "-",
                    f"{PUBLISHED_SPEEDS_MPS[name]:.1f}" if name in PUBLISHED_SPEEDS_MPS else "-",
                ]
                for name in names
            ],
        ),
        "",
        "Median LiDAR points in a box of one keyframe scan, by distance from the ego origin; no published numbers:",
        "",
        *_table(
            ["class", *(f"{low}-{high} m" for low, high in RANGES_M), "without a point"],
            [[name, *_medians(data, of[name]), _share((of[name] & (data.points == 0)).sum(), of[name].sum())]
             for name in names],
        ),
        "",
        *(f"- {source}" for source in SOURCES),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _medians(data: Annotations, chosen: np.ndarray) -> list[str]:
    result = []
    for low, high in RANGES_M:
        points = data.points[chosen & (data.distance >= low) & (data.distance < high)]
        result.append(f"{np.median(points):.0f}" if len(points) else "-")
    return result


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _share(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"


def _mean(total: int, number: int) -> str:
    return f"{total / number:.1f}" if number else "-"


def _size(lwh: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in lwh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a user's mistake (reported in one line on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.world.statistics", description=__doc__.split("\n")[0])
    parser.add_argument("root", help="root of a nuScenes data set, genuine or synthetic")
    parser.add_argument("--version", help="such as v1.0-mini; needed where the root holds several")
    parser.add_argument("--out", help="Markdown file to write (default: standard output)")
    args = parser.parse_args(argv)
    try:
        text = report(read_annotations(args.root, args.version))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        Path(args.out).write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
