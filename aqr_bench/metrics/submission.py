"""nuScenes detection submissions: written from boxes in the LiDAR frame, checked, read into arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from scipy.spatial.transform import Rotation

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError
from aqr_bench.foreign_files import other_task, placeholder
from aqr_bench.metrics.boxes import ATTRIBUTE_INDEX, LABEL_INDEX, NOT_COUNTED, WIDTHS, BoxArrays, raise_if_invalid

META = {"use_camera": True, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
MOVING_M_S = 0.2  # mmdet3d's threshold: faster things get the attribute of a moving one
VEHICLES = frozenset(["car", "truck", "construction_vehicle", "bus", "trailer"])
CYCLES = frozenset(["bicycle", "motorcycle"])
# What mmdet3d gives a class whatever its speed says, but for the cases in :func:`attribute`.
DEFAULT_ATTRIBUTES = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), "vehicle.parked"),
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.without_rider"),
    **dict.fromkeys(("barrier", "traffic_cone"), ""),
    "bus": "vehicle.moving",
    "pedestrian": "pedestrian.moving",
}


def attribute(name: str, speed_m_s: float) -> str:
    """Attribute of a detection by its class and speed, as mmdet3d 1.4's NuScenesMetric chooses it."""
    if speed_m_s > MOVING_M_S:
        if name in VEHICLES:
            return "vehicle.moving"
        return "cycle.with_rider" if name in CYCLES else DEFAULT_ATTRIBUTES[name]
    if name == "pedestrian":
        return "pedestrian.standing"
    return "vehicle.stopped" if name == "bus" else DEFAULT_ATTRIBUTES[name]


def sample_detections(
    token: str,
    boxes_n9: np.ndarray,
    scores_n: np.ndarray,
    labels_n: np.ndarray,
    names: Sequence[str],
    lidar2ego: np.ndarray,
    ego2global: np.ndarray,
    class_range: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The submission's entries of one sample.

    Args:
        boxes_n9: gravity centre, l, w, h, yaw, vx, vy; LiDAR frame, metres.
        names: class names by label.
        lidar2ego, ego2global: 4 x 4.
        class_range: metres around the ego vehicle in which detections of a class count; those beyond are left out.
    """
    boxes = np.asarray(boxes_n9, np.float64)
    lidar2ego, ego2global = np.asarray(lidar2ego, np.float64), np.asarray(ego2global, np.float64)
    ego = boxes[:, :3] @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    limit = np.array([class_range[name] for name in names])[labels_n] if len(boxes) else np.zeros(0)
    in_range = np.nonzero(np.hypot(ego[:, 0], ego[:, 1]) <= limit)[0]
    if not len(in_range):
        return []
    turn = ego2global[:3, :3] @ lidar2ego[:3, :3]
    centre = ego[in_range] @ ego2global[:3, :3].T + ego2global[:3, 3]
    velocity = np.concatenate([boxes[in_range, 7:9], np.zeros((len(in_range), 1))], 1) @ turn.T
    rotation = (Rotation.from_matrix(turn) * Rotation.from_euler("z", boxes[in_range, 6:7])).as_quat()[:, [3, 0, 1, 2]]
    speed = np.hypot(velocity[:, 0], velocity[:, 1])
    entries = []
    for row, index in enumerate(in_range):
        name = names[labels_n[index]]
        length, width, height = boxes[index, 3:6].tolist()
        entries.append(
            {
                "sample_token": token,
                "translation": centre[row].tolist(),
                "size": [width, length, height],
                "rotation": rotation[row].tolist(),
                "velocity": velocity[row, :2].tolist(),
                "detection_name": name,
                "detection_score": float(scores_n[index]),
                "attribute_name": attribute(name, float(speed[row])),
            }
        )
    return entries


def write_submission(
    path: Path, results: Mapping[str, list[dict[str, Any]]], camera: bool = True, lidar: bool = True
) -> Path:
    """Write the submission atomically.

    Args:
        results: entries by sample token. ``camera``, ``lidar``: whether the detector uses them, for its meta.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"meta": META | dict(use_camera=camera, use_lidar=lidar), "results": results}
    return write_text(path, json.dumps(content))


