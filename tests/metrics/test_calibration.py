"""Calibration: scores that are right as often as they say have no error, and errors are what they are by hand."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_matches import detected, matches_of

from aqr_bench.metrics.calibration import CONFIDENT, detection_reliability, reliability


def test_calibrated_scores_have_no_error():
    rng = np.random.default_rng(0)
    score = rng.uniform(size=200_000)
    bins = reliability(score, rng.uniform(size=len(score)) < score)
    assert bins.error() < 0.01 and bins.error(CONFIDENT) < 0.01
    assert np.abs(bins.precision - bins.mean_score).max() < 0.03
    overconfident = reliability(score, rng.uniform(size=len(score)) < score / 2)
    assert overconfident.error() == pytest.approx(0.25, abs=0.01)


def test_the_error_by_hand():
    score, right = np.array([0.1, 0.1, 0.62, 0.64, 1.0]), np.array([0, 0, 1, 0, 1], bool)
    bins = reliability(score, right)
    assert bins.error() == pytest.approx((0.2 + 0.26 + 0.0) / 5)
    assert bins.error(CONFIDENT) == pytest.approx(0.26 / 3)
    assert np.flatnonzero(bins.count).tolist() == [2, 12, 19] and np.isnan(bins.precision[0])
    twice = bins + bins
    assert twice.error() == bins.error() and twice.count.sum() == 10


def test_confident_begins_at_its_own_bin():
    assert reliability(np.array([CONFIDENT]), np.array([True])).error(CONFIDENT) is not None
    assert reliability(np.array([0.29]), np.array([True])).error(CONFIDENT) is None


def test_nothing_and_scores_that_are_no_probabilities():
    assert reliability(np.zeros(0), np.zeros(0, bool)).error() is None
    assert reliability(np.array([1.5]), np.array([True])) is None
    assert reliability(np.array([-0.1]), np.array([True])) is None


def test_detections_are_right_where_they_are_matched_at_2_m():
    by_class = detection_reliability(matches_of(detected((0, "car", 1.5), (1, "car", 3.0))))
    cars = by_class["car"]
    assert cars.count.sum() == 10 and cars.right.sum() == 9 and cars.error() == pytest.approx(0.4)
    assert by_class["bus"].error() is None
