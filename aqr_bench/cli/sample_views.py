"""Run a trained model on one sample and gather what there is to look at; choose the samples worth looking at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aqr_bench.data.dataset import reading_samples
from aqr_bench.data.infos import lidar_to_image
from aqr_bench.data.raw_frames import read_image
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.engine.router_log import RouterLog
from aqr_bench.errors import reading
from aqr_bench.metrics.sample_f1 import (
    SampleObjects,
    best_and_worst,
    best_threshold,
    count_detections,
    matched_boxes,
)
from aqr_bench.records.record import Record
from aqr_bench.report.figures.detections import DrawnBoxes
from aqr_bench.report.viewer.sample_view import QueryViews, SampleView
from aqr_bench.study.layout import detections_file
from aqr_bench.study.spec import Condition

if TYPE_CHECKING:
    from aqr_bench.engine.attention_maps import AttentionRecorder, QueryAttention

SCORE_THRESHOLD = 0.25  # where no stored detections say which one suits the model
MATCH_M = 2.0  # a detection this near to an object is a true positive
EFFECTS = ("largest effect of the bias", "second largest effect of the bias")
CANDIDATES = 20  # queries with the highest scores: what the bias does to background queries is not looked at


@dataclass(frozen=True)
class ChosenSample:
    """A sample to look at: a name for files, its index in the data set, and the reason for its choice."""

    name: str
    index: int
    reason: str


def submission_of(work: Path, record: Record, of_tier: bool = True) -> Path | None:
    """The submission that an evaluation wrote, or the run that it was reused from; None if it is gone.

    ``work``: of the tier, with a folder for each run; of ``evaluate --config`` (no tier) it is that of the run itself.
    """
    runs = [run for run in (record.run.subfolder, record.extra.get("same_as")) if run] if of_tier else [""]
    files = [detections_file(work / run, record.suite, record.condition, "results_nusc.json") for run in runs]
    return next((file for file in files if record.ok and file.is_file()), None)


def chosen_samples(
    dataset: Any, detections: Path | None, count: int, threshold: float | None, ranges: Mapping[str, float]
) -> tuple[list[ChosenSample], float]:
    """The samples to look at, and the score threshold to do it with.

    The best and the worst by F1 of the detections above the threshold, where the evaluation's detections still exist;
    else samples spread evenly over the split (neighbouring ones are one scene).

    Args:
        detections: submission file of the split; None where there is none any more.
        threshold: of scores; None: that of the best F1 over the split.
        ranges: class ranges of the evaluation, metres.
    """
    if detections is None:
        indices = np.linspace(0, len(dataset) - 1, count + 2)[1:-1].astype(int)
        why = f"one of {len(dataset)} samples, not chosen by its score: the evaluation's detections no longer exist"
        chosen = [ChosenSample(str(number), int(index), why) for number, index in enumerate(indices)]
        return chosen, SCORE_THRESHOLD if threshold is None else threshold
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    index_of = {info["token"]: i for i, info in enumerate(infos)}
    truth = {info["token"]: global_objects(info, dataset.metainfo["classes"], ranges) for info in infos}
    detected = detected_objects(detections, 0.0 if threshold is None else threshold)
    if threshold is None:
        threshold = best_threshold(detected, truth, MATCH_M) or SCORE_THRESHOLD
        detected = {token: _above(objects, threshold) for token, objects in detected.items()}
    counts = count_detections(detected, truth, MATCH_M)
    chosen = []
    for word, tokens in zip(("best", "worst"), best_and_worst(counts, count), strict=True):
        for number, token in enumerate(tokens):
            which = word if not number else f"{word} but {number}"
            c = counts[token]
            why = f"{which} of {len(infos)} samples: F1 {c.f1:.2f} at {MATCH_M:g} m, {c.true_positives}"
            why += f" of {c.true_positives + c.false_negatives} objects detected, {c.false_positives} false positives"
            chosen.append(ChosenSample(f"{word}{number or ''}", index_of[token], why))
    return chosen, threshold


def detected_objects(path: Path, threshold: float) -> dict[str, SampleObjects]:
    """Detections of a submission file with at least this score, by sample token; centres in the global frame."""
    objects = {}
    with reading(
        path, "submission", "Delete it to look at samples that are not chosen by its score, or evaluate again."
    ):
        for token, entries in json.loads(path.read_text(encoding="utf-8"))["results"].items():
            sure = [e for e in entries if e["detection_score"] >= threshold]
            centre = np.array([e["translation"][:2] for e in sure], np.float64).reshape(-1, 2)
            scores = np.array([e["detection_score"] for e in sure], np.float64)
            objects[token] = SampleObjects(centre, [e["detection_name"] for e in sure], scores)
    return objects


def _above(objects: SampleObjects, threshold: float) -> SampleObjects:
    keep = np.flatnonzero(objects.scores >= threshold)
    return SampleObjects(objects.centre[keep], [objects.names[i] for i in keep], objects.scores[keep])


def global_objects(info: dict, classes: list[str], ranges: Mapping[str, float]) -> SampleObjects:
    """Annotated objects of a sample that count in its evaluation; centres in the global frame."""
    boxes = counted_boxes(truth_boxes(info["eval_ann_info"], classes), info, ranges)
    ego2global = np.asarray(info["ego2global"], np.float64)
    centre = _ego_centres(boxes, info) @ ego2global[:3, :3].T + ego2global[:3, 3]
    return SampleObjects(centre[:, :2], boxes.labels)


def counted_boxes(boxes: DrawnBoxes, info: dict, ranges: Mapping[str, float]) -> DrawnBoxes:
    """Those within the range of their class (metres from the ego), as evaluations count them."""
    distance = np.hypot(*_ego_centres(boxes, info)[:, :2].T)
    return boxes.select(distance <= np.array([ranges[name] for name in boxes.labels]))


def _ego_centres(boxes: DrawnBoxes, info: dict) -> np.ndarray:
    lidar2ego = np.asarray(info["lidar_points"]["lidar2ego"], np.float64)
    return boxes.boxes_n7[:, :3] @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]


def observe_sample(
    evaluator: Evaluator,
    dataset: Any,
    index: int,
    condition: Condition,
    threshold: float,
    model: str = "",
    query: int | None = None,
) -> tuple[SampleView, DrawnBoxes]:
    """Run the model on one sample: what it gets and detects with at least this score, and all of its detections.

    Boxes beyond the range of their class are in the second alone. ``query``: one whose attention is looked at as well.

    Raises:
        UserError: there is no such query, or the attention of the detector cannot be recorded.
    """
    from mmengine.dataset import pseudo_collate

    from aqr_bench.engine.attention_maps import AttentionRecorder, has_attention

    with reading_samples(dataset.ann_file):
        info = dataset.get_data_info(index)
        packed = dataset[index]
    inputs, sample = packed["inputs"], packed["data_samples"]
    # A condition may have removed a sensor altogether.
    points = inputs["points"].numpy().copy() if "points" in inputs else np.zeros((0, 4), np.float32)
    network_images = inputs["img"].numpy().copy() if "img" in inputs else np.zeros((0, 3, 0, 0))
    projections = np.asarray(sample.metainfo.get("lidar2img", ()))
    classes, ranges = dataset.metainfo["classes"], evaluator.tier.scoring.class_range()
    head = getattr(evaluator.model, "pts_bbox_head", None)
    recorder = AttentionRecorder(head) if has_attention(head) or query is not None else None
    with RouterLog(head) as log, RecordedWindows(head) as windows, recorder or nullcontext():
        detections = detected_boxes(evaluator.predict(pseudo_collate([packed]))[0], classes)
    cameras = sample.metainfo.get("cameras", ())  # none for a detector without cameras
    network_lidar2img = dict(zip(cameras, projections, strict=True))
    if condition.corruption.key == "clean" and len(projections):
        originals, projection_of = original_views(info)
        images, lidar2img = ({c: views[c] for c in cameras} for views in (originals, projection_of))
    else:
        images = {c: view.transpose(1, 2, 0)[..., ::-1] for c, view in zip(cameras, network_images, strict=True)}
        lidar2img = network_lidar2img
    input_shape = sample.metainfo.get("batch_input_shape", network_images.shape[-2:])
    truth = truth_boxes(sample.eval_ann_info, classes)
    drawn = counted_boxes(detections.above(threshold), info, ranges)
    truth = None if truth is None else counted_boxes(truth, info, ranges)
    objects = SampleObjects(np.zeros((0, 2)), []) if truth is None else SampleObjects(_xy(truth), truth.labels)
    true_positive_D, detected_T = matched_boxes(SampleObjects(_xy(drawn), drawn.labels, drawn.scores), objects, MATCH_M)
    view = SampleView(
        model=model,
        condition=condition.name,
        token=info["token"],
        scene=str(info.get("scene_token", "")),
        timestamp_s=float(info.get("timestamp", index)),
        points_P4=points[:, :4],
        images=images,
        lidar2img=lidar2img,
        detections=drawn,
        threshold=threshold,
        truth=truth,
        true_positive_D=true_positive_D,
        detected_T=detected_T,
        queries=query_views(head, log, windows),
        attention={} if recorder is None else chosen_attention(recorder, drawn.select(~true_positive_D), query),
        input_area={
            c: input_area(network_lidar2img[c], input_shape, lidar2img[c], images[c].shape[:2]) for c in cameras
        },
    )
    return view, detections


def input_area(
    network_lidar2img: np.ndarray, network_shape: Sequence[int], lidar2img: np.ndarray, image_shape: Sequence[int]
) -> np.ndarray:
    """What the network gets of an image: x0, y0, x1, y1 as shares of the image's width and height.

    Args:
        network_lidar2img, lidar2img: projections to pixels of the network's input and of the image.
        network_shape, image_shape: (height, width) in pixels; the network's input with its padding.
    """
    to_image = (lidar2img @ np.linalg.inv(network_lidar2img))[:3, :3]  # resizing and cropping, of pixels
    corners = np.array([[0, 0, 1], [network_shape[1], network_shape[0], 1]]) @ to_image.T
    return (corners[:, :2] / corners[:, 2:] / image_shape[::-1]).ravel()


def chosen_attention(
    recorder: AttentionRecorder, false_positives: DrawnBoxes, query: int | None = None
) -> dict[str, QueryAttention]:
    """The attention of a few queries of the one sample that was run, by the reason for their choice.

    These are: the query with the highest score, that of the false positive with the highest score, and of the
    ``CANDIDATES`` queries with the highest scores the ones whose attention the bias changes most; and ``query``.
    """
    attention = {} if query is None else {"as asked": recorder.attention_of(query)}
    scores_Q = recorder.scores()
    candidates = [recorder.attention_of(int(q)) for q in np.argsort(-scores_Q, kind="stable")[:CANDIDATES]]
    attention["highest score"] = candidates[0]
    if len(false_positives.labels):
        xy = false_positives.boxes_n7[false_positives.scores.argmax(), :2]
        attention["highest false positive"] = recorder.attention_of(recorder.nearest_query(xy))
    if candidates[0].window_K is not None:
        by_effect = sorted(candidates, key=lambda a: -a.bias_effect)
        attention |= dict(zip(EFFECTS, by_effect, strict=False))
    return attention


class RecordedWindows:
    """The last bias on a grid of windows that a head gave its cross-attention, as a context manager around forward."""

    def __init__(self, head: Any) -> None:
        self.head = head if getattr(head, "has_router", False) else None
        self.grids: tuple[Any, ...] = ()

    def __enter__(self) -> RecordedWindows:
        self._hook = None if self.head is None else self.head.register_forward_hook(self._record)
        return self

    def __exit__(self, *error: object) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _record(self, head: Any, inputs: Any, outputs: Any) -> None:
        output = outputs[0][0].get("aqr")
        self.grids = getattr(output[0].cross_bias, "grids", ()) if output else ()


def query_views(head: Any, log: RouterLog, windows: RecordedWindows) -> QueryViews | None:
    """The queries of the one sample that was run; None without a router."""
    if not log.tokens:
        return None
    from aqr_bench.cmt.encoding import clamp_reference, to_metres

    reference = to_metres(clamp_reference(head.reference_points.weight.detach()), head.pc_range).cpu().numpy()
    bev, cameras = None, [np.zeros((0, 6))]
    for grid in windows.grids:
        _, rows, cols = grid.shape
        number, row, col = grid.centre_BQ3[0].cpu().numpy().T
        half, seen = grid.size // 2, grid.seen_BQ[0].cpu().numpy()
        low, high = (
            np.clip([col - half, row - half], 0, None),
            np.minimum([col + half + 1, row + half + 1], [[cols], [rows]]),
        )
        box_Q4 = np.concatenate([low, high]).T / [cols, rows, cols, rows]
        if grid.is_camera:
            inside = seen & (box_Q4[:, 0] < box_Q4[:, 2]) & (box_Q4[:, 1] < box_Q4[:, 3])
            cameras.append(np.c_[np.flatnonzero(inside), number[inside], box_Q4[inside]])
        else:
            x0, y0, _, x1, y1, _ = head.bev_range
            bev = box_Q4 * np.array([x1 - x0, y1 - y0] * 2) + [x0, y0, x0, y0]
    arrays = log.arrays()
    score, weight = arrays["score"][0].astype(np.float32), arrays["weight"][0].astype(np.float32)
    return QueryViews(reference, score, weight, bev, np.concatenate(cameras))


def _xy(boxes: DrawnBoxes) -> np.ndarray:
    return boxes.boxes_n7[:, :2].astype(np.float64)


def original_views(info: dict) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The images as they lie on disk (RGB) and their projections."""
    images, lidar2img = {}, {}
    for camera, view in info["images"].items():
        images[camera] = read_image(view["img_path"])[..., ::-1]
        lidar2img[camera] = lidar_to_image(view["cam2img"], view["lidar2cam"])
    return images, lidar2img


def truth_boxes(annotations: dict | None, classes: list[str]) -> DrawnBoxes | None:
    """Annotated boxes of the detection classes with at least one LiDAR point; None without annotations."""
    if annotations is None:
        return None
    labels = annotations["gt_labels_3d"]
    keep = labels >= 0
    return DrawnBoxes(_seven(annotations["gt_bboxes_3d"])[keep], [classes[i] for i in labels[keep]])


def detected_boxes(sample: Any, classes: list[str]) -> DrawnBoxes:
    """All detections of one sample."""
    pred = sample.pred_instances_3d
    return DrawnBoxes(_seven(pred.bboxes_3d), [classes[i] for i in pred.labels_3d.tolist()], pred.scores_3d.numpy())


def _seven(boxes: Any) -> np.ndarray:
    return np.concatenate([boxes.gravity_center.numpy(), boxes.tensor[:, 3:7].numpy()], 1)
