"""float32 errors against float64 where corrections cancel: all mass inside the window, bias at its limits."""

from __future__ import annotations

import pytest
import torch
from bias_cases import peaked_inputs, relative_errors, with_gradients

from aqr_bench.bias import count_guarded
from aqr_bench.bias.attention import window

LEVELS = [-5, -1, -0.3, 5, "random"]


def worst_errors(backend, gap, level, seeds=4):
    """Largest relative error of the output and of the gradients of q, k, v and bias, over some seeds."""
    worst = [0.0] * 5
    for seed in range(seeds):
        inputs = peaked_inputs(seed, gap, level)
        exact = with_gradients(inputs.to(torch.float64), None)
        actual = relative_errors(with_gradients(inputs, backend), exact)
        worst = [max(pair) for pair in zip(worst, actual, strict=True)]
    return worst


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("gap", [5, 9, 12, 14.9])
@pytest.mark.parametrize("backend", ["literal", "masked", "window"])
def test_errors_below_1e_5_while_scores_differ_by_less_than_15(backend, gap, level):
    assert max(worst_errors(backend, gap, level)) < 1e-5


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("gap", [20, 50, 100, 400])
def test_beyond_that_at_most_twice_those_of_fused_attention_with_the_dense_mask(gap, level):
    fused, ours = worst_errors("masked", gap, level), worst_errors("window", gap, level)
    assert all(error < max(2 * limit, 3e-6) for error, limit in zip(ours, fused, strict=True)), (ours, fused)


def test_without_its_guard_the_correction_cancels(monkeypatch):
    """The guard is what keeps the errors down: this test fails if the cases above were harmless."""
    monkeypatch.setattr(window, "MAX_LOSS", float("inf"))
    assert max(worst_errors("window", 14.9, -5)) > 3e-5  # three times what is allowed above
    assert max(worst_errors("window", 50, "random")) > 1e-5


@pytest.mark.parametrize(("gap", "level", "share"), [(12, -5, 1.0), (12, 5, 0.0), (0.1, -5, 0.0)])
def test_guarded_rows_are_counted(gap, level, share):
    inputs = peaked_inputs(0, gap, level)
    with count_guarded() as outer, count_guarded() as inner:
        with_gradients(inputs, "window")
    assert (inner.rows, inner.share) == (48, share)
    assert outer.rows == 0  # the innermost block counts


def test_some_rows_guarded_and_some_not():
    inputs = peaked_inputs(0, 50, "random")
    with count_guarded() as count:
        actual = with_gradients(inputs, "window")
    assert 0.05 < count.share < 0.95
    assert max(relative_errors(actual, with_gradients(inputs.to(torch.float64), None))) < 2e-5
