"""Biased attention: every backend against the formula in float64, forward and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqr_bench.bias import WindowBias, biased_attention


def random_case(seed, B=2, H=2, Q=5, K=7, d=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, n, d, generator=g, dtype=dtype) for n in (Q, K, K))
    index = torch.stack([torch.randperm(K, generator=g)[:3] for _ in range(B * Q)]).view(B, Q, 3)
    valid = torch.rand(B, Q, 3, generator=g) > 0.3
    value = torch.randn(B, Q, 3, generator=g, dtype=dtype) * 3
    mask = torch.rand(Q, K, generator=g) > 0.7
    mask[:, 0] = False
    prior = (torch.randn(B, H, Q, 3, generator=g, dtype=dtype), torch.randn(B, 1, K, 3, generator=g, dtype=dtype))
    return q, k, v, index, valid, value, mask, prior


def formula(q, k, v, dense, mask, prior):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if prior is not None:
        scores = scores + prior[0] @ prior[1].transpose(-1, -2)
    if dense is not None:
        scores = scores + dense[:, None]
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("backend", ["auto", "dense", "literal"])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keys=st.sampled_from([3, 5, 9]),  # 5: as many keys as queries
    with_mask=st.booleans(),
    with_bias=st.booleans(),
    with_prior=st.booleans(),
)
def test_output_and_gradients(backend, seed, keys, with_mask, with_bias, with_prior):
    q, k, v, index, valid, value, mask, prior = random_case(seed, K=keys)
    mask, prior = mask if with_mask else None, prior if with_prior else None
    leaves = [x.clone().requires_grad_() for x in (q, k, v, value)]
    bias = WindowBias(index, valid, leaves[3], keys) if with_bias else None
    out = biased_attention(*leaves[:3], mask=mask, bias=bias, prior=prior, backend=backend)
    twins = [x.clone().requires_grad_() for x in (q, k, v, value)]
    dense = WindowBias(index, valid, twins[3], keys).dense() if with_bias else None
    expected = formula(*twins[:3], dense, mask, prior)
    torch.testing.assert_close(out, expected)
    used = 4 if with_bias else 3
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    got = torch.autograd.grad((out * weight).sum(), leaves[:used])
    wanted = torch.autograd.grad((expected * weight).sum(), twins[:used])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["auto", "literal"])
def test_a_row_without_keys_gives_zeros_and_no_nan(backend):
    q, k, v, *_ = random_case(0)
    q.requires_grad_()
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[2] = True
    out = biased_attention(q, k, v, mask=mask, backend=backend)
    assert torch.equal(out[:, :, 2], torch.zeros_like(out[:, :, 2]))
    out.sum().backward()
    assert torch.isfinite(q.grad).all()


def test_hard_bias_attends_inside_the_windows_only():
    q, k, v, index, _, value, _, _ = random_case(3)
    bias = WindowBias(index, torch.ones_like(index, dtype=torch.bool), torch.zeros_like(value), 7, hard=True)
    changed = v.clone()
    outside = torch.ones(7, dtype=torch.bool)
    outside[index[0, 0]] = False
    changed[0, :, outside] += 100
    a, b = biased_attention(q, k, v, bias=bias), biased_attention(q, k, changed, bias=bias)
    torch.testing.assert_close(a[0, :, 0], b[0, :, 0])


def test_float_mask_is_added():
    q, k, v, *_ = random_case(4)
    mask = torch.randn(5, 7, dtype=torch.float64)
    expected = formula(q, k, v, mask[None].expand(2, -1, -1), None, None)
    torch.testing.assert_close(biased_attention(q, k, v, mask=mask), expected)


def test_unknown_backend_is_refused():
    q, k, v, *_ = random_case(5)
    with pytest.raises(ValueError, match="unknown attention backend 'flash3'"):
        biased_attention(q, k, v, backend="flash3")