def check_leaderboard_file(path: Path, samples: Iterable[str], max_boxes: int) -> None:
    """Raise RuntimeError unless nuscenes-devkit loads the submission, and it has exactly these samples."""
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox

    try:
        boxes, meta = load_prediction(str(path), max_boxes, DetectionBox)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise RuntimeError(f"{path}: nuscenes-devkit does not take it ({type(error).__name__}: {error})") from error
    missing, unknown = (a - b for a, b in permutations([set(samples), set(boxes.sample_tokens)]))
    if missing or unknown or set(meta) != set(META):
        raise RuntimeError(
            f"{path}: the leaderboard would refuse it: {len(missing)} samples of the split are missing, {len(unknown)} "
            f"are not of it, meta has {', '.join(meta)}"
        )


# ---------------------------------------------------------------- reading


class _Detection(msgspec.Struct, gc=False):
    """An entry of a submission; other keys are ignored, as the devkit ignores them."""

    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    detection_name: Literal[tuple(DETECTION_NAMES)]  # type: ignore[valid-type]
    attribute_name: Literal[("", *ATTRIBUTE_NAMES)]  # type: ignore[valid-type]
    detection_score: float = -1.0
    num_pts: Annotated[int, msgspec.Meta(ge=NOT_COUNTED, lt=2**31)] = NOT_COUNTED


class _Submission(msgspec.Struct, gc=False):
    """A submission whose samples are views of the file's bytes: one sample at a time becomes objects."""

    results: dict[str, msgspec.Raw]


_SUBMISSION = msgspec.json.Decoder(_Submission)
_DETECTIONS = msgspec.json.Decoder(list[_Detection])


def load_results(path: str | Path) -> dict[str, Any]:
    """Entries by sample token of a submission file; UserError if it is missing, broken or no submission."""
    return _parse(_read(path), path)


def read_submission(path: str | Path, sample_index: Mapping[str, int], max_boxes: int | None = None) -> BoxArrays:
    """The detections of a submission file; see :func:`from_results` for arguments, order and errors."""
    content = _read(path)
    try:
        try:
            return _decode(content, sample_index, max_boxes)
        except (msgspec.DecodeError, RecursionError):
            # Broken, of other types, or with NaN and Infinity, which Python writes and which are not JSON: the general
            # reader takes it, or reports what is wrong.
            return from_results(_parse(content, path), sample_index, max_boxes)
    except UserError as error:  # one about a sample does not name the file
        _parse(content, path)  # raises for a file of another task: causes before consequences
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"detection results cannot be read: {path} ({error})") from error


def _parse(content: bytes, path: str | Path) -> dict[str, Any]:
    try:
        submission = json.loads(content)
    except (ValueError, RecursionError) as error:
        if (kind := placeholder(content)) is not None:
            raise UserError(f"detection results cannot be read: {path} is {kind.name}", kind.remedy) from error
        raise UserError(f"detection results cannot be read: {path} ({error})") from error
    if not isinstance(submission, dict) or "results" not in submission:
        raise UserError(f"{path} is not a nuScenes detection submission: the key 'results' is missing")
    if not isinstance(submission["results"], dict):
        raise UserError(f"{path} is not a nuScenes detection submission: 'results' is not an object of samples")
    if (kind := other_task(submission["results"])) is not None:
        raise UserError(f"{path} is {kind.name}", kind.remedy)
    return submission["results"]


def _decode(content: bytes, sample_index: Mapping[str, int], max_boxes: int | None) -> BoxArrays:
    """``from_results`` of a file's bytes; msgspec.DecodeError for all that is not of the types of ``_Detection``."""
    parts = []
    samples = _SUBMISSION.decode(content).results
    _check_samples(samples, sample_index)
    for token, raw in samples.items():
        index = sample_index[token]
        detections = _DETECTIONS.decode(raw)
        _check_count(len(detections), token, max_boxes)
        if detections:
            parts.append(_from_detections(detections, index, token))
    return BoxArrays.concatenate(parts)


