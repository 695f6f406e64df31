"""Attention backends on the pretended GPU against float64: layouts, alignment and gradients of CUDA's kernels."""

from __future__ import annotations

import pytest
from attention_cases import ATTENTION

RUNNER = "run_attention.py"


@pytest.mark.parametrize("case", [case.name for case in ATTENTION])
def test_a_backend(case, results):
    assert set(results.facts(case)) == {"output", "query", "key", "value", "bias"}
