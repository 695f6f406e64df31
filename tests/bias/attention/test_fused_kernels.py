"""What the backends hand to CUDA's memory-efficient kernels, by stand-ins that check it and compute on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bias_cases import grid_inputs, random_inputs, relative_errors, with_gradients

from aqr_bench.bias import choose_backend
from aqr_bench.bias.attention import fused_kernels

VECTOR_BYTES = 16


class Kernels:
    """Stands in for ``torch.ops.aten``: the requirements of kernel_forward.h and kernel_backward.h, and their result.

    As there, float16 and bfloat16 take the rows of the output to lie heads * width apart, whatever its strides say.
    """

    def __init__(self) -> None:
        self.widths: list[int] = []

    def _scaled_dot_product_efficient_attention(self, q, k, v, bias, with_lse, dropout_p, causal, *, scale):
        self.check(q, k, v, bias)
        scores = self.scores(q, k, bias, scale)
        lse = scores.logsumexp(-1)
        out = (scores.softmax(-1) @ v.double()).to(q.dtype)
        lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf")).float()
        return out.transpose(1, 2).contiguous().transpose(1, 2), lse, torch.zeros(()), torch.zeros(())

    def _efficient_attention_backward(self, grad, q, k, v, bias, out, *others, scale):
        grad, q, k, v, heads = (x.transpose(1, 2) for x in (grad, q, k, v, out))
        lse = others[4]
        assert lse.shape[-1] % 32 == 0
        self.check(q, k, v, bias)
        if q.dtype.itemsize == 2:
            batch, rows, number, width = out.shape
            memory = torch.zeros(out.storage_offset() + batch * rows * number * width * 2, dtype=out.dtype)
            flat = out.as_strided((out.untyped_storage().nbytes() // out.itemsize,), (1,), 0)
            memory[: len(flat)] = flat[: len(memory)]
            strides = (out.stride(0), number * width, out.stride(2), 1)
            heads = memory.as_strided(out.shape, strides, out.storage_offset()).transpose(1, 2)
        grad, heads = grad.double(), heads.double()
        p = (self.scores(q, k, bias, scale) - lse[..., : q.shape[2], None].double()).exp()
        ds = p * (grad @ v.double().mT - (grad * heads).sum(-1, keepdim=True)) * scale
        gradients = ds @ k.double(), ds.mT @ q.double(), p.mT @ grad
        return *(x.transpose(1, 2).contiguous().to(q.dtype) for x in gradients), None

    @staticmethod
    def scores(q, k, bias, scale):
        scores = q.double() @ k.double().mT * scale
        return scores if bias is None else scores + bias.double()

    def check(self, q, k, v, bias):
        step = VECTOR_BYTES // q.dtype.itemsize
        self.widths.append(q.shape[-1])
        for x in (q, k, v):
            assert x.shape[-1] % step == 0 and x.stride(-1) == 1 and all(s % step == 0 for s in x.stride()[:3])
        if bias is not None:
            assert bias.shape == (*q.shape[:3], k.shape[2]) and bias.dtype == q.dtype and bias.stride(-1) == 1
            assert all(s % step == 0 for s, n in zip(bias.stride()[:3], bias.shape, strict=False) if n > 1)
            assert bias.storage_offset() % step == 0


@pytest.fixture
def kernels(monkeypatch):
    recorder = Kernels()
    monkeypatch.setattr(fused_kernels, "on_cpu", lambda x: False)
    monkeypatch.setattr(fused_kernels, "aten", recorder)
    return recorder


def wide(inputs, d):
    """The inputs with heads of width d."""
    g = torch.Generator().manual_seed(9)
    heads = (torch.randn(*x.shape[:3], d, generator=g, dtype=x.dtype) for x in (inputs.q, inputs.k, inputs.v))
    return replace(inputs, **dict(zip("qkv", heads, strict=True)))


@pytest.mark.parametrize("backend", ["masked", "window"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("keys", [7, 8, 9, 10])
def test_a_mask_of_any_number_of_keys_is_aligned(kernels, backend, masked, keys):
    """Self-attention with denoising queries has as many keys as there happen to be objects."""
    inputs = wide(random_inputs(keys, Q=keys, K=keys, masked=masked), 8)
    exact, actual = with_gradients(inputs, None), with_gradients(inputs.to(torch.float32), backend)
    assert max(relative_errors(actual, exact)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [16, 44])
def test_gradients_in_half_precision_and_heads_of_any_width(kernels, dtype, d):
    """44: heads of 32 with the twelve dimensions of the locality prior."""
    inputs = wide(grid_inputs(3), d).to(dtype)
    exact, actual = with_gradients(inputs.to(torch.float64), None), with_gradients(inputs, "masked")
    assert max(relative_errors(actual, exact)) < (0.004 if dtype == torch.float16 else 0.03)
    assert set(kernels.widths) == {16 if d == 16 else 48}
    assert [x.shape for x in actual] == [x.shape for x in exact]


@pytest.mark.parametrize("backend", ["masked", "window"])
def test_heads_that_are_aligned_stay_as_they_are(kernels, backend):
    inputs = wide(grid_inputs(3), 44)
    exact, actual = with_gradients(inputs, None), with_gradients(inputs.to(torch.float32), backend)
    assert max(relative_errors(actual, exact)) < 1e-5 and set(kernels.widths) == {44}


def test_a_mask_that_is_aligned_is_not_copied():
    q = torch.zeros(2, 3, 5, 8)
    aligned, others = torch.randn(1, 1, 5, 8), torch.randn(2, 1, 5, 9)
    assert fused_kernels._aligned_mask(aligned, q).data_ptr() == aligned.data_ptr()
    for added in (others, others[..., 1:], others.mT.contiguous().mT, others[:1].expand(2, -1, -1, -1)):
        actual = fused_kernels._aligned_mask(added, q)
        assert torch.equal(actual, added.expand(2, 3, -1, -1)) and actual.stride(2) % 4 == 0 and actual.stride(1) == 0
        assert actual.untyped_storage().nbytes() <= 2 * 5 * 12 * 4  # neither heads nor equal samples were copied


def test_what_auto_stands_for_on_a_gpu():
    """Never FlexAttention, which nobody has measured there; 'meta' is a device that is not the CPU."""
    inputs = grid_inputs(0)
    assert inputs.bias.grids
    for dtype, hard, name in (
        (torch.float32, False, "masked"),
        (torch.float16, False, "masked"),
        (torch.float32, True, "window"),
        (torch.bfloat16, True, "masked"),
    ):
        q = torch.empty(1, 1, 1, 32, dtype=dtype, device="meta")
        assert choose_backend(q, replace(inputs.bias, hard=hard)) == name
