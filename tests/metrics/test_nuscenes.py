"""The metric against nuscenes-devkit: the devkit's unit tests, and random sets full of ties, edge cases and gaps."""

from __future__ import annotations

import unittest
import warnings
from types import SimpleNamespace

import metrics_devkit
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_boxes import CONFIG
from metrics_devkit import from_eval_boxes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection import algo
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.tests import test_algo, test_utils

from aqr_bench.metrics import nuscenes as metric
from aqr_bench.metrics.cross_check import cross_check
from aqr_bench.metrics.greedy_matching import match
from aqr_bench.metrics.nuscenes import evaluate, running_mean

NAMES = ("car", "barrier", "traffic_cone", "pedestrian")
ATTRIBUTES = ("", "vehicle.parked", "vehicle.moving", "pedestrian.moving")


def devkit(truth: EvalBoxes, detections: EvalBoxes):
    """Summary and curves of DetectionEval.evaluate on boxes that are loaded and filtered."""
    evaluation = SimpleNamespace(gt_boxes=truth, pred_boxes=detections, cfg=CONFIG, verbose=False)
    metrics, curves = DetectionEval.evaluate(evaluation)
    return {k: v for k, v in metrics.serialize().items() if k not in ("eval_time", "cfg", "tp_scores")}, curves.md


def ours(truth: EvalBoxes, detections: EvalBoxes):
    tokens = dict.fromkeys([*truth.sample_tokens, *detections.sample_tokens])
    number = {token: i for i, token in enumerate(tokens)}
    boxes = from_eval_boxes(truth, number), from_eval_boxes(detections, number, use_box_token=True)
    evaluation = evaluate(*boxes, len(number), CONFIG)
    return evaluation.summary, evaluation.curves


