"""The index of a ground-truth database, ``dbinfos_train.pkl``: read as plain data, and whether it fits a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.compat import load_safe_pickle
from aqr_bench.corruptions.geometry import in_any_box
from aqr_bench.errors import UserError, short

REMEDY = "Make it with: aqr-bench data --tier TIER --root ROOT --out DIR --database"
LAG = 4  # column of an object's points: seconds before the keyframe
LAG_ROUNDING_S = 1e-3
OFFICIAL_SWEEPS = 10  # of a database that does not say how many it has: mmdet3d's, and ours of before
MAX_CHECKED_OBJECTS, MARGIN_M, MIN_SHARE_INSIDE = 50, 0.05, 0.95
_ENTRY_KEYS = {"name", "path", "box3d_lidar", "num_points_in_gt", "difficulty"}


def read_dbinfos(path: str | Path) -> dict[str, list[dict]]:
    """Read and check ``dbinfos_train.pkl``: class name to entries. Raises UserError on anything else."""
    content = load_safe_pickle(path, "ground-truth database", REMEDY)
    if not isinstance(content, dict):
        raise UserError(f"ground-truth database {path} holds a {type(content).__name__}, not entries by class", REMEDY)
    for name, entries in content.items():
        class_name = short(name)
        if not isinstance(entries, list):
            raise UserError(f"ground-truth database {path}: '{class_name}' is no list of entries", REMEDY)
        for position, entry in enumerate(entries):
            missing = sorted(_ENTRY_KEYS - entry.keys()) if isinstance(entry, dict) else sorted(_ENTRY_KEYS)
            if missing:
                raise UserError(
                    f"ground-truth database {path}: entry {position} of '{class_name}' lacks {', '.join(missing)}",
                    REMEDY,
                )
            if np.shape(entry["box3d_lidar"]) != (9,):
                raise UserError(
                    f"ground-truth database {path}: box3d_lidar of entry {position} of '{class_name}' has shape "
                    f"{np.shape(entry['box3d_lidar'])}, not (9,)",
                    REMEDY,
                )
    return content


def validate_boxes(database: str | Path, entries: Sequence[Mapping[str, Any]], folder: str, load_dim: int) -> None:
    """Raise UserError where objects do not lie in their boxes; a sample of them is read.

    In a database of mmdet3d 0.x (w, l, h and the negative yaw) 73 % of the points do, and a training would paste
    objects beside their boxes.

    Args:
        entries: of classes that are sampled. ``folder``: that their paths are relative to.
        load_dim: columns of a point.
    """
    inside = total = 0
    for entry in entries[:: max(1, len(entries) // MAX_CHECKED_OBJECTS)]:
        path = Path(folder, entry["path"])
        if not path.is_file() or path.stat().st_size % (4 * load_dim):
            continue  # is reported where it is sampled
        _, _, _, *size, yaw = np.asarray(entry["box3d_lidar"], np.float64)[:7]
        xyz = np.fromfile(path, np.float32).reshape(-1, load_dim)[:, :3]  # from the bottom centre
        box = [0, 0, size[2] / 2, *(np.array(size) + 2 * MARGIN_M), yaw]
        inside += int(in_any_box(xyz, np.array([box])).sum())
        total += len(xyz)
    if inside < MIN_SHARE_INSIDE * total:
        raise UserError(
            f"ground-truth database {database}: only {inside} of {total} points of its objects lie in their boxes, "
            "which are not those of mmdet3d 1.x (bottom centre, l, w, h, yaw counter-clockwise from x)",
            REMEDY,
        )


def max_lag_s(database: str | Path, entry: Mapping[str, Any], sweeps: int | None) -> float | None:
    """Largest lag that points of an object may have in a frame of so many sweeps (None: not known); None: any.

    Raises:
        UserError: the database has fewer sweeps, or more and does not say when they were recorded.
    """
    there = entry.get("sweeps", OFFICIAL_SWEEPS)
    if sweeps is None or there == sweeps:
        return None
    if there < sweeps or "sweep_lags" not in entry:
        assumed = "" if "sweeps" in entry else " (it does not say, mmdet3d's have as many)"
        raise UserError(
            f"ground-truth database {database} has {there} sweeps{assumed}, the training merges {sweeps}",
            f"{REMEDY} --max-sweeps {sweeps}",
        )
    return max([0.0, *entry["sweep_lags"][:sweeps]]) + LAG_ROUNDING_S
