"""Types of errors: each alone in a hand-made case, none in perfect detections, and the metric's mAP as the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_matches import boxes, detected, matches_of, with_properties

from aqr_bench.metrics import error_types as module
from aqr_bench.metrics.error_types import (
    BACKGROUND,
    DUPLICATE,
    MISPLACED,
    MISSED,
    TYPES,
    WRONG_CLASS,
    WRONG_HEADING,
    ErrorType,
    error_types,
    has_error_types,
)
from aqr_bench.metrics.greedy_matching import nearest_objects
from aqr_bench.metrics.matches import Matches


def only(types: dict[str, ErrorType], *expected: str) -> None:
    assert {name for name, error in types.items() if error.count} == set(expected)
    assert {name for name, error in types.items() if abs(error.map_gain) > 1e-12} <= set(expected)


def test_nothing_to_fix_in_perfect_detections():
    types = error_types(matches_of(detected()))
    assert tuple(types) == TYPES
    only(types)
    assert types[WRONG_HEADING].nds_gain == 0 and types[MISSED].nds_gain is None


def test_a_duplicate_before_the_match_costs_precision():
    # Above all others in score, so every recall has one false positive more. The car at 0 is matched by it, the right
    # detection of that car is the duplicate.
    types = error_types(matches_of(detected(extra=[("car", 0.2, 0.0, 0.9)])))
    only(types, DUPLICATE)
    assert types[DUPLICATE].count == 1 and 0 < types[DUPLICATE].map_gain < 0.1


def test_background_is_far_from_everything():
    types = error_types(matches_of(detected(extra=[("car", 10.0, 50.0, 0.9), ("bus", 10.0, 50.0, 0.9)])))
    only(types, BACKGROUND)
    assert types[BACKGROUND].count == 2
    matches = matches_of(detected())
    assert matches.map()[0] == pytest.approx(matches_of(detected(extra=[("car", 10, 50, 0.9)])).map()[0] + types[
        BACKGROUND
    ].map_gain)  # fmt: skip


def test_a_misplaced_detection_is_matched_once_it_is_moved():
    types = error_types(matches_of(detected((0, "car", 3.0))))
    assert types[MISPLACED].count == 1 and types[BACKGROUND].count == 0 and types[MISSED].count == 0
    only(types, MISPLACED)
    # At 4 m it is a match already; at the three other thresholds mAP of one class of ten is complete again.
    complete = matches_of(detected()).map()[0]
    assert matches_of(detected((0, "car", 3.0))).map()[0] + types[MISPLACED].map_gain == pytest.approx(complete)


def test_only_the_best_of_several_misplaced_detections_is_matched():
    types = error_types(matches_of(detected((0, "car", 3.0), extra=[("car", -3.5, 0.0, 0.4), ("car", 2.5, 0, 0.45)])))
    assert types[MISPLACED].count == 3 and types[MISSED].count == 0
    start = matches_of(detected((0, "car", 3.0), extra=[("car", -3.5, 0.0, 0.4), ("car", 2.5, 0, 0.45)])).map()[0]
    at_4 = matches_of(detected(extra=[("car", -3.5, 0.0, 0.4), ("car", 2.5, 0, 0.45)])).ap("car")[0, 3]
    assert start + types[MISPLACED].map_gain == pytest.approx((3 * 2 + 1 + at_4) / 40)


def test_a_wrong_class_is_removed_from_one_class_and_matched_in_the_other():
    types = error_types(matches_of(detected((0, "truck", 0.0))))
    only(types, WRONG_CLASS)
    complete = matches_of(detected()).map()[0]
    assert types[WRONG_CLASS].count == 1 and types[MISSED].count == 0
    assert matches_of(detected((0, "truck", 0.0))).map()[0] + types[WRONG_CLASS].map_gain == pytest.approx(complete)


def test_a_wrong_class_on_an_object_that_is_matched_is_only_removed():
    types = error_types(matches_of(detected(extra=[("bus", 0.0, 0.0, 0.9), ("truck", 20.0, 0.0, 0.9)])))
    only(types, WRONG_CLASS)
    start = matches_of(detected(extra=[("truck", 20.0, 0.0, 0.9)])).map()[0]
    assert start + types[WRONG_CLASS].map_gain == pytest.approx(matches_of(detected()).map()[0])


def test_a_missed_object_is_taken_out_of_the_count():
    types = error_types(matches_of(detected((0, None, 0.0), (1, None, 0.0))))
    only(types, MISSED)
    start = matches_of(detected((0, None, 0.0), (1, None, 0.0))).map()[0]
    assert types[MISSED].count == 2
    assert start + types[MISSED].map_gain == pytest.approx(matches_of(detected()).map()[0])


def test_a_wrong_heading_costs_nds_alone():
    types = error_types(matches_of(detected(yaw=np.pi)))
    only(types, WRONG_HEADING)
    assert types[WRONG_HEADING].count == 20 and types[WRONG_HEADING].map_gain == 0
    right, turned = (matches_of(detected(yaw=yaw)).scores().nds[0] for yaw in (0, np.pi))
    assert types[WRONG_HEADING].nds_gain == pytest.approx(right - turned) and right > turned
    only(error_types(matches_of(detected(yaw=np.pi / 5))))


def test_cones_have_no_heading_and_barriers_no_front():
    for name, count in (("traffic_cone", 0), ("barrier", 0), ("bus", 1)):
        truth = boxes([(name, 0.0, 0.0)])
        types = error_types(matches_of(boxes([(name, 0.0, 0.0)], [0.5], yaw=np.pi), truth))
        assert types[WRONG_HEADING].count == count, name


def test_the_nearest_explanation_comes_first():
    """A truck on a car that is detected, with another truck 3 m away: its class is wrong, its place is not."""
    truth = boxes([("car", 0.0, 0.0), ("truck", 3.0, 0.0)])
    types = error_types(
        matches_of(boxes([("car", 0.0, 0.0), ("truck", 3.0, 0.0), ("truck", 0.0, 0.0)], [0.5] * 3), truth)
    )
    assert types[WRONG_CLASS].count == 1 and types[MISPLACED].count == 0


def test_no_detection_and_no_object():
    nothing = boxes([], [])
    assert error_types(matches_of(nothing))[MISSED] == ErrorType(20, 0.0)
    types = error_types(matches_of(detected(), truth=boxes([])))
    assert types[BACKGROUND] == ErrorType(20, 0.0)


def test_random_boxes_are_complete_and_survive_the_file(tmp_path):
    """Every detection is matched or has one type, and the mAP that gains start from is the metric's."""
    matches = with_properties()[2]
    for d, threshold in enumerate(matches.distances):
        positives = np.array([len(c.object_sample) for c in matches.classes.values()])
        detections, matched_G = module._at_threshold(matches, d, positives)
        assert (detections.kind < 0).sum() == detections.hit.sum() == matched_G.sum()
        base = module._mean_ap(matches, detections.hit, detections.parts, positives)
        expected = np.mean([matches.ap(name)[0, d] for name in matches.classes])
        assert base == pytest.approx(expected, abs=1e-12), threshold
    types = error_types(matches)
    assert all(types[name].count for name in (MISPLACED, DUPLICATE, BACKGROUND, MISSED))
    assert all(error.map_gain >= 0 for error in types.values())
    assert error_types(Matches.load(matches.save(tmp_path / "matches.npz"))) == types


def test_distances_are_those_of_a_plain_loop():
    (truth, detections), _, _ = with_properties()
    distance, row = nearest_objects(truth, detections, 20)
    for i in range(0, len(detections), 7):
        for column in (0, 1):
            same = truth.label == detections.label[i]
            rows = np.flatnonzero((truth.sample == detections.sample[i]) & (same if column == 0 else ~same))
            far = np.linalg.norm(truth.translation[rows, :2] - detections.translation[i, :2], axis=1)
            if len(rows) and far.min() < 4:
                assert (
                    distance[i, column] == pytest.approx(far.min(), abs=1e-6) and row[i, column] == rows[far.argmin()]
                )
            else:
                assert distance[i, column] == np.inf and row[i, column] == -1


def test_older_matches_have_no_types_of_errors():
    matches = with_properties()[2]
    older = {name: replace(c, near_distance=None, near_object=None) for name, c in matches.classes.items()}
    older = replace(matches, classes=older)
    assert has_error_types(matches) and not has_error_types(older)
    with pytest.raises(ValueError, match="no distances"):
        error_types(older)
