"""Every score of resampled scenes against brute force: the devkit on the set with every copy."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from metrics_boxes import CONFIG, random_boxes
from metrics_devkit import match_boxes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.evaluate import DetectionEval

from aqr_bench.metrics.matches import Matches


def random_full_boxes(seed: int, ties: bool = False, quality: float = 1.0):
    """random_boxes boxes with sizes, headings, random velocities (some NaN) and attributes (some missing)."""
    truth, detections, scene_of = random_boxes(seed=seed, ties=ties, quality=quality)
    rng = np.random.default_rng(seed)
    for box in [*truth.all, *detections.all]:
        angle = rng.uniform(-np.pi, np.pi)
        box.size = tuple(rng.uniform(1, 3, 3))
        box.rotation = (np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2))
        box.velocity = tuple(np.where(rng.uniform() < 0.2, np.nan, rng.normal(size=2)))
        box.attribute_name = ["vehicle.parked", "vehicle.moving", ""][rng.integers(3)]
    return truth, detections, scene_of


def replicated(boxes: EvalBoxes, group_of: dict[str, str], times: dict[str, int]) -> EvalBoxes:
    """Every sample as often as its group is in the set, copies side by side."""
    copied = EvalBoxes()
    for token in boxes.sample_tokens:
        for k in range(times[group_of[token]]):
            copies = copy.deepcopy(boxes[token])
            for box in copies:
                box.sample_token = f"{token}.{k}"
            copied.add_boxes(f"{token}.{k}", copies)
    return copied


def devkit(truth: EvalBoxes, detections: EvalBoxes):
    return DetectionEval.evaluate(SimpleNamespace(gt_boxes=truth, pred_boxes=detections, cfg=CONFIG, verbose=False))[0]


def assert_brute_force(matches: Matches, truth, detections, group_of, weights) -> None:
    scores = matches.scores(weights)
    assert matches.map(weights) == pytest.approx(scores.map, abs=1e-12)
    for r, row in enumerate(weights):
        times = dict(zip(matches.scenes, row.tolist(), strict=True))
        expected = devkit(replicated(truth, group_of, times), replicated(detections, group_of, times))
        assert scores.map[r] == pytest.approx(expected.mean_ap, abs=1e-9)
        assert scores.nds[r] == pytest.approx(expected.nd_score, abs=1e-9)
        assert scores.errors[r] == pytest.approx(list(expected.tp_errors.values()), abs=1e-9)
        for c, name in enumerate(matches.classes):
            aps = [expected.get_label_ap(name, d) for d in CONFIG.dist_ths]
            errors = [expected.get_label_tp(name, metric) for metric in TP_METRICS]
            assert scores.ap[r, c] == pytest.approx(aps, abs=1e-9), name
            assert scores.class_errors[r, c] == pytest.approx(errors, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("seed", range(3))
def test_resampled_scenes_score_as_the_devkit_scores_all_copies(seed):
    truth, detections, scene_of = random_full_boxes(seed)
    weights = np.random.default_rng(seed).multinomial(6, [1 / 6] * 6, size=6)
    weights = np.vstack([weights, [0, 0, 6, 0, 0, 0], [1, 1, 0, 4, 0, 0], np.ones(6, int)])
    matches = match_boxes(truth, detections, scene_of, CONFIG)
    assert_brute_force(matches, truth, detections, scene_of, weights)


def test_samples_can_be_resampled():
    truth, detections, scene_of = random_full_boxes(7)
    matches = match_boxes(truth, detections, scene_of, CONFIG).by_sample()
    weights = np.random.default_rng(7).multinomial(12, [1 / 12] * 12, size=4)
    assert_brute_force(matches, truth, detections, {token: token for token in scene_of}, weights)


def test_equal_scores_in_different_samples_have_the_devkits_order():
    """One detection a class and sample, at scores of few values; attributes missing in some sets altogether."""
    truth, detections, scene_of = random_full_boxes(3)
    for token in detections.sample_tokens:
        first = {box.detection_name: box for box in detections[token]}
        detections.boxes[token] = list(first.values())
        for k, box in enumerate(detections[token]):
            box.detection_score = [0.25, 0.5, 0.75][(len(token) + k) % 3]
            box.translation = truth[token][0].translation if truth[token] else box.translation
    for token in list(truth.sample_tokens)[:6]:
        for box in truth[token]:
            box.attribute_name = ""
    weights = np.vstack([np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=6), [3, 3, 0, 0, 0, 0]])
    matches = match_boxes(truth, detections, scene_of, CONFIG)
    assert matches.map()[0] > 0
    assert_brute_force(matches, truth, detections, scene_of, weights)


def test_all_sets_at_once_give_the_scores_of_each_set_alone():
    truth, detections, scene_of = random_full_boxes(1)
    matches = match_boxes(truth, detections, scene_of, CONFIG)
    weights = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=300)  # more than one block
    together = matches.scores(weights)
    for r in (0, 127, 128, 299):
        alone = matches.scores(weights[r : r + 1])
        assert together.nds[r] == alone.nds[0] and (together.ap[r] == alone.ap[0]).all()
