"""Checks of the files of a nuScenes root: are those that the tables name there, whole, and can they be decoded?"""

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

from aqr_bench.data.raw_frames import POINT_COLUMNS, BadFrameError, read_cloud

from .finding import Finding, Progress, access_remedy, found, number
from .tables import CHANNELS, LIDAR, Table, channels_of

POINT_BYTES = 4 * POINT_COLUMNS
CUT_SHORT = f"cut short (no multiple of {POINT_BYTES} bytes)"
# Neither can occur inside the coded picture of a JPEG file: a 0xff there is followed by 0x00 or a restart marker.
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
SECTOR_DEG = 10  # a turn of the LiDAR has returns in every sector of this width; one that stopped early has not
VEHICLE_M = 3.0  # the car itself, around its LiDAR: it is seen wherever the beam is
EMPTY_SECTORS = 6  # from so many empty ones in a row on, a turn is not whole


@dataclass(frozen=True, eq=False)
class Recordings:
    """The files of sample_data, R of them.

    Args:
        names: relative to the root. ``channel``: [R] positions in CHANNELS, -1 for sensors that are not read here.
        key_frame: [R] bool. ``sample``: [R] hashes of the sample's token. ``size``: [R, 2] width, height in pixels.
    """

    names: list[str]
    channel: np.ndarray
    key_frame: np.ndarray
    sample: np.ndarray
    size: np.ndarray


def recordings(tables: Mapping[str, Table]) -> Recordings:
    """What the table sample_data says about files."""
    data = tables["sample_data"]
    return Recordings(
        names=list(data.columns["filename"]),
        channel=channels_of(tables),
        key_frame=np.array(data.columns["is_key_frame"], bool),
        sample=data.links["sample_token"][1],
        size=np.stack([np.array(data.columns[side], np.int64) for side in ("width", "height")], axis=1),
    )


# ---------------------------------------------------------------- presence and size


def check_presence(root: Path, files: Recordings, progress: Progress) -> tuple[list[Finding], np.ndarray]:
    """Every file is there; of key frames, none is empty and a LiDAR file holds whole points.

    Folders are listed rather than files asked for one by one: of the full data set, that is seconds, not minutes.

    Returns:
        Findings; [R] bool: a file that can be opened.
    """
    findings: list[Finding] = []
    folders: dict[str, list[int]] = defaultdict(list)
    outside = []
    for i, name in enumerate(files.names):
        if _inside(name):
            folders[name.rpartition("/")[0]].append(i)
        else:
            outside.append(name)
    if outside:
        findings.append(
            found("files", f"sample_data.json names {number(len(outside), 'path')} outside of ROOT", outside)
        )
    there = np.zeros(len(files.names), bool)
    for folder, members in progress(sorted(folders.items()), "files"):
        findings += _check_folder(root, folder, members, files, there)
    return findings, there


def _inside(name: str) -> bool:
    """Whether a file name of a table is a path below the root that the file system can take."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _check_folder(root: Path, folder: str, members: list[int], files: Recordings, there: np.ndarray) -> list[Finding]:
    read = bool((files.channel[members] >= 0).any())
    label = folder or "ROOT"
    note = "" if read else " (of sensors that are not used here)"
    try:
        entries = {entry.name: entry for entry in os.scandir(root / folder)}
    except OSError as error:
        of = f"the folder of {number(len(members), 'file')}{note}, cannot be read ({error.strerror})"
        return [Finding("files", f"{label}, {of}", (), len(members), access_remedy(error), not read)]
    wrong: dict[str, list[str]] = defaultdict(list)
    for i in members:
        base = files.names[i].rpartition("/")[2]
        entry = entries.get(base)
        is_lidar = files.channel[i] == CHANNELS.index(LIDAR)
        fault = "missing" if entry is None else _fault(entry, bool(files.key_frame[i]), is_lidar)
        there[i] = fault in ("", "cut")
        if fault:
            wrong[fault].append(base)
    words = {
        "missing": "missing",
        "link": "found as links that lead nowhere",
        "odd": "found as something that is no file",
        "empty": "empty",
        "cut": CUT_SHORT,
    }
    total = number(len(members), "file")
    return [
        found("files", f"{label}, {len(names)} of {total}{note} {words[fault]}", names, warning=not read)
        for fault, names in wrong.items()
    ]


def _fault(entry: os.DirEntry, sized: bool, is_lidar: bool) -> str:
    try:
        if not entry.is_file():
            return "link" if entry.is_symlink() and not os.path.exists(entry.path) else "odd"
        if not sized:
            return ""
        size = entry.stat().st_size
    except OSError:  # a link to itself
        return "link"
    if size == 0:
        return "empty"
    return "cut" if is_lidar and size % POINT_BYTES else ""


# ---------------------------------------------------------------- contents


def draw(files: Recordings, there: np.ndarray, samples: int, seed: int) -> list[int]:
    """Files to open: all of so many samples' key frames, and as many other files (sweeps), of LiDAR and cameras."""
    generator = random.Random(seed)
    usable = there & (files.channel >= 0)
    tokens = list(dict.fromkeys(files.sample[usable & files.key_frame].tolist()))
    chosen = generator.sample(tokens, min(samples, len(tokens)))
    key_frames = np.nonzero(usable & files.key_frame & np.isin(files.sample, chosen))[0].tolist()
    sweeps = np.nonzero(usable & ~files.key_frame)[0].tolist()
    return key_frames + sorted(generator.sample(sweeps, min(samples, len(sweeps))))


