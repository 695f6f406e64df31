"""Biased attention: every backend against the formula in float64, forward and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bias_cases import Inputs, attend, formula, grid_inputs, random_inputs, with_gradients
from bias_reference import ring_of_cameras
from hypothesis import given, settings
from hypothesis import strategies as st

from aqr_bench.bias import AttentionBias, MemoryLayout, WindowBias, biased_attention, choose_backend
from aqr_bench.bias.attention import masked

TRAINABLE = ["literal", "masked", "window", "auto"]
few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("backend", TRAINABLE)
@few
@given(
    seed=st.integers(0, 10_000),
    keys=st.sampled_from([2, 5, 9]),  # 5: as many keys as queries
    hard=st.booleans(),
    masked=st.booleans(),
    prior=st.booleans(),
)
def test_output_and_gradients_on_random_cells(backend, seed, keys, hard, masked, prior):
    inputs = random_inputs(seed, K=keys, hard=hard, masked=masked, prior=prior)
    torch.testing.assert_close(with_gradients(inputs, backend), with_gradients(inputs, None))


@pytest.mark.parametrize("backend", TRAINABLE)
@few
@given(
    seed=st.integers(0, 10_000),
    sizes=st.sampled_from([(3, 3), (1, 5), (5, 0), (0, 3), (0, 0)]),
    focal=st.sampled_from([8.0, 20.0]),
    queries=st.sampled_from([1, 6]),
    hard=st.booleans(),
    masked=st.booleans(),
)
def test_output_and_gradients_on_true_windows(backend, seed, sizes, focal, queries, hard, masked):
    inputs = grid_inputs(seed, sizes, focal, queries, hard, masked)
    torch.testing.assert_close(with_gradients(inputs, backend), with_gradients(inputs, None))


@pytest.mark.parametrize("hard", [False, True])
@few
@given(seed=st.integers(0, 10_000), masked=st.booleans(), focal=st.sampled_from([8.0, 20.0]))
def test_flex_forward_on_the_cpu(hard, seed, masked, focal):
    inputs = grid_inputs(seed, focal=focal, hard=hard, masked=masked)
    torch.testing.assert_close(attend(inputs, "flex"), formula(inputs))


@pytest.mark.parametrize("need_weights", [True, False])
def test_literal_is_nn_multihead_attention_with_the_notes_mask(need_weights):
    """Mask [B * H, Q, K], batch-major, added to the scores."""
    inputs = grid_inputs(0)
    batch, heads, _, width = inputs.q.shape
    module = torch.nn.MultiheadAttention(heads * width, heads, batch_first=True, dtype=torch.float64)
    query, memory = (torch.randn(batch, n, heads * width).double() for n in (inputs.q.shape[2], inputs.k.shape[2]))
    mask = inputs.bias.dense().repeat_interleave(heads, 0)
    expected, _ = module(query, memory, memory, attn_mask=mask, need_weights=need_weights)
    projected = [
        torch.nn.functional.linear(x, w, b).unflatten(-1, (heads, width)).transpose(1, 2)
        for x, w, b in zip(
            (query, memory, memory), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True
        )
    ]
    out = biased_attention(*projected, bias=inputs.bias, backend="literal").transpose(1, 2).flatten(2)
    torch.testing.assert_close(module.out_proj(out), expected)


@pytest.mark.parametrize("backend", TRAINABLE)
@few
@given(
    seed=st.integers(0, 10_000), profile=st.sampled_from(["uniform", "gaussian"]), scale=st.sampled_from([0.5, 30.0])
)
def test_gradients_of_router_and_scale(backend, seed, profile, scale):
    """From the loss through attention, clamp, scale and window down to the router's parameters."""
    layout = MemoryLayout((6, 6), (4, 3, 4), (-10.0, -10.0, -3.0, 10.0, 10.0, 3.0))
    gradients = []
    for name in (backend, None):
        torch.manual_seed(seed)
        aqr = AttentionBias(8, bev_window=3, camera_window=3, profile=profile, scale=scale, num_heads=2, ffn_dims=8)
        aqr = aqr.double()
        torch.nn.init.normal_(aqr.router.output.weight)
        query, memory = torch.randn(2, 5, 8).double(), torch.randn(2, layout.num_keys, 8).double()
        points = (torch.rand(2, 5, 3).double() - 0.5) * torch.tensor([24.0, 24.0, 2.0]).double()
        cameras = ring_of_cameras(4, 32, 24, 8.0).expand(2, -1, -1, -1)
        shapes = torch.tensor([24.0, 32.0]).double().expand(2, 4, 2)
        bias = aqr(query, query, memory, memory, points, cameras, shapes, layout).cross_bias
        heads = [x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (query, memory, memory)]
        inputs = Inputs(*heads, bias)
        out = formula(inputs) if name is None else attend(inputs, name)
        (out * torch.linspace(-1, 1, out.numel()).double().view(out.shape)).sum().backward()
        assert aqr.scale.grad is not None
        gradients.append({key: p.grad for key, p in aqr.named_parameters()})
    torch.testing.assert_close(*gradients)
    # The scale is clamped to 5 and then has no gradient.
    assert (gradients[0]["scale"] == 0) == (scale > 5)


