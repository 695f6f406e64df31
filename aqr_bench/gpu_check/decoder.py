"""The decoder of a head by itself: what the head hands to it, on another device or in another dtype, and compiled."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from aqr_bench import runtime
from aqr_bench.cost.full_head import HeadInputs, build_head, load_model_config, make_inputs
from aqr_bench.cost.timing import in_turns, ratio, summary, synchronise
from aqr_bench.gpu_check.settings import Settings, one_line

runtime.prepare()

WINDOW_CELLS = 5
ROUTER_SPREAD = 0.05  # of the made-up weights of the router's last layer, which starts at zero


def aqr_options(window: int = WINDOW_CELLS) -> dict[str, Any]:
    """The bias under test: a learned router, windows in cross-attention."""
    return {"site": "cross", "bev_window": window, "camera_window": window, "router": "learned"}


def head_with_bias(name: str, backend: str, aqr: bool = True) -> Any:
    """The config's head; with ``aqr`` its router gives weights that are not zero, as after training."""
    head = build_head(load_model_config(name), {"aqr": aqr_options() if aqr else {}, "attention_backend": backend})
    if aqr:
        nn.init.normal_(head.aqr.router.output.weight, std=ROUTER_SPREAD, generator=torch.Generator().manual_seed(1))
    return head


def decoder_call(head: Any, inputs: HeadInputs) -> tuple:
    """Arguments of the decoder in one forward pass of the head, without gradients."""
    seen: list[tuple] = []
    handle = head.transformer.decoder.register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        with torch.no_grad():
            head(inputs.points, inputs.images, inputs.metas)
    finally:
        handle.remove()
    if callable(seen[0][-1]):
        # Biases that follow the decoder's own predictions: those of its first layer stand for all.
        first = seen[0][-1](0, None)
        return (*seen[0][:-1], [first] * head.transformer.decoder.num_layers)
    return seen[0]


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


def compile_rows(settings: Settings, emit: Callable[[dict[str, Any]], None]) -> None:
    """One row per config, head and mode: the decoder as it is and through torch.compile, and how far they are apart."""
    for name in settings.heads:
        inputs = make_inputs(load_model_config(name), device=settings.device)
        for aqr in (False, True):
            head = head_with_bias(name, "masked", aqr).to(settings.device)
            call = moved(decoder_call(head, inputs), settings.device, torch.float32)
            decoder = head.transformer.decoder
            for backward in (False, True):
                mode = "forward+backward" if backward else "forward"
                row = {"config": name, "head": "aqr, masked" if aqr else "plain", "mode": mode}
                row["compiler"] = settings.compiler
                try:
                    emit({**row, **_compiled(settings, decoder, call, backward)})
                except Exception as error:  # the compiler's: the decoder without bias may still work
                    emit({**row, "failed": one_line(error)})


def _compiled(settings: Settings, decoder: Any, call: tuple, backward: bool) -> dict[str, Any]:
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(decoder, backend=settings.compiler)

    def run(function: Callable) -> Tensor:
        if not backward:
            with torch.no_grad():
                return function(*call)
        decoder.zero_grad(set_to_none=True)
        out = function(*call)
        out.square().mean().backward()
        return out.detach()

    plain = run(decoder)
    synchronise()
    start = time.perf_counter()
    own = run(compiled)
    synchronise()
    seconds = time.perf_counter() - start
    run(compiled)
    times = in_turns({"as it is": lambda: run(decoder), "compiled": lambda: run(compiled)}, 1, settings.rounds)
    return {
        "compile_s": round(seconds, 1),
        "graph_breaks": sum(counters["graph_break"].values()),
        "latency_ms": summary(times["as it is"].wall_ms),
        "compiled_ms": summary(times["compiled"].wall_ms),
        "ratio": ratio(times["compiled"].wall_ms, times["as it is"].wall_ms),
        "error": float((own - plain).abs().max() / plain.abs().max()),
    }
