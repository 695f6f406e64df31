"""Checks of the files of a nuScenes root: do those that the tables name exist, complete, and can they be decoded?"""

from __future__ import annotations

import io
import os
import random
import stat
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from aqr_bench.data.check.clouds import CAUSES as CLOUD_CAUSES
from aqr_bench.data.check.clouds import SCAN, WARNINGS, points_fault
from aqr_bench.data.check.finding import Finding, Progress, about_names, access_cause, number
from aqr_bench.data.check.links import OTHER, channels_of
from aqr_bench.data.check.tables import Table
from aqr_bench.data.complete_scenes import CHANNELS, LIDAR
from aqr_bench.data.raw_frames import POINT_COLUMNS, BadFrameError, jpeg_fault, read_cloud
from aqr_bench.foreign_files import LFS_POINTER, WEB_PAGE, placeholder, placeholder_at

POINT_BYTES = 4 * POINT_COLUMNS
CUT_SHORT = f"cut short (no multiple of {POINT_BYTES} bytes)"
NO_FILE = "not a file, or a link that leads nowhere"
PLACEHOLDERS = {f"each {kind.name}": kind.name for kind in (LFS_POINTER, WEB_PAGE)}  # causes by fault
FILE = "file"  # cause of a file that has to be restored


@dataclass(frozen=True, eq=False)
class Recordings:
    """The files of sample_data, R of them.

    Args:
        names: relative to the root; '' where the table's is bad. ``channel``: [R] as ``channels_of`` has it.
        keyframe: [R] bool. ``sample``: [R] hashes of the sample's token.
        size: [R, 2] width and height in pixels, -1 where the table's is bad.
    """

    names: list[str]
    channel: np.ndarray
    keyframe: np.ndarray
    sample: np.ndarray
    size: np.ndarray


def recordings(tables: Mapping[str, Table]) -> Recordings:
    """The files that the table sample_data names."""
    data = tables["sample_data"]
    sizes = [[-1 if size is None else size for size in data.columns[side]] for side in ("width", "height")]
    return Recordings(
        names=[name or "" for name in data.columns["filename"]],
        channel=channels_of(tables),
        keyframe=np.array(data.columns["is_key_frame"]) == True,  # noqa: E712  None where it is bad
        sample=data.hashes["sample_token"],
        size=np.array(sizes, np.int64).T,
    )


# ---------------------------------------------------------------- presence and size


def check_presence(root: Path, files: Recordings, progress: Progress) -> tuple[list[Finding], np.ndarray]:
    """Every file exists; of keyframes, none is empty and a LiDAR file holds complete points.

    Folders are listed instead of checking each file: for the full data set that takes seconds, not minutes.

    Returns:
        Findings; [R] bool: a file that can be opened.
    """
    folders: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(files.names):
        if name and _is_below_root(name):
            folders[name.rpartition("/")[0]].append(i)
    outside = [name for name in files.names if name and not _is_below_root(name)]
    what = f"sample_data.json names {number(len(outside), 'path')} outside of ROOT"
    findings = about_names("files", what, "row", outside)
    usable = np.zeros(len(files.names), bool)
    for folder, members in progress(sorted(folders.items()), "files"):
        needed = bool((files.channel[members] != OTHER).any())
        total = number(len(members), "file") + ("" if needed else " (of sensors that are not used here)")
        try:
            entries = {entry.name: entry for entry in os.scandir(root / folder)}
        except OSError as error:
            what = f"{folder or 'ROOT'}, the folder of {total}, cannot be read ({error.strerror})"
            findings.append(Finding("files", what, access_cause(error, "file"), (), len(members), not needed))
            continue
        faulty: dict[str, list[str]] = defaultdict(list)
        for i in members:
            base = files.names[i].rpartition("/")[2]
            is_lidar = files.channel[i] == CHANNELS.index(LIDAR)
            fault = _file_fault(entries.get(base), bool(files.keyframe[i]), is_lidar)
            usable[i] = fault in ("", CUT_SHORT)
            if fault:
                faulty[fault].append(base)
        for fault, names in faulty.items():
            what = f"{folder or 'ROOT'}, {len(names)} of {total} {fault}"
            findings += about_names("files", what, PLACEHOLDERS.get(fault, "file"), names, not needed)
    return findings, usable


def _is_below_root(name: str) -> bool:
    """Whether a file name of a table is a path below the root that the file system accepts."""
    path = PurePosixPath(name)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return not (path.is_absolute() or ".." in path.parts or "\0" in name)