@pytest.mark.parametrize("backend", TRAINABLE)
def test_a_row_without_keys_gives_zeros_and_no_nan(backend):
    inputs = random_inputs(0, masked=True)
    inputs.mask[2] = True
    for hard in (False, True):
        actual = with_gradients(replace(inputs, bias=replace(inputs.bias, hard=hard)), backend)
        assert torch.equal(actual[0][:, :, 2], torch.zeros_like(actual[0][:, :, 2]))
        assert all(torch.isfinite(x).all() for x in actual)


@pytest.mark.parametrize("backend", TRAINABLE)
def test_hard_windows_without_any_cell_give_zeros(backend):
    inputs = grid_inputs(0, sizes=(0, 0), hard=True)
    assert attend(inputs, backend).abs().max() == 0
    nowhere = replace(random_inputs(0, hard=True).bias, valid_BQW=torch.zeros(2, 5, 3, dtype=torch.bool))
    actual = with_gradients(replace(random_inputs(0), bias=nowhere), backend)
    assert actual[0].abs().max() == 0 and all(torch.isfinite(x).all() for x in actual)


@pytest.mark.parametrize("backend", [*TRAINABLE, "flex"])
def test_an_empty_batch_of_queries(backend):
    inputs = grid_inputs(0, Q=0)
    assert attend(inputs, backend).shape == (2, 2, 0, 4)


