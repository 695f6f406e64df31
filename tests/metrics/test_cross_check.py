"""Mismatches that the cross-check reports, and which evaluations are checked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aqr_bench.metrics.cross_check import cross_check, is_drawn

SCORES = {"mAP": 0.5, "classes": {"car": {"AP": 0.25, "AOE": None}}, "curve": np.array([0.0, math.nan])}


def test_the_same_agrees_and_every_number_counts():
    check = cross_check(SCORES, {**SCORES, "curve": [0, math.nan]})
    assert check.agrees and check.compared == 5 and check.largest == 0
    close = cross_check(SCORES, {**SCORES, "mAP": 0.5 + 5e-10})
    assert close.agrees and close.largest == pytest.approx(5e-10)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({**SCORES, "mAP": 0.5 + 2e-9}, "mAP"),
        ({**SCORES, "mAP": math.nan}, "mAP"),
        ({**SCORES, "mAP": math.inf}, "mAP"),
        ({**SCORES, "classes": {"car": {"AP": 0.25, "AOE": 0.0}}}, "classes.car.AOE"),
        ({**SCORES, "curve": [0.0]}, "curve[1]"),
        ({k: v for k, v in SCORES.items() if k != "mAP"}, "mAP"),
        ({**SCORES, "more": 1}, "more"),
    ],
)
def test_a_difference_is_named(other, name):
    for check in (cross_check(SCORES, other), cross_check(other, SCORES)):
        assert not check.agrees and [d.name for d in check.mismatches] == [name]


def test_nothing_compared_is_no_agreement():
    assert not cross_check({}, {}).agrees


def test_the_share_is_drawn_by_name():
    drawn = [is_drawn(f"run{k}", 0.1) for k in range(400)]
    assert 20 <= sum(drawn) <= 60 and drawn != [is_drawn(f"run{k}", 0.1, seed=1) for k in range(400)]
    assert all(is_drawn(f"run{k}", 0.2) for k in range(400) if drawn[k])
    assert is_drawn("run0", 1) and not is_drawn("run0", 0)