def _from_detections(detections: Sequence[_Detection], index: int, token: str) -> BoxArrays:
    rows = [(*d.translation, *d.size, *d.rotation, *d.velocity, d.detection_score) for d in detections]
    *geometry, score_N1 = np.split(np.array(rows), np.cumsum(list(WIDTHS.values())), axis=1)
    _check_tokens((d.sample_token for d in detections), token)
    boxes = BoxArrays(
        np.full(len(rows), index, np.int32),
        np.array([LABEL_INDEX[d.detection_name] for d in detections], np.int8),
        *geometry,
        score_N1[:, 0],
        np.array([ATTRIBUTE_INDEX[d.attribute_name] for d in detections], np.int8),
        np.array([d.num_pts for d in detections], np.int32),
    )
    raise_if_invalid(boxes, f"sample {token}")
    return boxes


def from_results(
    results: Mapping[str, Any], sample_index: Mapping[str, int], max_boxes: int | None = None
) -> BoxArrays:
    """The detections of a submission in memory, in its order.

    Args:
        results: entries by sample token.
        sample_index: index of every sample that has to be there.
        max_boxes: boxes that a sample may have.
    Raises:
        UserError for samples that are missing or unknown, too many boxes, and invalid boxes.
    """
    _check_samples(results, sample_index)
    parts = []
    for token, entries in results.items():
        index = sample_index[token]
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise UserError(f"sample {token}: {type(entries).__name__} instead of a list of detections")
        _check_count(len(entries), token, max_boxes)
        parts.append(from_entries(entries, index, token))
    return BoxArrays.concatenate(parts)


def from_entries(entries: Sequence[Mapping[str, Any]], index: int, token: str) -> BoxArrays:
    """The entries of one sample of a submission; UserError for what the devkit refuses in a box.

    An entry that names another sample than the one it is listed under is refused as well (the devkit takes it).
    """
    if not entries:
        return BoxArrays.empty()
    try:
        label = np.array([LABEL_INDEX[e["detection_name"]] for e in entries], dtype=np.int8)
        attribute = np.array([ATTRIBUTE_INDEX[e["attribute_name"]] for e in entries], dtype=np.int8)
        geometry = [np.array([e[key] for e in entries], dtype=np.float64) for key in WIDTHS]
        score = np.array([float(e.get("detection_score", -1.0)) for e in entries])
        points = np.array([int(e.get("num_pts", NOT_COUNTED)) for e in entries], dtype=np.int32)
        tokens = [e["sample_token"] for e in entries]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"sample {token}: an invalid detection ({type(error).__name__}: {error})") from error
    _check_tokens(tokens, token)
    boxes = BoxArrays(np.full(len(entries), index, np.int32), label, *geometry, score, attribute, points)
    raise_if_invalid(boxes, f"sample {token}")
    return boxes


def _check_samples(present: Mapping[str, Any], sample_index: Mapping[str, int]) -> None:
    """UserError unless a submission has exactly the samples of the split; it says which kind of mismatch it is."""
    unknown = [token for token in present if token not in sample_index]
    missing = [token for token in sample_index if token not in present]
    if unknown and len(unknown) == len(present):
        raise UserError(
            f"no sample of the submission is in the split: it has {len(present)}, for example {unknown[0]}, and the "
            f"split has {len(sample_index)}",
            "The detections are of another version or split of nuScenes: choose that one.",
        )
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(present)} samples of the submission are not in the split, for example "
            f"{unknown[0]}",
            "A submission has the samples of one split and no others.",
        )
    if missing:
        raise UserError(
            f"a partial submission: {len(missing)} of {len(sample_index)} samples of the split are not in the "
            f"submission, for example {missing[0]}",
            "Detect on every sample of the split; a sample without detections has an empty list.",
        )


def _check_count(count: int, token: str, max_boxes: int | None) -> None:
    if max_boxes is not None and count > max_boxes:
        raise UserError(
            f"sample {token}: {count} detections, only {max_boxes} are allowed",
            "Lower the maximum number of boxes in the model's config: bbox_coder.max_num, or test_cfg.max_num.",
        )


def _check_tokens(tokens: Iterable[Any], token: str) -> None:
    other = next((t for t in tokens if t != token), token)
    if other != token:
        raise UserError(f"sample {token}: a detection names sample {other}")