@pytest.mark.parametrize("backend", ["auto", "masked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(backend, dtype):
    inputs = grid_inputs(3).to(dtype)
    exact = with_gradients(inputs.to(torch.float64), None)
    actual = with_gradients(inputs, backend)
    for value, reference in zip(actual, exact, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), reference, rtol=0, atol=0.03 * reference.abs().max().item())


def test_window_refuses_half_precision():
    with pytest.raises(ValueError, match="'window' needs float32 or float64"):
        attend(grid_inputs(3).to(torch.bfloat16), "window")


@pytest.mark.parametrize("backend", TRAINABLE)
def test_values_of_another_width_and_heads_in_another_layout(backend):
    inputs = grid_inputs(1)
    inputs = replace(inputs, v=torch.cat([inputs.v, inputs.v[..., :3]], -1), k=inputs.k.transpose(2, 3).contiguous().mT)
    torch.testing.assert_close(with_gradients(inputs, backend), with_gradients(inputs, None))


@pytest.mark.parametrize("backend", TRAINABLE)
@pytest.mark.parametrize("wanted", [[0], [1, 2], [3]])
def test_gradients_of_some_inputs_only(backend, wanted):
    inputs = grid_inputs(2)
    leaves = [inputs.q.clone(), inputs.k.clone(), inputs.v.clone(), inputs.bias.value_BQW.clone()]
    for i in wanted:
        leaves[i].requires_grad_()
    trainable = replace(inputs, q=leaves[0], k=leaves[1], v=leaves[2], bias=replace(inputs.bias, value_BQW=leaves[3]))
    actual = torch.autograd.grad(attend(trainable, backend).sum(), [leaves[i] for i in wanted])
    expected = torch.autograd.grad(formula(trainable).sum(), [leaves[i] for i in wanted])
    torch.testing.assert_close(actual, expected)


def test_a_dense_bias_and_a_float_mask_with_gradients():
    inputs = random_inputs(4)
    dense, mask = torch.randn(2, 5, 7).double().requires_grad_(), torch.randn(5, 7).double().requires_grad_()
    for bias in (dense, inputs.bias):
        combined = (bias if bias is dense else bias.dense()) + mask
        expected = (inputs.q @ inputs.k.mT / 2 + combined[:, None]).softmax(-1) @ inputs.v
        for backend in TRAINABLE:
            out = biased_attention(inputs.q, inputs.k, inputs.v, mask=mask, bias=bias, backend=backend)
            torch.testing.assert_close(out, expected)
            actual = torch.autograd.grad(out.sum(), mask, retain_graph=True)
            torch.testing.assert_close(actual, torch.autograd.grad(expected.sum(), mask, retain_graph=True))


@pytest.mark.parametrize("backend", TRAINABLE)
@pytest.mark.parametrize("prior", [False, True])
def test_without_a_bias_mask_and_prior_are_applied_alike(backend, prior):
    inputs = replace(random_inputs(4, masked=True, prior=prior), bias=None)
    inputs.mask[2] = True  # a row without a key
    torch.testing.assert_close(attend(inputs, backend), formula(inputs))
    torch.testing.assert_close(attend(replace(inputs, mask=None), backend), formula(replace(inputs, mask=None)))


def test_a_mask_elsewhere_does_not_discard_the_cached_buffer():
    inputs = grid_inputs(0)
    attend(inputs, "masked")
    cached = masked.Scratch._cache.zeros
    attend(random_inputs(0, masked=True), "masked")
    assert masked.Scratch._cache.zeros is cached and cached.abs().max() == 0


def test_dropout_drops_and_keeps_the_mean():
    inputs = random_inputs(0, Q=4, K=6)
    torch.manual_seed(0)
    runs = torch.stack(
        [
            biased_attention(inputs.q, inputs.k, inputs.v, bias=inputs.bias, dropout_p=0.3, backend="masked")
            for _ in range(600)
        ]
    )
    assert runs.std(0).min() > 0
    torch.testing.assert_close(runs.mean(0), formula(inputs), atol=0.25, rtol=0)


def test_the_cached_buffer_is_zero_for_the_next_call():
    small, large = grid_inputs(0, Q=4), grid_inputs(1, Q=9)
    expected = [attend(x, "literal") for x in (small, large)]
    for _ in range(2):
        for inputs, exact in zip((small, large), expected, strict=True):
            torch.testing.assert_close(attend(inputs, "masked"), exact)
    assert masked.Scratch._cache.zeros.abs().max() == 0
    with pytest.raises(RuntimeError, match="stop"), masked.Scratch(small.bias, None, small.q) as scratch:
        scratch.fill(0)
        raise RuntimeError("stop")
    torch.testing.assert_close(attend(small, "masked"), expected[0])


@pytest.mark.parametrize("backend", TRAINABLE)
def test_the_same_call_gives_the_same_bits(backend):
    inputs = grid_inputs(5).to(torch.float32)
    first, second = (with_gradients(inputs, backend) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_auto_stands_for():
    def bias(cells, keys, hard=False, grids=()):
        index = torch.zeros(1, 1, cells, dtype=torch.long)
        return WindowBias(index, index == 0, index.float(), keys, hard, grids)

    q = torch.zeros(1, 1, 1, 8)
    assert choose_backend(q, bias(75, 22784)) == "window"
    assert choose_backend(q, bias(75, 22784), local=True) == "masked"
    assert choose_backend(q, bias(475, 22784)) == "masked"
    assert choose_backend(q, bias(475, 22784, hard=True)) == "window"
    assert choose_backend(q.bfloat16(), bias(75, 22784)) == "masked"


def test_unknown_backend_is_refused():
    inputs = random_inputs(5)
    with pytest.raises(ValueError, match="unknown attention backend 'flash3'"):
        attend(inputs, "flash3")
