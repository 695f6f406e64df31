"""Pictures of detections: best and worst val samples under every condition, or one keyframe from elsewhere.

aqr-bench pictures --tier T --infos DIR --suite SUITE --train REC --evaluation REC --work DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.cli.sample_views import SCORE_THRESHOLD, chosen_samples, observe_sample, submission_of
from aqr_bench.console import positive_int, unit_fraction
from aqr_bench.data.dataset import keyframe_data, load_data, point_at_keyframe, reading_samples
from aqr_bench.engine.evaluate import Evaluator, build_loader, load_evaluator
from aqr_bench.errors import UserError, run_main
from aqr_bench.records.freshness import pictures_identity
from aqr_bench.records.record import read_records
from aqr_bench.report.figures.detections import CAMERA_GRID, DrawnBoxes, draw_sample
from aqr_bench.report.viewer.html import write_viewer
from aqr_bench.report.viewer.sample_view import SampleView
from aqr_bench.study.load import load_suite, load_tier, resolve_condition
from aqr_bench.study.spec import Condition, Tier


def main(argv: list[str] | None = None) -> int:
    """Write ``<condition>.<n>.png`` and a viewer, ``.html``, for a few val samples; ``pictures.json`` lists them."""
    parser = argparse.ArgumentParser(prog="aqr-bench pictures", description=__doc__)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--infos", required=True, help="folder that aqr-bench data wrote")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--train", required=True, help="train record of the model")
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument("--evaluation", help="evaluate record of the model: its best and worst samples are drawn")
    parser.add_argument("--work", help="the tier's work folder, in which the evaluation left its detections")
    parser.add_argument("--samples", type=positive_int, default=1, help="best and worst samples per condition")
    parser.add_argument("--threshold", type=unit_fraction, help="minimum score of detections (default: best F1)")
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
        ranges, threshold = tier.scoring.class_range(), args.threshold
        dataset = clean = None
        for condition in suite.conditions:
            dataset = build_loader(evaluator.config, condition, 1, dataset).dataset
            clean = clean or (dataset, condition)
            record = next((r for r in evaluated if r.condition == condition.name), None)
            detections = None if record is None else submission_of(Path(args.work), record)
            # The first condition, the clean one, decides on the threshold of all.
            samples, threshold = chosen_samples(dataset, detections, args.samples, threshold, ranges)
            for sample in samples:
                path = out / f"{condition.name}.{sample.name}.png"
                view, _ = draw_detections(path, evaluator, dataset, sample.index, condition, threshold, sample.reason)
                caption = f"{condition.name}, {sample.reason}; detections with a score of at least {threshold:g}"
                views = [view]
                if condition is not clean[1]:
                    views.insert(0, observe_sample(evaluator, clean[0], sample.index, clean[1], threshold)[0])
                write_viewer(path.with_suffix(".html"), views, caption)
                entry = {"condition": condition.name, "sample": sample.index, "caption": caption}
                pictures.append({"file": path.name, **entry})
    index_file = out / "pictures.json"
    identity = pictures_identity(Path(args.train), Path(args.evaluation)) if args.evaluation else None
    run = {"study": trained.study, "variant": trained.variant, "seed": trained.seed}
    content = {"pictures": pictures, "reason": trained.reason, "run": run, "identity": identity}
    write_text(index_file, json.dumps(content))
    print(f"{len(pictures)} pictures -> {out}")
    return 0


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
        _, boxes = draw_detections(path, evaluator, loader.dataset, index, condition, SCORE_THRESHOLD)
        written.append(path)
        detections[token] = {
            "boxes_lidar": boxes.boxes_n7.tolist(),
            "labels": list(boxes.labels),
            "scores": boxes.scores.tolist(),
        }
    write_text(out / "detections.json", json.dumps(detections))
    return written


def draw_detections(
    path: Path, evaluator: Evaluator, dataset: Any, index: int, condition: Condition, threshold: float, why: str = ""
) -> tuple[SampleView, DrawnBoxes]:
    """Run one sample and draw it, with ``why`` in the title; returns see :func:`observe_sample`."""
    view, detections = observe_sample(evaluator, dataset, index, condition, threshold)
    title = f"{condition.name}, sample {view.token[:8]}, detections with a score of at least {threshold:g}"
    title += f"\n{why}" if why else ""
    seen = CAMERA_GRID if dataset.modality.get("use_camera", True) else ()
    draw_sample(path, view.images, view.lidar2img, view.points_P4, view.truth, view.detections, title, cameras=seen)
    return view, detections


if __name__ == "__main__":
    run_main(main)
