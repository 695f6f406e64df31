"""nuScenes detection scores in the record's shape: mAP, NDS, the five errors, per class; by ours or the devkit."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nuscenes.eval.detection.constants import DETECTION_NAMES

from aqr_bench.errors import UserError, nearest
from aqr_bench.metrics.boxes import box_properties
from aqr_bench.metrics.custom import custom_scores
from aqr_bench.metrics.ground_truth import GroundTruth, filter_boxes, ground_truth
from aqr_bench.metrics.matches import collect_matches
from aqr_bench.metrics.nuscenes import UNDEFINED, evaluate
from aqr_bench.metrics.scoring_rules import ALL, OFFICIAL_RULES, ScoringRules
from aqr_bench.metrics.splits import evaluation_split
from aqr_bench.metrics.submission import from_results, load_results, read_submission

ENGINES = ("fast", "devkit")
ENGINE_VARIABLE = "AQR_BENCH_METRIC"
ERRORS = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}


def metric_engine(engine: str | None = None) -> str:
    """Metric engine: the argument, the environment's, or "fast"; UserError if unknown."""
    engine = engine or os.environ.get(ENGINE_VARIABLE) or "fast"
    if engine not in ENGINES:
        raise UserError(
            f"metric engine '{engine}' (argument or {ENGINE_VARIABLE}) is unknown{nearest(engine, ENGINES)}"
        )
    return engine


def score_detections(
    results_json: str | Path,
    nusc: Any,
    out_dir: str | Path,
    matches: str | Path | None = None,
    engine: str | None = None,
    results: Mapping[str, Sequence[Mapping]] | None = None,
    split: str | None = None,
    custom: Sequence[str] = (),
    rules: ScoringRules = OFFICIAL_RULES,
) -> dict:
    """Score a submission with our metric, or with the devkit's DetectionEval.

    Args:
        results_json: nuScenes submission of every sample of the split.
        nusc: devkit NuScenes of the data set (v1.0-mini or v1.0-trainval).
        out_dir: where the devkit may write.
        matches: where to save which detection is matched to which object (see matches.py), or None; by our metric.
        engine: "fast" or "devkit"; None: see :func:`metric_engine`. Both give the same numbers.
        results: the submission's entries by sample token, if in memory; the fast metric reads no file then.
        split: that it is scored on; None: the val split, see splits.py.
        custom: names of metrics of the user, see custom.py; with ``matches``, or by the fast metric.
        rules: where not nuScenes'.
    Returns:
        ``{mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE, classes: {name: {AP, AP_dist, ATE, ...}}}``; a number that the
        devkit leaves undefined is None. With ``custom``, what they give is ``custom``, by name.
    """
    by_devkit = metric_engine(engine) == "devkit"
    if by_devkit and matches is None and rules.classes == ALL:
        return _score_with_devkit(results_json, nusc, out_dir, rules.config(()), split)
    truth = evaluated_truth(nusc, split, rules)
    samples, config = truth.samples, rules.config(DETECTION_NAMES[label] for label in set(truth.boxes.label.tolist()))
    if by_devkit and matches is None:
        return _score_with_devkit(results_json, nusc, out_dir, config, split)
    if results is None:
        detections = read_submission(results_json, samples.index_by_token, config.max_boxes_per_sample)
    else:
        detections = from_results(results, samples.index_by_token, config.max_boxes_per_sample)
    detections = filter_boxes(detections, samples, config.class_range)
    evaluation = evaluate(truth.boxes, detections, len(samples.tokens), config)
    if matches is not None:
        where = samples.tokens, samples.scenes, samples.scene
        properties = truth.properties(), box_properties(detections, samples.offset(detections))
        more = config, properties, samples.descriptions
        collect_matches(evaluation, truth.boxes, detections, *where, *more).save(matches)
    further = {"custom": custom_scores(custom, detections, truth.boxes, samples)} if custom else {}
    if by_devkit:
        return _score_with_devkit(results_json, nusc, out_dir, config, split) | further
    return flatten_summary(evaluation.summary) | further


def _split(nusc: Any) -> str:
    return evaluation_split(getattr(nusc, "dataroot", None), nusc.version)


def evaluated_truth(nusc: Any, split: str | None = None, rules: ScoringRules = OFFICIAL_RULES) -> GroundTruth:
    """The objects that detections are scored with, see :func:`score_detections`; UserError where there are none."""
    return ground_truth(nusc, split or _split(nusc), rules.class_range())


def _score_with_devkit(
    results_json: str | Path, nusc: Any, out_dir: str | Path, config: Any, split: str | None
) -> dict:
    from nuscenes.eval.detection.evaluate import DetectionEval

    if not any(load_results(results_json).values()):
        # A collapsed model detects nothing; the devkit stops with "Invalid box type: None" on such a file.
        return empty_submission_scores(config.class_names)
    with _quiet_devkit():
        evaluation = DetectionEval(
            nusc,
            config=config,
            result_path=str(results_json),
            eval_set=split or _split(nusc),
            output_dir=str(out_dir),
            verbose=False,
        )
        metrics, _ = evaluation.evaluate()
    return flatten_summary(metrics.serialize())


def empty_submission_scores(class_names: Iterable[str]) -> dict:
    """The scores of a submission without any box: AP 0, every error at its worst, as the devkit counts a miss.

    Errors that a class does not have (a cone has no heading) are None, as in every other case.
    """
    scores: dict[str, Any] = {"mAP": 0.0, "NDS": 0.0, **{f"m{name}": 1.0 for name in ERRORS.values()}}
    scores["classes"] = {
        name: {
            "AP": 0.0,
            "AP_dist": dict.fromkeys(("0.5", "1.0", "2.0", "4.0"), 0.0),
            **{short: None if k in UNDEFINED.get(name, ()) else 1.0 for k, short in enumerate(ERRORS.values())},
        }
        for name in class_names
    }
    return scores


def flatten_summary(summary: dict) -> dict:
    """The devkit's metrics summary in the record's shape."""
    scores: dict[str, Any] = {"mAP": _number(summary["mean_ap"]), "NDS": _number(summary["nd_score"])}
    for key, name in ERRORS.items():
        scores["m" + name] = _number(summary["tp_errors"][key])
    scores["classes"] = {
        name: {
            "AP": _number(summary["mean_dist_aps"][name]),
            "AP_dist": {str(d): _number(ap) for d, ap in summary["label_aps"][name].items()},
            **{short: _number(summary["label_tp_errors"][name][key]) for key, short in ERRORS.items()},
        }
        for name in summary["label_aps"]
    }
    return scores


def _number(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


@contextmanager
def _quiet_devkit() -> Iterator[None]:
    """The devkit draws a tqdm bar while it loads ground truth, even with ``verbose=False``."""
    import nuscenes.eval.common.loaders as loaders

    bar, loaders.tqdm.tqdm = loaders.tqdm.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        loaders.tqdm.tqdm = bar
