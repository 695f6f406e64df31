"""The pieces of biased attention one by one, with pytest-benchmark: where the time of a layer goes.

python -m pytest benchmarks/test_pieces.py --benchmark-columns=median,iqr,rounds
python -m pytest benchmarks/test_pieces.py --size quick --windows 15/15
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear

from aqr_bench.bias.attention.fused_kernels import attend, attend_backward
from aqr_bench.bias.attention.masked import Scratch
from aqr_bench.bias.attention.window_cells import cell_gradients, correction, like_heads, make_cells

pytestmark = pytest.mark.benchmark(warmup=True, warmup_iterations=1, min_rounds=7)


@pytest.fixture(scope="session")
def heads(case):
    with torch.no_grad():
        return tuple(x.detach() for x in case.heads())


@pytest.fixture(scope="session")
def bias(case):
    bias = case.bias()
    return replace(bias, value_BQW=bias.value_BQW.detach())


@pytest.fixture(scope="session")
def done(heads):
    return attend(*heads, None, _scale(heads))


@pytest.fixture(scope="session")
def scratch(bias, heads):
    with Scratch(bias, None, heads[0]) as scratch:
        scratch.fill(0)
        yield scratch


def _scale(heads) -> float:
    return 1 / math.sqrt(heads[0].shape[-1])


def test_add_key_positions(benchmark, case):
    benchmark(lambda: case.memory_BKC.detach() + case.position_BKC)


def test_project_keys_and_values(benchmark, case):
    _, key, value = case.in_proj.detach().chunk(3)
    memory = case.memory_BKC.detach()
    benchmark(lambda: (linear(memory, key), linear(memory, value)))


def test_window_cells(benchmark, case):
    benchmark(lambda: [grid.cells() for grid in case.geometry.grids])


def test_fused_forward(benchmark, heads):
    benchmark(lambda: attend(*heads, None, _scale(heads)))


def test_fused_forward_with_a_ready_mask(benchmark, heads, scratch):
    added = scratch.tensor[None, None].expand(len(heads[0]), -1, -1, -1)
    benchmark(lambda: attend(*heads, added, _scale(heads)))


def test_fill_the_mask(benchmark, bias, heads):
    def fill():
        with Scratch(bias, None, heads[0]) as scratch:
            for sample in range(len(heads[0])):
                scratch.fill(sample)

    benchmark(fill)


def test_correct_at_the_cells(benchmark, heads, bias, done):
    benchmark(lambda: correction(*heads, done.lse_BHQ, make_cells(bias, None, correction=True), _scale(heads)))


def test_fused_backward(benchmark, heads, done):
    benchmark(lambda: attend_backward(done.out_BHQD, *heads, done, None, _scale(heads)))


def test_fused_backward_with_a_ready_mask(benchmark, heads, done, scratch):
    added = scratch.tensor[None, None].expand(len(heads[0]), -1, -1, -1)
    benchmark(lambda: attend_backward(done.out_BHQD, *heads, done, added, _scale(heads)))


def test_gradient_of_the_bias_at_the_cells(benchmark, heads, bias, done):
    benchmark(lambda: _gradients(heads, bias, done, None))


def test_all_gradients_at_the_cells(benchmark, heads, bias, done):
    onto = tuple(like_heads(x).zero_() for x in heads)
    benchmark(lambda: _gradients(heads, bias, done, onto))


def _gradients(heads, bias, done, onto):
    delta = done.out_BHQD.square().sum(-1)
    cells = make_cells(bias, None, correction=onto is not None)
    width = bias.value_BQW.shape[-1]
    return cell_gradients(*heads, done.lse_BHQ, done.out_BHQD, delta, cells, width, _scale(heads), onto)
