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


def test_the_baseline_has_no_other_models():
    assert set(load_baseline()) == {case.name for case in WAITS}, f"renew {BASELINE.name}"