def assert_same(truth: EvalBoxes, detections: EvalBoxes) -> int:
    """Every number of both; how many there were."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the devkit's means of nothing, and its inf - inf
        expected = devkit(truth, detections)
    check = cross_check(ours(truth, detections), expected)
    assert check.agrees and check.largest < 1e-12, check.mismatches[:5]
    return check.compared


def eval_boxes(samples: dict[str, list[dict]]) -> EvalBoxes:
    boxes = EvalBoxes()
    for token, entries in samples.items():
        boxes.add_boxes(token, [DetectionBox(sample_token=token, **entry) for entry in entries])
    return boxes


# ---------------------------------------------------------------- the devkit's unit tests


@pytest.mark.parametrize("case", ["TestAlgo", "TestAPSimple", "TestTPSimple"])
def test_the_devkits_tests_of_the_metric_pass_on_ours(monkeypatch, case):
    for name in ("accumulate", "calc_ap", "calc_tp"):
        monkeypatch.setattr(test_algo, name, getattr(metrics_devkit, name))
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(getattr(test_algo, case))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 3 and result.wasSuccessful(), (result.failures, result.errors)


def test_the_devkits_tests_of_the_errors_pass_on_ours(monkeypatch):
    """Our functions work on arrays; here each gets one pair."""

    def row(box, key):
        return np.array([[*getattr(box, key)]], dtype=np.float64)

    def error(kind):
        def of(a, b):
            pair = [from_eval_boxes(eval_boxes_of(box), {"": 0}) for box in (a, b)]
            return metric.pair_errors(*pair)[0, kind]

        return of

    def attr_acc(a, b):
        value = 1 - error(metric.ATTRIBUTE)(a, b)
        return np.nan if np.isnan(value) else value  # the test asks for that very object

    def angle(x, y, period):
        return metric.angle_between(np.array([x]), np.array([y]), period)[0]

    def eval_boxes_of(box):
        box.size = tuple(max(side, 1e-3) for side in box.size)
        boxes = EvalBoxes()
        boxes.add_boxes("", [box])
        return boxes

    def yaw_diff(a, b):
        return angle(*(metric.yaw(row(box, "rotation"))[0] for box in (a, b)), 2 * np.pi)

    replaced = {
        "scale_iou": lambda a, b: metric.scale_iou(row(a, "size"), row(b, "size"))[0],
        "yaw_diff": yaw_diff,
        "angle_diff": angle,
        "center_distance": error(metric.TRANSLATION),
        "velocity_l2": error(metric.VELOCITY),
        "attr_acc": attr_acc,
        "cummean": running_mean,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(test_utils, name, function)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(test_utils.TestEval).run(result)
    assert result.testsRun == 7 and result.wasSuccessful(), (result.failures, result.errors)


# ---------------------------------------------------------------- random sets


@st.composite
def entry(draw, detection: bool):
    """A box on a coarse grid (distances tie, and meet thresholds), now and then with other special values."""
    step = draw(st.sampled_from([0.5, 0.3, 0.1]))
    centre = [step * draw(st.integers(-4, 4)) for _ in range(2)]
    angle = draw(st.sampled_from([0.0, 0.5, np.pi, -np.pi, 3.0]))
    upright = draw(
        st.sampled_from([None, None, None, (0.0, 0.0, 0.0, 0.0), (0.5, 0.5, -0.5, 0.5), (0.7, 0.0, -0.7, 0.1)])
    )
    number = st.sampled_from([0.0, 1.5, -2.0, float("nan")])
    return {
        "translation": (*centre, draw(st.sampled_from([0.0, 9.0]))),
        "size": tuple(draw(st.sampled_from([0.5, 1.0, 2.5])) for _ in range(3)),
        "rotation": upright or (np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)),
        "velocity": (draw(number), draw(number)),
        "detection_name": draw(st.sampled_from(NAMES)),
        "detection_score": draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9])) if detection else -1.0,
        "attribute_name": draw(st.sampled_from(ATTRIBUTES)),
    }


@st.composite
def sets(draw):
    """Samples that only one side has, empty ones, and detections that are copies of others."""
    tokens = ["a", "b", "c", "d"]
    truth = {t: draw(st.lists(entry(False), max_size=5)) for t in draw(st.permutations(tokens))[:3]}
    detections = {t: draw(st.lists(entry(True), max_size=6)) for t in draw(st.permutations(tokens))[:3]}
    for boxes in detections.values():
        boxes += boxes[: draw(st.integers(0, 2))]
    return truth, detections


@settings(max_examples=25, deadline=None)
@given(sets())
def test_random_sets_score_the_same(boxes):
    truth, detections = boxes
    assert assert_same(eval_boxes(truth), eval_boxes(detections)) > 30_000


@settings(max_examples=15, deadline=None)
@given(sets(), st.sampled_from([0.5, 1.0, 2.0]))
def test_any_distance_function_will_do(boxes, threshold):
    truth, detections = (eval_boxes(side) for side in boxes)
    for distance in (center_distance, lambda a, b: abs(a.translation[0] - b.translation[0]) + 0.1 * b.detection_score):
        expected = algo.accumulate(truth, detections, "car", distance, threshold)
        got = metrics_devkit.accumulate(truth, detections, "car", distance, threshold)
        assert cross_check(got, expected).agrees


def test_a_larger_random_set():
    rng = np.random.default_rng(0)

    def side(count, detection):
        return [
            {
                "translation": (*rng.uniform(-12, 12, 2), 0.0),
                "size": tuple(rng.uniform(0.5, 3, 3)),
                "rotation": tuple(rng.normal(size=4)),
                "velocity": tuple(rng.normal(size=2)),
                "detection_name": NAMES[rng.integers(4)],
                "detection_score": round(rng.uniform(), 2) if detection else -1.0,
                "attribute_name": ATTRIBUTES[rng.integers(4)],
            }
            for _ in range(count)
        ]

    assert_same(
        eval_boxes({f"s{k}": side(15, False) for k in range(12)}),
        eval_boxes({f"s{k}": side(40, True) for k in range(12)}),
    )


# ---------------------------------------------------------------- by hand


def car(x: float, y: float = 0.0, score: float = -1.0, **more) -> dict:
    box = {
        "translation": (x, y, 0.0),
        "size": (2.0, 4.0, 1.5),
        "rotation": (1.0, 0.0, 0.0, 0.0),
        "velocity": (0.0, 0.0),
    }
    return {**box, "detection_name": "car", "detection_score": score, "attribute_name": "vehicle.parked", **more}


def matched(truth: list[dict], detections: list[dict], distances) -> list[list[int]]:
    boxes = [from_eval_boxes(eval_boxes({"a": side}), {"a": 0}) for side in (truth, detections)]
    matching = match(*boxes, 1, distances)
    return matching.matched[np.argsort(matching.order)].tolist()


def test_an_object_is_taken_once_by_the_best_detection():
    """Three detections around two objects; the second best takes the farther one, as the nearer one is matched."""
    detections = [car(0.3, score=0.1), car(0.1, score=0.9), car(0.2, score=0.5)]
    assert matched([car(0), car(1.8)], detections, [1, 2]) == [[-1, -1], [0, 0], [-1, 1]]


def test_of_equal_scores_the_later_one_and_of_equal_distances_the_first_object():
    assert matched([car(0)], [car(0.1, score=0.5), car(0.2, score=0.5)], [1]) == [[-1], [0]]
    assert matched([car(1), car(-1)], [car(0, score=0.5)], [2]) == [[0]]


def test_a_distance_of_the_threshold_is_too_far():
    assert matched([car(0)], [car(2.0, score=0.5)], [2.0, np.nextafter(2.0, 3)]) == [[-1, 0]]
    # 0.3, 0.4: whether 0.5 is reached is up to the last bit, which the devkit decides.
    truth, detections = DetectionBox(translation=(0.0, 0.0, 0.0)), DetectionBox(translation=(0.3, 0.4, 0.0))
    near = center_distance(truth, detections) < 0.5
    assert (matched([car(0)], [car(0.3, 0.4, score=0.5)], [0.5])[0][0] == 0) == near


def test_a_matched_box_without_size_is_refused_by_both_and_an_unmatched_one_by_neither():
    flat = car(0, score=0.5, size=(0.0, 1.0, 1.0))
    for score in (devkit, ours):
        with pytest.raises(AssertionError):
            score(eval_boxes({"a": [car(0)]}), eval_boxes({"a": [flat]}))
    assert_same(eval_boxes({"a": [car(30), car(60)]}), eval_boxes({"a": [flat, car(60, score=0.4)]}))


def test_negative_scores_are_refused_by_both():
    for score in (devkit, ours):
        with pytest.raises(AssertionError):
            score(eval_boxes({"a": [car(0), car(9)]}), eval_boxes({"a": [car(0, score=-0.5)]}))


def test_no_detections_and_no_objects():
    truth = eval_boxes({"a": [car(0)]})
    assert_same(truth, eval_boxes({"a": []}))
    assert_same(eval_boxes({"a": []}), eval_boxes({"a": [car(0, score=0.5)]}))
    assert ours(truth, EvalBoxes())[0]["nd_score"] == 0
