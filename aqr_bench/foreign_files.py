"""Well-known files and folders that are not what a reader expects, called by their name, with what to do about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HEAD_BYTES = 512  # enough to recognise a placeholder
TABLE = "sample_data.json"  # the folder of nuScenes' tables is where this one is


class Foreign(NamedTuple):
    """``name``: what it is, with an article; ``remedy``: what to do, as a sentence."""

    name: str
    remedy: str


LFS_POINTER = Foreign(
    "a Git LFS pointer, not the file itself", "Fetch the files with git lfs pull in the repository that they come from."
)
WEB_PAGE = Foreign(
    "a web page (HTML)", "Download the file again: a page for logging in, or an error, was saved in its place."
)
OLD_INFOS = Foreign(
    "an info file of mmdet3d 0.x",
    "Make info files of mmdet3d 1.x: aqr-bench data --version v1.0-trainval --root ROOT --out DIR, or mmdet3d's "
    "tools/dataset_converters/update_infos_to_v2.py.",
)
OLD_CONFIG = Foreign(
    "a config of mmdet3d 0.x (data=dict(train=..., test=...))",
    "Write it for mmdet3d 1.x, with train_dataloader and test_dataloader.",
)
TRACKING = Foreign(
    "a nuScenes tracking submission", "Give a detection submission: boxes with detection_name and detection_score."
)


def placeholder(content: bytes) -> Foreign | None:
    """A file that stands in for another, by its content or the beginning of it; None for any other."""
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        return LFS_POINTER
    start = content[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return WEB_PAGE if start.startswith((b"<!doctype html", b"<html")) else None


def placeholder_at(path: str | Path) -> Foreign | None:
    """As ``placeholder``, of a file; None also where it cannot be read, or is none: reading a pipe would block."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return placeholder(file.read(HEAD_BYTES))
    except (OSError, ValueError):
        return None


def old_infos(content: Any) -> Foreign | None:
    """OLD_INFOS for what was unpickled from an info file of mmdet3d 0.x."""
    if isinstance(content, Mapping):
        return OLD_INFOS if "infos" in content and "data_list" not in content else None
    first = content[0] if isinstance(content, list) and content else None
    return OLD_INFOS if isinstance(first, Mapping) and {"lidar_path", "cams"} & first.keys() else None


def old_config(config: Mapping[str, Any]) -> Foreign | None:
    """OLD_CONFIG for an opened config of mmdet3d 0.x."""
    data = config.get("data")
    return OLD_CONFIG if isinstance(data, Mapping) and {"train", "val", "test"} & data.keys() else None


def other_task(results: Mapping[str, Any]) -> Foreign | None:
    """TRACKING for the entries by sample of a tracking submission."""
    first = next((entries[0] for entries in results.values() if isinstance(entries, list) and entries), None)
    tracking = isinstance(first, Mapping) and "tracking_name" in first and "detection_name" not in first
    return TRACKING if tracking else None


def misplaced_tables(root: Path, versions: Iterable[str]) -> Foreign | None:
    """Where nuScenes' tables are instead of in the folder of a version below the root; None if they are there."""
    versions = tuple(versions)
    try:
        for version in versions:
            folder = root / version
            if (folder / TABLE).is_file():
                return None
            if (folder / version / TABLE).is_file():
                complete = (folder / "samples").is_dir()
                remedy = f"Set the root to {folder}." if complete else f"Move {version}/{version}/ up to {version}/."
                return Foreign(f"the tables are one folder deeper, in {version}/{version}", remedy)
        if (root / TABLE).is_file():
            return Foreign("this is the folder of the tables itself", f"Set the root to {root.parent}.")
        others = sorted(path.parent.name for path in root.glob(f"*/{TABLE}"))
    except OSError:
        return None
    if not others or any(name in ("v1.0-trainval", "v1.0-mini") for name in others):
        return None  # nothing, or tables of the other version, which a message lists
    if others[0] == "v1.0-test":
        remedy = (
            "Nothing can be trained or scored on it: use v1.0-trainval or v1.0-mini (or --version v1.0-test, for a "
        )
        return Foreign("v1.0-test has no annotations", f"{remedy}leaderboard file).")
    return Foreign(f"there are tables in {others[0]}/", f"Rename that folder: {' or '.join(versions)}.")
