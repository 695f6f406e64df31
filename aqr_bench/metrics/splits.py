"""Scenes for training and for evaluation: nuScenes' official splits, or those of ``splits.json`` beside the tables.

nuscenes-devkit reads custom splits from ``<version>/splits.json``, an object of lists of scene names by split. Here the
split whose name ends in ``train`` and the one whose name ends in ``val`` take the place of the official ones.
The test split has no annotations: it is evaluated like a val split, for a leaderboard file in place of scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, join_names, nearest

ROLES = ("train", "val")
# Names of the official splits of the versions that have annotations.
OFFICIAL = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val")}
TEST, TEST_SPLIT = "v1.0-test", "test"
VERSIONS = (*OFFICIAL, TEST)  # that can be evaluated
FILE = "splits.json"


@dataclass(frozen=True)
class Split:
    """Scenes by name. ``custom``: of ``splits.json``."""

    name: str
    scenes: tuple[str, ...]
    custom: bool = False

    @property
    def label(self) -> str:
        """For messages: ``official val split``, of every version, or ``split 'my_val' of splits.json``."""
        return f"split '{self.name}' of {FILE}" if self.custom else f"official {self.name.removeprefix('mini_')} split"


def read_splits(root: str | Path, version: str) -> dict[str, Split]:
    """The splits ``{"train": ..., "val": ...}`` of a data set; its scenes need not be there.

    ``val`` is the one that is evaluated: of v1.0-test it is the test split, and ``train`` is empty.

    Raises:
        UserError: ``splits.json`` cannot be used, or the two share a scene; ``version`` has no splits.
    """
    from nuscenes.utils.splits import create_splits_scenes  # late: the package's import takes a second or two

    if version not in VERSIONS:
        raise UserError(f"version '{version}' has no train and val split; known: {', '.join(VERSIONS)}")
    official = create_splits_scenes()
    if version == TEST:
        return {"train": Split("train", ()), "val": Split(TEST_SPLIT, tuple(official[TEST_SPLIT]))}
    custom = _custom_splits(Path(root) / version / FILE, official)
    splits = {}
    for role, name in zip(ROLES, OFFICIAL[version], strict=True):
        splits[role] = custom.get(role) or Split(name, tuple(official[name]))
    train, val = splits["train"], splits["val"]
    shared = sorted(set(train.scenes) & set(val.scenes))
    if shared:
        raise UserError(
            f"{Path(root) / version / FILE}: scenes of both '{train.name}' and '{val.name}': {join_names(shared)}",
            "Leave each scene in one of them; a split that the file does not have is the official one.",
        )
    return splits


def require_split(root: str | Path, version: str, name: str) -> str:
    """The name of a split of a data set, for training or evaluation; UserError for any other."""
    splits = read_splits(root, version).values()
    known = dict.fromkeys([*(split.name for split in splits), *OFFICIAL[version]])
    if name not in known:
        raise UserError(f"{version} of {root} has no split '{name}'{nearest(name, known)}")
    return name


def evaluation_split(root: str | Path | None, version: str) -> str:
    """Name of the split that detections on a data set are scored on; the official one where its root is not there."""
    if version == TEST:
        return TEST_SPLIT
    if root is None or not (Path(root) / version / FILE).is_file():
        return OFFICIAL[version][1]
    return read_splits(root, version)["val"].name


def _custom_splits(path: Path, official: Mapping[str, Any]) -> dict[str, Split]:
    if not path.is_file():
        return {}
    remedy = 'Write an object of lists of scene names: {"my_train": ["scene-0001"], "my_val": ["scene-0002"]}.'
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error})", remedy) from error
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise UserError(f"{path} is no object of lists of scene names", remedy)
    for name in official.keys() & content.keys():
        if set(content[name]) != set(official[name]):
            what = f"{path}: '{name}' is an official split, which nuscenes-devkit does not read from this file"
            raise UserError(what, f"Give it another name, such as 'my_{name}'.")
    custom = {name: scenes for name, scenes in content.items() if name not in official}
    splits = {}
    for role in ROLES:
        names = sorted(name for name in custom if name.endswith(role))
        if len(names) > 1:
            what = f"{path}: more than one split for {role}: {join_names(names)}"
            raise UserError(what, f"Let the name of one alone end in '{role}'.")
        if names:
            splits[role] = Split(names[0], tuple(custom[names[0]]), custom=True)
    return splits
