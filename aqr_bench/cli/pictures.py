"""Pictures of detections: best and worst val samples under every condition, or one keyframe from elsewhere.

aqr-bench pictures --tier T --infos DIR --suite SUITE --train REC --evaluation REC --work DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.atomic import write_text
from aqr_bench.console import positive_int, unit_fraction
from aqr_bench.data.dataset import keyframe_data, load_data, point_at_keyframe, reading_samples
from aqr_bench.data.infos import lidar_to_image
from aqr_bench.data.raw_frames import read_image
from aqr_bench.engine.evaluate import Evaluator, build_loader, load_evaluator
from aqr_bench.errors import UserError, run_main
from aqr_bench.metrics.sample_f1 import SampleObjects, best_and_worst, count_detections
from aqr_bench.records.freshness import pictures_identity
from aqr_bench.records.record import Record, read_records
from aqr_bench.report.figures.detections import CAMERA_GRID, DrawnBoxes, draw_sample
from aqr_bench.study.layout import detections_file
from aqr_bench.study.load import load_suite, load_tier, resolve_condition
from aqr_bench.study.spec import Condition, Tier

SCORE_THRESHOLD = 0.25
MATCH_M = 2.0  # a detection this near to an object is a true positive


def main(argv: list[str] | None = None) -> int:
    """Write ``<condition>.<n>.png`` for a few val samples and ``pictures.json``, which lists them."""
    parser = argparse.ArgumentParser(prog="aqr-bench pictures", description=__doc__)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--infos", required=True, help="folder that aqr-bench data wrote")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--train", required=True, help="train record of the model")
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument("--evaluation", help="evaluate record of the model: its best and worst samples are drawn")
    parser.add_argument("--work", help="the tier's work folder, in which the evaluation left its detections")
    parser.add_argument("--samples", type=positive_int, default=1, help="best and worst samples per condition")
    parser.add_argument("--threshold", type=unit_fraction, default=SCORE_THRESHOLD, help="minimum score of detections")
    parser.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    if bool(args.evaluation) != bool(args.work):
        raise UserError("--evaluation and --work go together: the record says what is in the folder")
    tier, suite, data = load_tier(args.tier), load_suite(args.suite), load_data(args.infos)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    trained = read_records(args.train)[0]
    pictures: list[dict] = []
    if trained.ok:
        evaluator = load_evaluator(tier, data, trained, args.train, out, args.study)
        evaluated = read_records(args.evaluation) if args.evaluation else []
        dataset = None
        for condition in suite.conditions:
            dataset = build_loader(evaluator.config, condition, 1, dataset).dataset
            record = next((r for r in evaluated if r.condition == condition.name), None)
            detections = None if record is None else submission_of(Path(args.work), record)
            for name, index, why in chosen_samples(dataset, detections, args.samples, args.threshold):
                path = out / f"{condition.name}.{name}.png"
                draw_detections(evaluator, dataset, index, condition, path, args.threshold, why)
                caption = f"{condition.name}, {why}; detections with a score of at least {args.threshold:g}"
                pictures.append({"file": path.name, "condition": condition.name, "sample": index, "caption": caption})
    index_file = out / "pictures.json"
    identity = pictures_identity(Path(args.train), Path(args.evaluation)) if args.evaluation else None
    run = {"study": trained.study, "variant": trained.variant, "seed": trained.seed}
    content = {"pictures": pictures, "reason": trained.reason, "run": run, "identity": identity}
    write_text(index_file, json.dumps(content))
    print(f"{len(pictures)} pictures -> {out}")
    return 0


def submission_of(work: Path, record: Record) -> Path | None:
    """The detections that an evaluation left (its own, or those of the run it took over); None if they are gone."""
    runs = [record.run.subfolder, *([record.extra["same_as"]] if record.extra.get("same_as") else [])]
    files = [detections_file(work / run, record.suite, record.condition, "results_nusc.json") for run in runs]
    return next((file for file in files if record.ok and file.is_file()), None)


def chosen_samples(dataset: Any, detections: Path | None, count: int, threshold: float) -> list[tuple[str, int, str]]:
    """The samples to draw: name, index in the data set, and the reason for its choice, for the caption.

    The best and the worst by F1 of the detections above the threshold, where the evaluation's detections still exist;
    else samples spread evenly over the split (neighbouring ones are one scene).
    """
    if detections is None:
        indices = np.linspace(0, len(dataset) - 1, count + 2)[1:-1].astype(int)
        why = f"one of {len(dataset)} samples, not chosen by its score: the evaluation's detections no longer exist"
        return [(str(number), int(index), why) for number, index in enumerate(indices)]
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    index_of = {info["token"]: i for i, info in enumerate(infos)}
    truth = {info["token"]: global_objects(info, dataset.metainfo["classes"]) for info in infos}
    counts = count_detections(detected_objects(detections, threshold), truth, MATCH_M)
    chosen = []
    for word, tokens in zip(("best", "worst"), best_and_worst(counts, count), strict=True):
        for number, token in enumerate(tokens):
            which = word if not number else f"{word} but {number}"
            c = counts[token]
            why = f"{which} of {len(infos)} samples: F1 {c.f1:.2f} at {MATCH_M:g} m, {c.true_positives}"
            why += f" of {c.true_positives + c.false_negatives} objects detected, {c.false_positives} false positives"
            chosen.append((f"{word}{number or ''}", index_of[token], why))
    return chosen


def detected_objects(path: Path, threshold: float) -> dict[str, SampleObjects]:
    """Detections of a submission file with at least this score, by sample token; centres in the global frame."""
    objects = {}
    for token, entries in json.loads(path.read_text(encoding="utf-8"))["results"].items():
        sure = [e for e in entries if e["detection_score"] >= threshold]
        centre = np.array([e["translation"][:2] for e in sure], np.float64).reshape(-1, 2)
        scores = np.array([e["detection_score"] for e in sure], np.float64)
        objects[token] = SampleObjects(centre, [e["detection_name"] for e in sure], scores)
    return objects


def global_objects(info: dict, classes: list[str]) -> SampleObjects:
    """Annotated objects of a sample that count in its evaluation; centres in the global frame."""
    from nuscenes.eval.common.config import config_factory

    boxes = truth_boxes(info["eval_ann_info"], classes)
    lidar2ego, ego2global = (np.asarray(m, np.float64) for m in (info["lidar_points"]["lidar2ego"], info["ego2global"]))
    ego = boxes.boxes_n7[:, :3] @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    ranges = config_factory("detection_cvpr_2019").class_range
    near = [i for i, name in enumerate(boxes.labels) if np.hypot(*ego[i, :2]) <= ranges[name]]
    centre = ego[near] @ ego2global[:3, :3].T + ego2global[:3, 3]
    return SampleObjects(centre[:, :2], [boxes.labels[i] for i in near])


def evaluate_keyframe(
    tier: Tier, train: str | Path, folder: str | Path, out: str | Path, study_file: str | None = None
) -> list[Path]:
    """Detect on the samples of a keyframe folder with a trained model; write pictures and detections.json.

    As in every evaluation: mmdet3d's NuScenesDataset, the test pipeline, the detector. Only where the files are
    differs: in one folder.
    """
    data, _ = keyframe_data(folder)
    trained = read_records(train)[0]
    if not trained.ok:
        raise UserError(f"{train}: the training failed ({trained.reason}); there is no model to evaluate")
    out = Path(out)
    evaluator = load_evaluator(tier, data, trained, train, out, study_file)
    point_at_keyframe(evaluator.config.test_dataloader.dataset, folder)
    written, detections = [], {}
    condition = resolve_condition("clean")
    with reading_samples(evaluator.config.test_dataloader.dataset.ann_file):
        loader = build_loader(evaluator.config, condition, 1)
        tokens = [loader.dataset.get_data_info(index)["token"] for index in range(len(loader.dataset))]
    for index, token in enumerate(tokens):
        path = out / f"keyframe.{index}.png"
        boxes = draw_detections(evaluator, loader.dataset, index, condition, path, SCORE_THRESHOLD)
        written.append(path)
        detections[token] = {
            "boxes_lidar": boxes.boxes_n7.tolist(),
            "labels": list(boxes.labels),
            "scores": boxes.scores.tolist(),
        }
    write_text(out / "detections.json", json.dumps(detections))
    return written


def draw_detections(
    evaluator: Evaluator, dataset: Any, index: int, condition: Condition, path: Path, threshold: float, why: str = ""
) -> DrawnBoxes:
    """Run one sample and draw it, with ``why`` in the title; returns all of its detections."""
    from mmengine.dataset import pseudo_collate

    with reading_samples(dataset.ann_file):
        info = dataset.get_data_info(index)
        packed = dataset[index]
    inputs, sample = packed["inputs"], packed["data_samples"]
    # A condition may have removed a sensor altogether.
    points = inputs["points"].numpy().copy() if "points" in inputs else np.zeros((0, 3), np.float32)
    network_images = inputs["img"].numpy().copy() if "img" in inputs else ()
    projections = np.asarray(sample.metainfo.get("lidar2img", ()))
    truth = truth_boxes(sample.eval_ann_info, dataset.metainfo["classes"])
    detections = detected_boxes(evaluator.predict(pseudo_collate([packed]))[0], dataset.metainfo["classes"])
    cameras = sample.metainfo.get("cameras", ())  # none for a detector without cameras
    if condition.corruption.key == "clean" and len(projections):
        images, lidar2img = original_views(info)
    else:
        images = {c: view.transpose(1, 2, 0)[..., ::-1] for c, view in zip(cameras, network_images, strict=True)}
        lidar2img = dict(zip(cameras, projections, strict=True))
    drawn = detections.above(threshold)
    title = f"{condition.name}, sample {info['token'][:8]}, detections with a score of at least {threshold:g}"
    title += f"\n{why}" if why else ""
    seen = CAMERA_GRID if dataset.modality.get("use_camera", True) else ()
    draw_sample(path, images, lidar2img, points, truth, drawn, title, cameras=seen)
    return detections


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


if __name__ == "__main__":
    run_main(main)
