"""The product's commands in one process with the pretended GPU: training to viewer and FLOPs; slow: other models."""

from __future__ import annotations

import pytest

RUNNER = "run_product.py"
COMMANDS = ("train", "evaluate", "pictures", "view", "flops")


@pytest.mark.parametrize("case", [f"cmt: {command}" for command in COMMANDS])
def test_a_command(case, results):
    results.facts(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["cmt: resume", "cmt: measure"])
def test_a_long_command(case, results):
    results.facts(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [f"cmt, mixed precision: {command}" for command in ("train", "evaluate", "measure")])
def test_mixed_precision(case, results):
    """Autocast, gradient scaler, and a measurement that reports them."""
    assert results.facts(case).get("precision", "mixed, float16") == "mixed, float16"


@pytest.mark.slow
@pytest.mark.parametrize("case", [f"centerpoint: {command}" for command in (*COMMANDS, "measure")])
def test_another_detector(case, results):
    results.facts(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["cmt: keyframe"])
def test_a_keyframe(case, results, keyframe):
    results.facts(case)
