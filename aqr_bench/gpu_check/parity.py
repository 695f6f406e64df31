"""Does the device compute what the CPU computes? The bias against float64; the head and its decoder against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from aqr_bench.gpu_check.attention_cases import errors, exact, make_case
from aqr_bench.gpu_check.attention_table import BACKENDS, MODES, WINDOWS, cannot
from aqr_bench.gpu_check.settings import Settings, one_line

# Largest error over largest value. What a wrong mask, head order or index gives is of the order of 1.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
# A decoder in half precision may be as far from float32 as a few times what the CPU is in the same dtype: how far that
# is depends on the model (a locality prior makes sharp scores).
TIMES_THE_CPU = 3.0
OUTPUTS = ("center", "height", "dim", "rot", "vel", "cls_logits")


def bias_rows(settings: Settings, emit: Callable[[dict[str, Any]], None]) -> None:
    """One row per dtype and backend: errors of the output and of all gradients against float64 on the CPU.

    The reference gets the same numbers, rounded to the dtype.
    """
    for dtype in settings.parity_dtypes:
        case = make_case(settings.parity_attention, WINDOWS[0], WINDOWS[0], settings.device, getattr(torch, dtype))
        reference = exact(case)
        for backend in BACKENDS:
            if backend == "none":
                continue
            row = {"size": settings.parity_attention, "dtype": dtype, "backend": backend}
            why = cannot(backend, dtype, settings.device, MODES[1])
            if why is not None:
                emit({**row, "not possible": why})
                continue
            try:
                output, *gradients = errors(case, backend, reference)
            except Exception as error:  # a kernel's: the other backends go on
                emit({**row, "failed": one_line(error)})
                continue
            emit({**row, **judged({"output": output, "gradients": max(gradients)}, dtype)})


def judged(found: Mapping[str, float], dtype: str, bound: float | None = None) -> dict[str, Any]:
    """The errors and their bound (the dtype's by default); a row over it has failed, and so has one with a NaN."""
    bound = TOLERANCE[dtype] if bound is None else bound
    row: dict[str, Any] = {"error": dict(found), "tolerance": bound}
    worst = max(found.values(), key=lambda x: float("inf") if x != x else x)
    if not worst <= bound:
        row["failed"] = f"error {worst:.2g} is over {bound:.2g}"
    return row


def head_rows(settings: Settings, emit: Callable[[dict[str, Any]], None]) -> None:
    """Heads with and without AQR: float32 with all gradients, then their decoders alone in every dtype.

    The reference is the CPU in float32; the device runs ``auto`` and ``masked``. A CPU is held against backend
    ``literal``, a GPU against ``masked`` on the CPU: at full size ``literal`` there takes gigabytes and minutes.
    """
    from aqr_bench.cmt.attention import set_backend
    from aqr_bench.cost.full_head import load_model_config, make_inputs
    from aqr_bench.gpu_check.decoder import decoder_call, head_with_bias, moved

    name = settings.parity_head
    for aqr in (False, True):
        inputs = make_inputs(load_model_config(name))
        theirs = make_inputs(load_model_config(name), device=settings.device)
        head = head_with_bias(name, "literal" if settings.device == "cpu" else "masked", aqr)
        values, gradients = _outputs_and_gradients(head, inputs)
        call = decoder_call(head, inputs)
        with torch.no_grad():
            decoded = head.transformer.decoder(*call)
        bounds = {dtype: _bound(head, call, decoded, dtype) for dtype in settings.parity_dtypes}
        for backend in ("auto", "masked"):
            row = {"config": name, "head": "aqr" if aqr else "plain", "backend": backend}
            other = copy.deepcopy(head)
            set_backend(other.transformer, backend)
            try:
                other = other.to(settings.device)
                found = compared(*_outputs_and_gradients(other, theirs), values, gradients)
                emit({**row, "part": "head", "dtype": "float32", **judged(found, "float32")})
            except Exception as error:
                emit({**row, "part": "head", "dtype": "float32", "failed": one_line(error)})
            for dtype in settings.parity_dtypes:
                half = getattr(torch, dtype)
                try:
                    decoder = copy.deepcopy(other.transformer.decoder).to(half)
                    with torch.no_grad():
                        own = decoder(*moved(call, settings.device, half))
                    found = {"output": apart({"": own}, {"": decoded})}
                    emit({**row, "part": "decoder", "dtype": dtype, **judged(found, dtype, bounds[dtype])})
                except Exception as error:
                    emit({**row, "part": "decoder", "dtype": dtype, "failed": one_line(error)})


def _bound(head: Any, call: tuple, decoded: Tensor, dtype: str) -> float:
    """How far the device may be from the CPU's float32 decoder in ``dtype``."""
    from aqr_bench.gpu_check.decoder import moved

    if dtype == "float32":
        return TOLERANCE[dtype]
    half = getattr(torch, dtype)
    with torch.no_grad():
        own = copy.deepcopy(head.transformer.decoder).to(half)(*moved(call, "cpu", half))
    return TIMES_THE_CPU * apart({"": own}, {"": decoded})


def _outputs_and_gradients(head: Any, inputs: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of all layers (without dropout or denoising), and gradients of their mean square to all parameters."""
    head.eval().zero_grad(set_to_none=True)
    found: dict[str, list[Tensor]] = {key: [] for key in OUTPUTS}
    for (task,) in head(inputs.points, inputs.images, inputs.metas):
        for key in found:
            if key in task:
                found[key].append(task[key])
    values = {key: torch.cat(parts, -1) for key, parts in found.items() if parts}
    sum(value.square().mean() for value in values.values()).backward()
    gradients = {key: p.grad.cpu() for key, p in head.named_parameters() if p.grad is not None}
    return {key: value.detach().cpu() for key, value in values.items()}, gradients


def compared(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    true_values: Mapping[str, Tensor],
    true_gradients: Mapping[str, Tensor],
) -> dict[str, float]:
    """Error of every output, and of all gradients as one vector (their lengths' ratio)."""
    found = {key: far(values[key], true) for key, true in true_values.items()}
    if gradients.keys() != true_gradients.keys():
        raise ValueError(f"gradients of other parameters: {sorted(gradients.keys() ^ true_gradients.keys())[:4]}")
    return {**found, "gradients": apart(gradients, true_gradients)}


def apart(own: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> float:
    """Length of the difference over the length of what is true, all tensors as one vector."""
    pairs = [(own[key].detach().cpu().double(), value.detach().cpu().double()) for key, value in true.items()]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def far(own: Tensor, true: Tensor) -> float:
    """Largest error over largest value."""
    own, true = own.detach().cpu().double(), true.detach().cpu().double()
    return float((own - true).abs().max() / true.abs().max())
