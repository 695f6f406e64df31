"""Does the device compute what the CPU computes? The bias against float64; heads and their decoders against the CPU."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aqr_bench.cost.gpu_check.attention_cases import ATTENTION, KINDS, errors, exact, make_case
from aqr_bench.cost.gpu_check.attention_table import BACKENDS, MODES, WINDOWS, unsupported_reason
from aqr_bench.cost.gpu_check.settings import NOTE, Emit, Settings, attempt, model_config

# Largest error over largest value. A wrong mask, head order or index gives errors of the order of 1.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
# A decoder in half precision may be as far from float32 as a few times what the CPU is in the same dtype: how far that
# is depends on the model (a locality prior sharpens the scores).
TIMES_THE_CPU = 3.0
OUTPUTS = ("center", "height", "dim", "rot", "vel", "cls_logits")
WINDOW = {"bev_window": WINDOWS[0], "camera_window": WINDOWS[0]}
# Arguments of a head, by what is compared.
HEADS: dict[str, dict[str, Any]] = {
    "plain": {"aqr": {}},
    "cross": {"aqr": {"site": "cross", **WINDOW}},
    "both": {"aqr": {"site": "both", **WINDOW}},
    "hard": {"aqr": {"site": "cross", "profile": "hard", **WINDOW}},
    "locality": {"aqr": {"site": "cross", **WINDOW}, "locality": {"bev_sigma": 2.0, "angle_sigma": 0.1}},
}
ROUTER_SPREAD = 0.05  # of random weights of the router's last layer, which is initialised with zeros


def bias_rows(settings: Settings, dtype: str, emit: Emit) -> None:
    """One row per size, kind of bias and backend: errors of the output and of all gradients against float64.

    The reference gets the same numbers, rounded to the dtype. All kinds at the small size come first: their reference
    is quick.
    """
    first, *others = settings.parity
    for size, kind in [*((first, kind) for kind in KINDS), *((size, KINDS[0]) for size in others)]:
        compare_bias(settings, size, kind, dtype, [name for name in BACKENDS if name != "none"], emit)


def compare_bias(settings: Settings, size: str, kind: str, dtype: str, backends: list[str], emit: Emit) -> None:
    """Rows of one case, by backend."""
    case = make_case(size, WINDOWS[0], WINDOWS[0], settings.device, getattr(torch, dtype), kind=kind)
    reference = exact(case)
    for backend in backends:
        row = {"size": size, "bias": kind, "dtype": dtype, "backend": backend}
        why = unsupported_reason(backend, dtype, settings.device, MODES[1])
        if why is not None:
            emit({**row, "not possible": why})
            continue

        def measure(backend: str = backend) -> dict[str, Any]:
            output, *gradients = errors(case, ATTENTION[backend], reference)
            return with_tolerance({"output": output, "gradients": max(gradients)}, TOLERANCE[dtype])

        attempt(emit, row, measure)


def with_tolerance(errors: Mapping[str, float], bound: float) -> dict[str, Any]:
    """The errors and their bound; a row over it has failed, and so has one with a NaN."""
    row: dict[str, Any] = {"error": dict(errors), "tolerance": bound}
    worst = max(errors.values(), key=lambda x: float("inf") if x != x else x)
    if not worst <= bound:
        row["failed"] = f"error {worst:.2g} is over {bound:.2g}"
    return row


def head_rows(settings: Settings, dtype: str, emit: Emit) -> None:
    """One row per head and backend, a published head with small maps: float32 with all gradients, else the decoder.

    The reference is the CPU in float32 with backend ``literal``.
    """
    from aqr_bench.cmt.attention import set_backend
    from aqr_bench.cost.full_head import make_inputs

    config = model_config(NOTE, small=True)
    inputs, moved_inputs = make_inputs(config), make_inputs(config, device=settings.device)
    exact_dtype, half = dtype == "float32", getattr(torch, dtype)
    # The locality prior always runs in float32: in half precision its errors are as large as the values.
    for name in HEADS if exact_dtype else [name for name in HEADS if "locality" not in HEADS[name]]:
        head = head_with_bias(config, "literal", name)
        truth = outputs_and_gradients(head, inputs)
        call = decoder_call(head, inputs)
        decoded = _decoded(head, call, "cpu", torch.float32)
        bound = (
            TOLERANCE[dtype]
            if exact_dtype
            else TIMES_THE_CPU * relative_distance(_decoded(head, call, "cpu", half), decoded)
        )

        def measure(backend: str, head=head, truth=truth, call=call, decoded=decoded, bound=bound) -> dict[str, Any]:
            other = copy.deepcopy(head)
            set_backend(other.transformer, backend)
            other.to(settings.device)
            if exact_dtype:
                return with_tolerance(output_errors(*outputs_and_gradients(other, moved_inputs), *truth), bound)
            return with_tolerance(
                {"output": relative_distance(_decoded(other, call, settings.device, half), decoded)}, bound
            )

        for backend in ("auto", "window") if exact_dtype else ("auto",):
            row = {"part": "head" if exact_dtype else "decoder", "head": name, "dtype": dtype, "backend": backend}
            attempt(emit, row, functools.partial(measure, backend))


def head_with_bias(config: Any, backend: str, name: str) -> Any:
    """A head of ``HEADS``; its router gives weights that are not zero, as after training."""
    from aqr_bench.cost.full_head import build_head

    head = build_head(config, {**HEADS[name], "attention_backend": backend})
    if head.aqr is not None:
        generator = torch.Generator().manual_seed(1)
        torch.nn.init.normal_(head.aqr.router.output.weight, std=ROUTER_SPREAD, generator=generator)
    return head


def decoder_call(head: Any, inputs: Any) -> tuple:
    """Arguments of the decoder in one forward pass of the head, without gradients."""
    calls: list[tuple] = []
    handle = head.transformer.decoder.register_forward_pre_hook(lambda _, args: calls.append(args))
    try:
        with torch.no_grad():
            head(inputs.points, inputs.images, inputs.metas)
    finally:
        handle.remove()
    return calls[0]


def moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    """``value`` with every tensor in it on ``device``, and those of floats in ``dtype``."""
    if isinstance(value, Tensor):
        return value.detach().to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device, dtype) for item in value)
    if dataclasses.is_dataclass(value):
        fields = {f.name: moved(getattr(value, f.name), device, dtype) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _decoded(head: Any, call: tuple, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.no_grad():
        out = copy.deepcopy(head.transformer.decoder).to(device, dtype)(*moved(call, device, dtype))
    return {"decoded": out.states_LBQC}


def outputs_and_gradients(head: Any, inputs: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of all layers (no dropout, no denoising), and gradients of their mean square to all parameters."""
    head.eval().zero_grad(set_to_none=True)
    parts: dict[str, list[Tensor]] = {key: [] for key in OUTPUTS}
    for (task,) in head(inputs.points, inputs.images, inputs.metas):
        for key in parts:
            if key in task:
                parts[key].append(task[key])
    values = {key: torch.cat(tensors, -1) for key, tensors in parts.items() if tensors}
    sum(value.square().mean() for value in values.values()).backward()
    gradients = {key: p.grad.cpu() for key, p in head.named_parameters() if p.grad is not None}
    return {key: value.detach().cpu() for key, value in values.items()}, gradients


def output_errors(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    true_values: Mapping[str, Tensor],
    true_gradients: Mapping[str, Tensor],
) -> dict[str, float]:
    """Error of the worst output, and of all gradients as one vector."""
    if gradients.keys() != true_gradients.keys():
        raise ValueError(f"gradients of other parameters: {sorted(gradients.keys() ^ true_gradients.keys())[:4]}")
    worst = torch.stack([max_relative_error(values[key], true) for key, true in true_values.items()]).max()
    return {"output": float(worst), "gradients": relative_distance(gradients, true_gradients)}


def relative_distance(measured: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of the true values, all tensors as one vector."""
    pairs = [(measured[key].detach().cpu().double(), value.detach().cpu().double()) for key, value in true.items()]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def max_relative_error(measured: Tensor, true: Tensor) -> Tensor:
    """Largest error over largest value; NaN where there is one."""
    measured, true = measured.detach().cpu().double(), true.detach().cpu().double()
    return (measured - true).abs().max() / true.abs().max()
