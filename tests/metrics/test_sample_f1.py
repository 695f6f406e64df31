"""F1 of the detections of a sample, and the samples chosen by it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aqr_bench.cli.pictures import main as pictures
from aqr_bench.cli.sample_views import SCORE_THRESHOLD, chosen_samples, detected_objects
from aqr_bench.errors import UserError
from aqr_bench.metrics.sample_f1 import (
    DetectionCounts,
    SampleObjects,
    best_and_worst,
    best_threshold,
    count_detections,
    matched_boxes,
)


def objects(*rows) -> SampleObjects:
    """Rows of x, y, class, score."""
    centre = np.array([row[:2] for row in rows], float).reshape(-1, 2)
    return SampleObjects(centre, [row[2] for row in rows], np.array([row[3] for row in rows], float))


def test_objects_are_counted_by_class_and_sample():
    truth = {
        "a": objects((0, 0, "car", 0), (10, 0, "car", 0), (0, 20, "bus", 0)),
        "b": objects((0, 0, "car", 0)),
        "c": objects(),
    }
    detections = {
        # Two claim the first car, and only one can have it; the bus is called a car; the other car is too far away.
        "a": objects((0.5, 0, "car", 0.4), (1.9, 0, "car", 0.9), (0, 20, "car", 0.8), (12.1, 0, "car", 0.7)),
        "b": objects((0, 0, "car", 0.5)),
    }
    counts = count_detections(detections, truth)
    assert counts == {"a": DetectionCounts(1, 3, 2), "b": DetectionCounts(1, 0, 0), "c": DetectionCounts(0, 0, 0)}
    assert [round(f.f1, 3) for f in counts.values()] == [0.286, 1.0, 0.0]
    assert count_detections(detections, truth, 2.2)["a"] == DetectionCounts(2, 2, 1)


def test_the_boxes_of_a_sample_are_matched_as_they_are_counted():
    truth = objects((0, 0, "car", 0), (10, 0, "car", 0), (0, 20, "bus", 0))
    detections = objects((0.5, 0, "car", 0.4), (1.9, 0, "car", 0.9), (0, 20.5, "bus", 0.1), (0, 20, "car", 0.8))
    true_positive, detected = matched_boxes(detections, truth)
    assert true_positive.tolist() == [False, True, True, False] and detected.tolist() == [True, False, True]
    assert [len(flags) for flags in matched_boxes(objects(), truth)] == [0, 3]
    assert not matched_boxes(detections, objects())[0].any()


def test_the_best_threshold_is_that_of_the_highest_f1():
    """Of every threshold that changes anything, tried one by one."""
    rng = np.random.default_rng(0)
    truth = {token: objects(*((x, 0, "car", 0) for x in range(0, 100, 10))) for token in "ab"}
    detections = {
        token: objects(*((rng.uniform(0, 100), 0, "car", score) for score in rng.uniform(0.1, 0.5, 40)))
        for token in "ab"
    }

    def f1(threshold: float) -> float:
        above = {}
        for t, d in detections.items():
            rows = zip(d.centre, d.names, d.scores, strict=True)
            above[t] = objects(*((*centre, name, score) for centre, name, score in rows if score >= threshold))
        counts = count_detections(above, truth).values()
        return DetectionCounts(*np.sum([list(vars(c).values()) for c in counts], 0)).f1

    best = max((s for d in detections.values() for s in d.scores), key=f1)
    assert (
        best_threshold(detections, truth) == pytest.approx(best, abs=1e-3) and f1(best_threshold(detections, truth)) > 0
    )
    assert best_threshold({}, truth) is None and best_threshold({"a": objects((500, 0, "car", 0.9))}, truth) is None


def test_best_and_worst_are_other_samples_and_have_objects():
    counts = {
        "empty": DetectionCounts(0, 9, 0),
        "a": DetectionCounts(2, 0, 0),
        "b": DetectionCounts(5, 0, 0),
        "c": DetectionCounts(0, 1, 1),
        "d": DetectionCounts(0, 4, 1),
    }
    assert best_and_worst(counts) == (["b"], ["d"])
    assert best_and_worst(counts, 2) == (["b", "a"], ["d", "c"])
    assert best_and_worst({"only": DetectionCounts(1, 0, 0)}) == (["only"], [])
    assert best_and_worst({}) == ([], [])


def test_detections_below_the_threshold_are_left_out(tmp_path):
    entry = {"translation": [1.0, 2.0, 3.0], "detection_name": "car"}
    rows = [{**entry, "detection_score": s} for s in (0.1, 0.25, 0.9)]
    path = tmp_path / "results_nusc.json"
    path.write_text(json.dumps({"results": {"a": rows, "b": []}}))
    detections = detected_objects(path, 0.25)
    assert list(detections["a"].scores) == [0.25, 0.9] and detections["a"].centre.tolist() == [[1, 2]] * 2
    assert detections["b"].centre.shape == (0, 2)


def test_without_detections_samples_are_evenly_spread_and_the_caption_reports_it():
    (sample,), threshold = chosen_samples(range(11), None, 1, None, {})
    assert (sample.name, sample.index, threshold) == ("0", 5, SCORE_THRESHOLD)
    assert "not chosen by its score" in sample.reason


def test_an_evaluation_without_its_work_folder_is_a_mistake(tmp_path):
    arguments = [
        "--tier",
        "quick",
        "--infos",
        "x",
        "--suite",
        "missing_sensors",
        "--train",
        "x",
        "--out",
        str(tmp_path),
    ]
    with pytest.raises(UserError, match="--evaluation and --work go together"):
        pictures([*arguments, "--evaluation", "x"])
