"""Scenes that lack files, and the devkit's tables without them: a release comes in many archives."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aqr_bench.corruptions.frame import LIDAR
from aqr_bench.errors import UserError, join_names

# Those that this project reads.
CHANNELS = (LIDAR, "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")


def missing_files(nusc: Any, sweeps: bool) -> dict[str, list[str]]:
    """Files of keyframes that the tables name and that are not there, by scene name; ``sweeps``: the LiDAR's as well.

    Folders are listed instead of asking for each file.
    """

    @cache
    def names_in(folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(Path(nusc.dataroot) / folder))
        except OSError:
            return frozenset()

    missing: dict[str, list[str]] = {}
    for record in nusc.sample_data:
        needed = record["is_key_frame"] or (sweeps and record["channel"] == LIDAR)
        folder, _, name = record["filename"].rpartition("/")
        if needed and record["channel"] in CHANNELS and name not in names_in(folder):
            scene = nusc.get("scene", nusc.get("sample", record["sample_token"])["scene_token"])["name"]
            missing.setdefault(scene, []).append(record["filename"])
    return missing


def require_files(nusc: Any) -> str:
    """A warning where none of the files of keyframes is there, as in a folder of tables alone; else an empty text.

    Raises:
        UserError: some are there and others not.
    """
    missing = missing_files(nusc, sweeps=False)
    count, where = sum(map(len, missing.values())), f"{nusc.dataroot} ({nusc.version})"
    total = sum(record["is_key_frame"] and record["channel"] in CHANNELS for record in nusc.sample_data)
    if not count:
        return ""
    what = f"{where}: {count} of {total} files of keyframes are missing, of {len(missing)} of {len(nusc.scene)} scenes"
    if count == total:
        return what
    raise UserError(
        f"{what}, the first is {next(iter(missing.values()))[0]}",
        "Unpack the archives that have them, or leave these scenes out: aqr-bench data --skip-missing, or "
        "skip_missing: true under data in the tier file.",
    )


def incomplete_scenes(nusc: Any, max_sweeps: int) -> list[str]:
    """Names of the scenes that lack a file of a keyframe, or of a LiDAR sweep where sweeps are asked for.

    Raises:
        UserError: they are all scenes.
    """
    missing = missing_files(nusc, sweeps=max_sweeps > 0)
    if len(missing) == len(nusc.scene):
        first = next(iter(missing.values()))[0]
        remedy = "Unpack the archives that have them; without sweeps at all, give --max-sweeps 0."
        raise UserError(f"{nusc.dataroot} ({nusc.version}): every scene lacks files, the first is {first}", remedy)
    return sorted(missing)


def without_scenes(nusc: Any, names: Collection[str]) -> Any:
    """The devkit's tables without the samples of these scenes, which so are neither trained on nor scored.

    Changed in place: the devkit, too, takes the samples of a split from the table of samples.
    """
    if names:
        left_out = {scene["token"] for scene in nusc.scene if scene["name"] in names}
        nusc.sample = [sample for sample in nusc.sample if sample["scene_token"] not in left_out]
        nusc._token2ind["sample"] = {sample["token"]: index for index, sample in enumerate(nusc.sample)}
    return nusc


def require_channels(sample: Mapping[str, Any]) -> None:
    """UserError for a sample without a keyframe of the LiDAR or of one of the six cameras."""
    absent = [channel for channel in CHANNELS if channel not in sample["data"]]
    if absent:
        raise UserError(
            f"sample {sample['token']} has no keyframe of {join_names(absent)} in sample_data.json",
            f"Every sample needs {LIDAR} and six cameras: add what is missing, or leave the sample out of the tables.",
        )