def _file_fault(entry: os.DirEntry | None, keyframe: bool, is_lidar: bool) -> str:
    try:
        if entry is None or not entry.is_file():
            return "missing" if entry is None else NO_FILE
        size = entry.stat().st_size if keyframe else None  # one system call less for each of millions of sweeps
    except OSError:  # a link to itself
        return NO_FILE
    if size == 0:
        return "empty"
    return _cut_short(entry.path) if is_lidar and size is not None and size % POINT_BYTES else ""


def _cut_short(path: str | Path) -> str:
    """Why the size of a LiDAR file is not that of complete points."""
    kind = placeholder_at(path)
    return CUT_SHORT if kind is None else f"each {kind.name}"


# ---------------------------------------------------------------- contents


def draw(files: Recordings, usable: np.ndarray, samples: int, seed: int) -> list[int]:
    """Files to open: all keyframe files of so many samples, and as many other files (sweeps), of LiDAR and cameras."""
    generator = random.Random(seed)
    usable = usable & (files.channel >= 0)
    tokens = list(dict.fromkeys(files.sample[usable & files.keyframe].tolist()))
    chosen = generator.sample(tokens, min(samples, len(tokens)))
    keyframes = np.nonzero(usable & files.keyframe & np.isin(files.sample, chosen))[0].tolist()
    sweeps = np.nonzero(usable & ~files.keyframe)[0].tolist()
    return keyframes + sorted(generator.sample(sweeps, min(samples, len(sweeps))))


def check_contents(
    root: Path, files: Recordings, chosen: list[int], progress: Progress, full_scans: bool
) -> list[Finding]:
    """Open and decode files: see ``cloud_fault`` and ``image_fault``. ``full_scans``: warn of incomplete ones."""
    faulty: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for i in progress(chosen, "contents"):
        path, cause = root / files.names[i], FILE
        if CHANNELS[files.channel[i]] == LIDAR:
            fault, cause = cloud_fault(path)
            if (fault == CUT_SHORT and files.keyframe[i]) or (cause == SCAN and not full_scans):
                continue  # the first is reported already, for all keyframes
        else:
            fault = image_fault(path, tuple(files.size[i].tolist()))
        if fault:  # numbers differ from cloud to cloud: one finding for a cause, with the first of them
            faulty[fault if cause == FILE else cause].append((files.names[i], fault))
    findings = []
    for cause, faults in faulty.items():
        names, what = [name for name, _ in faults], faults[0][1]
        known = cause if cause in CLOUD_CAUSES else PLACEHOLDERS.get(what, FILE)
        what = f"{len(names)} of {number(len(chosen), 'opened file')} {what}"
        findings += about_names("contents", what, known, names, known in WARNINGS)
    return findings


def cloud_fault(path: Path) -> tuple[str, str]:
    """What is wrong with a LiDAR file ('': nothing), and the cause: ``file``, or one of ``points_fault``."""
    try:
        if path.stat().st_size % POINT_BYTES:
            return _cut_short(path), FILE
        points = read_cloud(path, finite=False)
    except (OSError, BadFrameError):
        kind = placeholder_at(path)
        return "cannot be read" if kind is None else f"each {kind.name}", FILE
    if not len(points):
        return "empty", FILE
    if not np.isfinite(points).all():
        return "with points that are not finite", FILE
    return points_fault(points)


def image_fault(path: Path, size: tuple[int, int]) -> str:
    """What is wrong with an image ('': nothing). ``size``: (width, height) in pixels, -1: unknown.

    OpenCV decodes a JPEG file that is cut short, with a grey rest; so its end is checked, and Pillow decodes it.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return "cannot be read"
    if not content:
        return "empty"
    if (kind := placeholder(content)) is not None:
        return f"each {kind.name}"
    if path.suffix.lower() in (".jpg", ".jpeg") and (fault := jpeg_fault(content)):
        return fault
    try:
        with Image.open(io.BytesIO(content)) as image:
            if min(size) >= 0 and image.size != size:
                return "of another width or height than sample_data.json says"
            image.load()
    except Exception:  # Pillow's decoders raise various exceptions for a damaged file
        return "cannot be decoded as an image"
    return ""


def check_masks(root: Path, masks: Table) -> list[Finding]:
    """The images that map.json names exist: other code may need them, which opens the root with nuscenes-devkit."""
    names = [name for name in masks.columns["filename"] if name and not _is_regular_file(root, name)]
    count = number(len(names), "map mask")
    what = f"{count} of map.json missing; nothing here reads them, but nuscenes-devkit by itself refuses the root"
    return about_names("maps", what, "mask", names, warning=True)


def _is_regular_file(root: Path, name: str) -> bool:
    try:
        return _is_below_root(name) and stat.S_ISREG((root / name).stat().st_mode)
    except OSError:
        return False