def check_contents(root: Path, files: Recordings, chosen: list[int], progress: Progress) -> list[Finding]:
    """Open and decode files: see ``cloud_fault`` and ``image_fault``."""
    wrong: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for i in progress(chosen, "contents"):
        path = root / files.names[i]
        if CHANNELS[files.channel[i]] == LIDAR:
            fault, warning = cloud_fault(path)
            if fault == CUT_SHORT and files.key_frame[i]:
                continue  # said already, of all key frames
        else:
            fault, warning = image_fault(path, tuple(files.size[i].tolist())), False
        if fault:
            wrong[fault, warning].append(files.names[i])
    return [
        found(
            "contents",
            f"{len(names)} of {number(len(chosen), 'opened file')} {fault}",
            names,
            warning=warning,
        )
        for (fault, warning), names in wrong.items()
    ]


def cloud_fault(path: Path) -> tuple[str, bool]:
    """What is wrong with a LiDAR file ('': nothing), and whether it is only odd: a turn that is not whole."""
    try:
        if path.stat().st_size % POINT_BYTES:
            return CUT_SHORT, False
        points = read_cloud(path)
    except (OSError, BadFrameError):
        return "that cannot be read", False
    if not len(points):
        return "without content", False
    if not np.isfinite(points).all():
        return "with points that are not finite", False
    if np.abs(points[:, :3]).max() > 1e4 or (points[:, 4] != np.round(points[:, 4])).any() or points[:, 4].min() < 0:
        return "without points of x, y, z (metres), intensity and ring", False
    x, y = points[np.hypot(points[:, 0], points[:, 1]) > VEHICLE_M, :2].T
    sectors = ((np.degrees(np.arctan2(y, x)) + 180) // SECTOR_DEG).astype(int)
    hit = np.isin(np.arange(360 // SECTOR_DEG), sectors)
    # Twice around, so that a gap across the seam counts as one.
    longest = max(len(gap) for gap in "".join("x" if h else "." for h in np.tile(hit, 2)).split("x"))
    if longest >= EMPTY_SECTORS:
        return f"with a sector of {EMPTY_SECTORS * SECTOR_DEG} degrees or more without a return", True
    return "", False


def image_fault(path: Path, size: tuple[int, int]) -> str:
    """What is wrong with a picture ('': nothing). ``size``: (width, height) in pixels, as the table says.

    OpenCV decodes a JPEG file that is cut short, with a grey rest; so its end is looked at, and Pillow decodes it.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return "that cannot be read"
    if not content:
        return "without content"
    if content.startswith(START_OF_IMAGE) and content.rfind(END_OF_IMAGE) <= content.rfind(START_OF_SCAN):
        return "cut short (no end-of-image marker)"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size != size:
                return "of another width or height than sample_data.json says"
            image.load()
    except Exception:  # Pillow's decoders raise whatever a damaged file brings about
        return "that cannot be decoded as a picture"
    return ""


def check_masks(root: Path, masks: Table) -> list[Finding]:
    """The pictures that map.json names are there: nuscenes-devkit refuses a root without them, though none is read."""
    names = [name for name in masks.columns["filename"] if not (_inside(name) and _exists(root / name))]
    if not names:
        return []
    return [
        found("maps", f"{number(len(names), 'map mask')} of map.json missing, and nuscenes-devkit asks for them", names)
    ]


def _exists(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
