"""Heads and detectors on the pretended GPU compute what they compute on the CPU, and wait for it no more often."""

from __future__ import annotations

import pytest
from host_waits import BASELINE, compared, load_baseline
from model_cases import DETECTORS, HEADS, WAITS

RUNNER = "run_models.py"


@pytest.mark.parametrize("case", [case.name for case in HEADS])
def test_a_head(case, results):
    """Losses with denoising and matching, their gradients, and the boxes; within the runner's limits."""
    facts = results.facts(case)
    assert set(facts) == {"losses", "gradients", "scores", "boxes"}


@pytest.mark.parametrize("case", [case.name for case in DETECTORS])
def test_a_detector(case, results):
    facts = results.facts(case)
    assert set(facts) == {"losses", "gradients", "scores", "boxes"}


@pytest.mark.parametrize("case", [case.name for case in WAITS])
def test_host_waits(case, results):
    """As many as in the baseline, exactly: more is slower on a GPU, fewer is a new baseline."""
    result = results.facts(case)
    assert (message := compared(case, result, load_baseline())) is None, message


NO_MORE_WAITS = ["head, cross, masked", "head, constant router, masked", "head, pooled router, routing mask"]


@pytest.mark.parametrize("name", NO_MORE_WAITS)
def test_router_and_bias_let_the_host_wait_no_more_often_than_plain_cmt(name):
    """Of the baseline. In training the order of the cells waits once, for the gradient of the bias."""
    baseline, plain = load_baseline(), load_baseline()["head, plain"]
    assert baseline[name]["inference"] == plain["inference"]
    assert baseline[name]["training"]["uploads"] == plain["training"]["uploads"]
    waits, expected = (dict(x["training"]["waits"]) for x in (baseline[name], plain))
    assert waits.pop("bias/attention/window_cells.py orders: tolist", 0) <= 1 and waits == expected


def test_the_baseline_has_no_other_models():
    assert set(load_baseline()) == {case.name for case in WAITS}, f"renew {BASELINE.name}"
