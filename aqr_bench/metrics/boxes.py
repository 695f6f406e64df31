"""Boxes of many samples as arrays: from a submission, from its entries in memory, or from the devkit's EvalBoxes.

Nothing is reordered on the way: among detections of equal score the devkit's order is that of its list of all boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES

from aqr_bench.errors import UserError
from aqr_bench.metrics.json_stream import items_of
from aqr_bench.metrics.submission_scan import scan

NO_ATTRIBUTE = -1
NOT_COUNTED = -1  # points in the box: the devkit's value for "nobody counted them"
_LABEL = {name: i for i, name in enumerate(DETECTION_NAMES)}
_ATTRIBUTE = {"": NO_ATTRIBUTE, **{name: i for i, name in enumerate(ATTRIBUTE_NAMES)}}
_WIDTHS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}


@dataclass(frozen=True)
class Boxes:
    """N boxes in the global frame, sample after sample.

    sample       [N] int32, index of the sample
    label        [N] int8, index into the devkit's DETECTION_NAMES
    translation  [N, 3] centre, metres
    size         [N, 3] width, length, height, metres
    rotation     [N, 4] quaternion w, x, y, z
    velocity     [N, 2] m/s; NaN where unknown
    score        [N], -1 for ground truth
    attribute    [N] int8, index into the devkit's ATTRIBUTE_NAMES; -1: none
    points       [N] int32, LiDAR and radar points inside; -1: not counted
    """

    sample: np.ndarray
    label: np.ndarray
    translation: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    score: np.ndarray
    attribute: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: Any) -> Boxes:
        return Boxes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Boxes]) -> Boxes:
        """All boxes of the parts, in their order."""
        parts = [cls.none(), *parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def none(cls) -> Boxes:
        """No box at all."""
        wide = [np.zeros((0, width)) for width in _WIDTHS.values()]
        ints = [np.zeros(0, kind) for kind in (np.int32, np.int8, np.int8, np.int32)]
        return cls(ints[0], ints[1], *wide, np.zeros(0), ints[2], ints[3])


def from_entries(entries: Sequence[Mapping[str, Any]], sample: int, token: str) -> Boxes:
    """The entries of one sample of a submission; UserError for what the devkit refuses in a box.

    An entry that names another sample than the one it is listed under is refused as well (the devkit takes it).
    """
    if not entries:
        return Boxes.none()
    try:
        label = np.array([_LABEL[e["detection_name"]] for e in entries], dtype=np.int8)
        attribute = np.array([_ATTRIBUTE[e["attribute_name"]] for e in entries], dtype=np.int8)
        wide = {key: np.array([e[key] for e in entries], dtype=np.float64) for key in _WIDTHS}
        score = np.array([float(e.get("detection_score", -1.0)) for e in entries])
        points = np.array([int(e.get("num_pts", NOT_COUNTED)) for e in entries], dtype=np.int32)
        strangers = [e["sample_token"] for e in entries if e["sample_token"] != token]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"sample {token}: a detection is not one ({type(error).__name__}: {error})") from error
    if strangers:
        raise UserError(f"sample {token}: a detection says it is of sample {strangers[0]}")
    boxes = Boxes(np.full(len(entries), sample, np.int32), label, *wide.values(), score, attribute, points)
    refuse_broken(boxes, token)
    return boxes


def refuse_broken(boxes: Boxes, token: str) -> None:
    """The devkit's checks of a box; velocities may be NaN."""
    for key, width in _WIDTHS.items():
        values = getattr(boxes, key)
        if values.shape != (len(boxes), width):
            raise UserError(f"sample {token}: {key} of a detection needs {width} numbers")
        if key != "velocity" and np.isnan(values).any():
            raise UserError(f"sample {token}: {key} of a detection is NaN")
    if np.isnan(boxes.score).any():
        raise UserError(f"sample {token}: detection_score is NaN")


def from_results(
    results: Iterable[tuple[str, Sequence[Mapping[str, Any]]]], number: Mapping[str, int], most: int | None = None
) -> Boxes:
    """The detections of a whole submission, in its order.

    Args:
        results: token and entries of each sample; of a token that comes twice the later entries count, as in JSON.
        number: index of every sample that has to be there.
        most: boxes that a sample may have.
    Raises:
        UserError for samples that are missing or unknown, too many boxes, and boxes that are none.
    """
    parts: dict[str, Boxes] = {}
    for token, entries in results:
        if token not in number:
            raise UserError(f"sample {token} of the submission is not one of the split")
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise UserError(f"sample {token}: {type(entries).__name__} instead of a list of detections")
        if most is not None and len(entries) > most:
            raise UserError(f"sample {token}: {len(entries)} detections, only {most} are allowed")
        parts[token] = from_entries(entries, number[token], token)
    missing = len(number) - len(parts)
    if missing:
        token = next(token for token in number if token not in parts)
        raise UserError(f"{missing} samples of the split are not in the submission, {token} for one")
    return Boxes.joined(list(parts.values()))


def read_submission(path: str | Path, number: Mapping[str, int], most: int | None = None) -> Boxes:
    """The detections of a submission file, little of it in memory at a time; see :func:`from_results`."""
    scanned = scan(path, number) if Path(path).is_file() else None
    if scanned is None or (most is not None and scanned[3] > most):
        try:
            return from_results(submitted(path), number, most)
        except UserError as error:  # one about a sample does not know the file
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    numbers, kinds, sample, _ = scanned
    wide = np.split(numbers, np.cumsum(list(_WIDTHS.values())), axis=1)
    points = np.full(len(numbers), NOT_COUNTED, dtype=np.int32)
    return Boxes(sample, kinds[:, 0], *wide[:4], numbers[:, 12], kinds[:, 1] - np.int8(1), points)


def submitted(path: str | Path) -> Iterator[tuple[str, list]]:
    """Token and entries of each sample of a submission; UserError if the file is missing, broken or no submission."""
    try:
        with open(path, encoding="utf-8") as file:
            yield from items_of(file, "results")
    except (OSError, ValueError) as error:
        raise UserError(f"detection results cannot be read: {path} ({error})") from error
    except KeyError as error:
        raise UserError(f"{path} is no nuScenes detection submission: the key 'results' is missing") from error


def from_eval_boxes(boxes: Any, number: Mapping[str, int], own_token: bool = False) -> Boxes:
    """The devkit's EvalBoxes, in the order of its ``all``.

    Args:
        number: index of each sample token.
        own_token: take the sample that a box names (as the devkit matches detections), not the one it is kept under.
    """
    everything = [(number[box.sample_token if own_token else t], box) for t in boxes.sample_tokens for box in boxes[t]]
    if not everything:
        return Boxes.none()
    listed = [box for _, box in everything]
    # A pyquaternion Quaternion is accepted for a rotation, as the devkit accepts it.
    wide = [np.array([[*getattr(box, key)] for box in listed], dtype=np.float64) for key in _WIDTHS]
    return Boxes(
        np.array([sample for sample, _ in everything], dtype=np.int32),
        np.array([_LABEL[box.detection_name] for box in listed], dtype=np.int8),
        *wide,
        np.array([box.detection_score for box in listed], dtype=np.float64),
        np.array([_ATTRIBUTE[box.attribute_name] for box in listed], dtype=np.int8),
        np.array([box.num_pts for box in listed], dtype=np.int32),
    )
