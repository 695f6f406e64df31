"""Backend `tiled`: the reference of its tiling and FlexAttention against the formula, forward and gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from bias_cases import Inputs, attend, closed_form_inputs, formula, grid_inputs, with_closed_form
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from aqr_bench.bias import biased_attention
from aqr_bench.bias.attention import flex, tiled, tiled_flex
from aqr_bench.bias.attention.tile_order import TILE
from aqr_bench.bias.windows import ClosedForm

few = settings(max_examples=6, deadline=None)
cases = dict(
    seed=st.integers(0, 10_000),
    sizes=st.sampled_from([(3, 3), (5, 0), (0, 5), (1, 7)]),
    focal=st.sampled_from([8.0, 20.0]),
    profile=st.sampled_from(["uniform", "gaussian"]),
    scale=st.sampled_from([0.7, 30.0]),
    hard=st.booleans(),
)


def with_weight_gradients(inputs: Inputs, backend: str | None, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """Output, and gradients of q, k, v, both weights and the scale, by a backend or (None) by the formula."""
    form = inputs.bias.closed_form
    leaves = [inputs.q, inputs.k, inputs.v, form.lidar_weight_BQ, form.camera_weight_BQ, form.scale]
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    q, k, v, lidar, camera, scale = leaves
    form = replace(form, lidar_weight_BQ=lidar, camera_weight_BQ=camera, scale=scale)
    trainable = with_closed_form(replace(inputs, q=q, k=k, v=v), form)
    if backend is None:
        out = formula(trainable)
    else:
        prior, bias = inputs.prior, trainable.bias
        out = biased_attention(q, k, v, bias=bias, prior=prior, backend=backend, dtype=dtype)
    direction = direction_of(out)
    return [out.detach(), *torch.autograd.grad((out * direction).sum(), leaves, materialize_grads=True)]


def direction_of(out: torch.Tensor) -> torch.Tensor:
    """A random gradient, in numbers that half precision has."""
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out)


def relative_distances(measured: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    """Norm of the error over the norm, tensor by tensor."""
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(measured, exact, strict=True)]


def has_windows(inputs: Inputs) -> bool:
    """Some draws have no camera that sees a query."""
    return bool(inputs.bias.grids)


@few
@given(**cases)
def test_output_and_gradients(hard, **case):
    inputs = closed_form_inputs(hard=hard, **case)
    if has_windows(inputs):
        tolerance = dict(atol=1e-6, rtol=1e-6)  # of the profile, which is float32
        torch.testing.assert_close(
            with_weight_gradients(inputs, "tiled"), with_weight_gradients(inputs, None), **tolerance
        )


@few
@given(**cases)
def test_a_locality_prior_beside_it(hard, seed, **case):
    inputs, g = closed_form_inputs(seed, hard=hard, **case), torch.Generator().manual_seed(seed)
    (batch, heads, queries, _), keys = inputs.q.shape, inputs.k.shape[2]
    prior = [torch.randn(*shape, 3, generator=g).double() for shape in ((batch, heads, queries), (batch, 1, keys))]
    inputs = replace(inputs, prior=tuple(prior))
    if has_windows(inputs):
        torch.testing.assert_close(attend(inputs, "tiled"), formula(inputs), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_errors_are_at_most_one_and_a_half_times_those_of_flash_without_a_bias(dtype, level):
    """Of the output and of the gradients of q, k and v, against float64 from the same numbers; the norm of the error.

    The largest error of one draw says little: in float32 and half precision, flash with the bias as a mask has up to
    twice that of flash without one.
    """
    inputs = closed_form_inputs(3, sizes=(5, 5), scale=5.0, width=32, dtype=dtype).to(torch.float32)
    form = ClosedForm(*torch.full((2, 2, 70), level), torch.tensor(5.0), "gaussian", 5.0)
    inputs = with_closed_form(inputs, form)
    double = inputs.to(torch.float64)
    measured = with_weight_gradients(inputs, "tiled", dtype)[:4], with_weight_gradients(double, None)[:4]
    flash = []
    for exact in (dtype, torch.float64):
        q, k, v = leaves = [x.to(exact).requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
        out = scaled_dot_product_attention(q, k, v)
        flash.append([out.detach(), *torch.autograd.grad((out * direction_of(out)).sum(), leaves)])
    errors = list(zip(*(relative_distances(*pair) for pair in (measured, flash)), strict=True))
    assert all(error < 1.5 * bound for error, bound in errors), errors


def flex_on_cpu(monkeypatch):
    """FlexAttention's passes in the place of the reference, also with gradients: torch checks the device alone."""
    import torch.nn.attention.flex_attention as flex_module

    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)
    monkeypatch.setattr(tiled, "on_cpu", lambda _: False)
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # without tracing: seconds


@pytest.mark.parametrize(("hard", "block"), [(False, TILE), (True, 2 * TILE)])
def test_flexattention_gives_the_same(hard, block, monkeypatch):
    flex_on_cpu(monkeypatch)
    monkeypatch.setattr(tiled_flex, "block_size", lambda _: block)
    inputs = closed_form_inputs(5, sizes=(3, 5), profile="gaussian", scale=6.0, hard=hard)
    torch.testing.assert_close(
        with_weight_gradients(inputs, "tiled"), with_weight_gradients(inputs, None), atol=1e-5, rtol=1e-5
    )


def test_one_compiled_graph_per_pass_for_all_windows_and_numbers_of_queries_up_to_the_next_tile(monkeypatch):
    """As on CUDA, where a graph is a kernel and a break in it is an error."""
    flex_on_cpu(monkeypatch)
    torch._dynamo.reset()
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(tiled_flex, "uncompiled_flex", lambda: partial(flex.compiled_flex, "tiled", compiler=compiler))
    for sizes, focal, queries in (((3, 3), 8.0, 70), ((5, 1), 20.0, 100)):
        inputs = closed_form_inputs(1, sizes, focal, queries)
        with torch.no_grad():
            torch.testing.assert_close(attend(inputs, "tiled"), formula(inputs), atol=1e-6, rtol=1e-6)
    assert len(graphs) == 2


def test_what_it_cannot_do_is_refused():
    inputs = closed_form_inputs(0)
    with pytest.raises(ValueError, match="'tiled' needs a bias in closed form"):
        attend(grid_inputs(0), "tiled")
    with pytest.raises(ValueError, match="'tiled' takes no attention mask"):
        attend(replace(inputs, mask=torch.zeros(70, 523, dtype=torch.bool)), "tiled")


def test_without_windows_it_is_attention_without_a_bias():
    inputs = closed_form_inputs(0, sizes=(0, 0))
    torch.testing.assert_close(attend(inputs, "tiled"), biased_attention(inputs.q, inputs.k, inputs.v))
