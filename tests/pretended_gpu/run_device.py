"""The pretended GPU itself: what it refuses, counts and chooses. RUNNER OUT.json [NAME ...]."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import batch
import torch
from device_cases import DEVICE
from pretended_cuda import counters
from torch.nn.functional import scaled_dot_product_attention

aten = torch.ops.aten


def refused(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    """``call`` has to raise ``kind`` with these words; what was counted with it is dropped."""
    before, counters.current = counters.current, counters.Counters()
    try:
        call()
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"nothing was raised, expected {kind.__name__} with '{words}'")
    finally:
        counters.current = before


def mixed_devices() -> dict:
    x = torch.ones(3, 4, device="cuda")
    for call in (
        lambda: x + torch.arange(4),
        lambda: torch.cat([x, torch.zeros(1, 4)]),
        lambda: torch.arange(4)[torch.arange(2, device="cuda")],
        lambda: torch.nn.Linear(4, 2)(x),
        lambda: torch.where(x > 0, x, torch.zeros(3, 4)),
        lambda: torch.zeros(3, 4).add_(x),
    ):
        refused(call, RuntimeError, "same device")
    return {}


def scalars_and_indices() -> dict:
    x = torch.ones(3, 4, device="cuda")
    assert (x + torch.tensor(1.0)).device == x.device
    with counters.counted() as events:
        assert x[torch.arange(2)].shape == (2, 4)
    assert sum(events.uploads.values()) == 1
    x[0, 0] = 5.0
    assert x.sum().item() == 16.0
    return {}


def numpy() -> dict:
    x = torch.ones(3, device="cuda")
    refused(x.numpy, TypeError, "can't convert cuda:0")
    refused(lambda: __import__("numpy").asarray(x), TypeError, "can't convert cuda:0")
    assert x.cpu().numpy().tolist() == [1.0, 1.0, 1.0]
    return {}


def host_waits() -> dict:
    x = torch.arange(6, device="cuda")
    calls: dict[str, Callable[[], Any]] = {
        "item": lambda: [int(x.sum()), torch.tensor([x[1]])],
        "tolist": x.tolist,
        "nonzero": x.nonzero,
        "index by a mask": lambda: x[x > 2],
        "assignment by a mask": lambda: x.clone().__setitem__(x > 2, torch.zeros(3, dtype=torch.long, device="cuda")),
        "copy to the host": x.cpu,
        "unique": x.unique,
        "synchronize": torch.cuda.synchronize,
    }
    for what, call in calls.items():
        with counters.counted() as events:
            call()
        assert [name for name, _ in events.waits] == [what], (what, dict(events.waits))
    with counters.counted() as events:
        (x * 2).sum().float().sqrt().clamp(min=1)
    assert not events.waits and not events.uploads
    return {}


def heads(dtype: torch.dtype = torch.float32, rows: int = 6, width: int = 8) -> torch.Tensor:
    """Random queries [2, 2, rows, width] on the GPU that have a gradient."""
    return torch.randn(2, 2, rows, width, device="cuda").to(dtype).requires_grad_()


def kernels() -> dict:
    cases = (
        (heads(torch.float16), None, "flash"),
        (heads(torch.float32), None, "efficient"),
        (heads(torch.float16), torch.zeros(6, 6, device="cuda").half(), "efficient"),
        (heads(torch.float32, width=5), None, "math"),
        (heads(torch.float64), None, "math"),
    )
    for q, mask, kernel in cases:
        with counters.counted() as events:
            out = scaled_dot_product_attention(q, q, q, attn_mask=mask)
            out.sum().backward()
        assert any(name.endswith(f": {kernel}") for name in events.kernels), (kernel, dict(events.kernels))
        true = scaled_dot_product_attention(*[q.detach().cpu().double()] * 3)
        torch.testing.assert_close(out.detach().cpu().double(), true, atol=1e-2, rtol=1e-2)
    return {}


def alignment() -> dict:
    q = heads().detach()
    mask = torch.zeros(6, 7, device="cuda")[:, :6].expand(2, 2, -1, -1)
    efficient = aten._scaled_dot_product_efficient_attention
    refused(lambda: efficient(q, q, q, mask, True), RuntimeError, "not correctly aligned (strideM)")
    narrow = heads(width=5).detach()
    refused(lambda: efficient(narrow, narrow, narrow, None, True), RuntimeError, "not correctly aligned")
    refused(lambda: efficient(q, q, q, mask.half(), True), RuntimeError, "invalid dtype for bias")
    padded = torch.zeros(6, 8, device="cuda")[:, :6].expand(2, 2, -1, -1)
    assert efficient(q, q, q, padded, True)[1].shape == (2, 2, 32)  # the padded log-sum-exp
    return {}


def wrong_layout() -> dict:
    """The same call with an output in rows of all heads is right, with one in rows of each head it is a fault."""
    q = heads(torch.float16).detach()
    out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(q, q, q, None, True)
    tokens = q.transpose(1, 2)

    def gradient(out_BMHD: torch.Tensor) -> torch.Tensor:
        return aten._efficient_attention_backward(
            tokens, tokens, tokens, tokens, None, out_BMHD, None, None, 6, 6, lse, 0.0, seed, offset, 0, False
        )[0]

    right = gradient(out.transpose(1, 2))
    before, counters.current = counters.current, counters.Counters()
    wrong = gradient(out.contiguous().transpose(1, 2))
    faults, counters.current = counters.current.faults, before
    assert len(faults) == 1 and (right - wrong).abs().max().item() > 0.01
    return {}


def mixed_precision() -> dict:
    model = torch.nn.Linear(8, 8).to("cuda")
    scaler, optimiser = torch.amp.GradScaler("cuda"), torch.optim.AdamW(model.parameters())
    with torch.autocast("cuda", dtype=torch.float16):
        out = model(torch.ones(2, 8, device="cuda"))
    assert out.dtype == torch.float16
    before = model.weight.detach().clone()
    scaler.scale(out.float().mean()).backward()
    scaler.step(optimiser)
    scaler.update()
    assert not torch.equal(before, model.weight)
    return {}


def modules() -> dict:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to("cuda")
    model(torch.randn(2, 3, 8, 8, device="cuda")).square().sum().backward()
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    optimiser = torch.optim.AdamW(model.parameters())
    optimiser.step()
    tensors += [s["exp_avg"] for s in optimiser.state.values()]
    assert {x.device.type for x in tensors} == {"cuda"}
    assert all(isinstance(p, torch.nn.Parameter) for p in model.parameters())
    return {}


def checkpointing() -> dict:
    from torch.utils.checkpoint import checkpoint

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 4)).to("cuda")
    for reentrant in (False, True):
        x = torch.ones(3, 4, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = checkpoint(model, x, use_reentrant=reentrant)
        out.float().sum().backward()
        assert x.grad.device.type == "cuda"
    return {}


def files() -> dict:
    file = io.BytesIO()
    torch.save({"a": [torch.ones(2, device="cuda")]}, file)
    for target, device in (("cpu", "cpu"), ("cuda", "cuda"), (torch.device("cuda", 0), "cuda")):
        file.seek(0)
        assert torch.load(file, map_location=target, weights_only=True)["a"][0].device.type == device
    return {}


def device_of_mmengine() -> dict:
    from mmengine.device import get_device

    assert get_device() == "cuda" and torch.cuda.is_available() and torch.cuda.device_count() == 1
    return {}


FUNCTIONS = (
    mixed_devices, scalars_and_indices, numpy, host_waits, kernels, alignment, wrong_layout, mixed_precision, modules,
    checkpointing, files, device_of_mmengine,
)  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    raise SystemExit(batch.main(dict(zip(DEVICE, FUNCTIONS, strict=True))))
