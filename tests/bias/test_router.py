"""The router's attention to its windows: the same as attention over the projected memory, in value and gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bias_cases import grid_inputs, random_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from aqr_bench.bias import biased_attention
from aqr_bench.bias.router import CrossAttention
from aqr_bench.bias.windows import WindowBias


def over_the_memory(module: CrossAttention, query, key, value, local: WindowBias, backend: str) -> torch.Tensor:
    """As the layer is defined: everything is projected, then attended to inside the windows."""
    inputs = zip(
        (query, key, value), module.attn.in_proj_weight.chunk(3), module.attn.in_proj_bias.chunk(3), strict=True
    )
    heads = [linear(x, w, b).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for x, w, b in inputs]
    out = biased_attention(*heads, bias=local, backend=backend)
    return module.attn.out_proj(out.transpose(1, 2).flatten(2))


def module_and_tokens(local: WindowBias, heads: int, seed: int, width: int = 8):
    torch.manual_seed(seed)
    module = CrossAttention(width, heads).double()
    torch.nn.init.normal_(module.attn.in_proj_bias)
    batch, queries, _ = local.index_BQW.shape
    tokens = [torch.randn(batch, n, width, dtype=torch.float64) for n in (queries, local.num_keys, local.num_keys)]
    return module, [x.requires_grad_() for x in tokens]


def nothing(bias: WindowBias) -> WindowBias:
    return replace(bias, value_BQW=torch.zeros_like(bias.value_BQW), hard=True)


def assert_same(local: WindowBias, heads: int, seed: int, backend: str = "literal") -> None:
    module, tokens = module_and_tokens(local, heads, seed)
    actual, wanted = module(*tokens, local), over_the_memory(module, *tokens, local, backend)
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-10)
    weight = torch.randn_like(actual)
    leaves = [*tokens, *module.parameters()]
    for value, reference in zip(
        *(torch.autograd.grad((out * weight).sum(), leaves) for out in (actual, wanted)), strict=True
    ):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), heads=st.sampled_from([1, 2, 4]))
def test_windows_of_any_cells(seed, heads):
    local = nothing(random_inputs(seed).bias)
    assert_same(replace(local, valid_BQW=local.valid_BQW.clone().index_fill_(1, torch.tensor([0]), False)), heads, seed)


@pytest.mark.parametrize("sizes", [(3, 3), (5, 1), (0, 3), (3, 0)])
@pytest.mark.parametrize("backend", ["literal", "window"])
def test_true_windows_over_borders_and_in_no_camera(sizes, backend):
    assert_same(nothing(grid_inputs(3, sizes).bias), 2, 0, backend)


def test_nobody_has_a_window():
    local = nothing(grid_inputs(0).bias)
    local = replace(local, valid_BQW=torch.zeros_like(local.valid_BQW))
    module, tokens = module_and_tokens(local, 2, 0)
    out = module(*tokens, local)
    torch.testing.assert_close(out, module.attn.out_proj.bias.expand_as(out))
    out.sum().backward()
    assert all(not x.grad.any() for x in tokens)


def test_half_precision_takes_the_other_way_and_means_the_same():
    local = nothing(grid_inputs(3).bias)
    module, tokens = module_and_tokens(local, 2, 0)
    exact = module(*tokens, local)
    half = module.bfloat16()(*(x.bfloat16() for x in tokens), replace(local, value_BQW=local.value_BQW.bfloat16()))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, rtol=0.1, atol=0.1)


def test_a_layer_without_windows_attends_to_all():
    local = nothing(random_inputs(1).bias)
    module, (query, key, value) = module_and_tokens(local, 2, 0)
    wanted, _ = module.attn(query, key, value)
    torch.testing.assert_close(module(query, key, value), wanted)
