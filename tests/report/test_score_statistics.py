"""Means, paired intervals and verdicts, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from aqr_bench.report.score_statistics import number, paired_difference, phrase, summarise, verdict


def test_summary_skips_what_is_not_finite():
    assert summarise([]) == summarise([math.nan, None])
    assert summarise([0.5]).sd is None
    three = summarise([1.0, 2.0, math.nan, 6.0])
    assert (three.n, three.mean) == (3, 3.0) and three.sd == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_paired_interval_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 0.1, 6), rng.normal(0.3, 0.1, 6)
    result = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.n == 6 and result.mean == pytest.approx((a - b).mean())


def test_pairing_removes_what_seeds_share():
    seeds = {0: 0.1, 1: 0.5, 2: 0.9}
    better = {s: v + 0.01 + 0.001 * s for s, v in seeds.items()}
    assert verdict(paired_difference(better, seeds), True) == "better"
    assert verdict(paired_difference(better, seeds), False) == "worse"
    assert verdict(paired_difference(seeds, better), True) == "worse"


def test_only_common_finite_seeds_are_paired():
    result = paired_difference({0: 0.5, 1: 0.6, 2: math.nan}, {1: 0.5, 2: 0.4, 3: 0.1})
    assert (result.n, result.low) == (1, None) and result.mean == pytest.approx(0.1)
    assert verdict(result, True) == "one seed, noise unknown"
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert verdict(None, True) == "not comparable"


def test_an_interval_with_zero_is_within_the_noise():
    result = paired_difference({0: 0.5, 1: 0.5}, {0: 0.4, 1: 0.49})
    assert result.low < 0 < result.high
    assert verdict(result, True) == "within the noise"
    assert "95 % interval −" in phrase(result, "mAP") and "2 seeds" in phrase(result, "mAP")


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (None, False, "–"),
        (math.nan, True, "–"),
        (-0.25, False, "−0.250"),
        (0.25, True, "+0.250"),
        (-1e-9, True, "0.000"),
    ],
)
def test_number(value, sign, text):
    assert number(value, sign=sign) == text


def test_a_difference_too_small_to_print_is_never_a_finding():
    tiny = paired_difference({0: 0.0221, 1: 0.0196}, {0: 0.0222, 1: 0.0197})
    assert tiny.high < 0 and not tiny.beyond_noise and verdict(tiny, True) == "within the noise"
