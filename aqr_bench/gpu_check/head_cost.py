"""The head at full size on made-up features: inference and training steps with and without AQR, and their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aqr_bench.cost.batches import free_memory, shrinking
from aqr_bench.cost.full_head import load_model_config, make_inputs
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.timing import Times, ratio, summary, timed
from aqr_bench.gpu_check.decoder import head_with_bias
from aqr_bench.gpu_check.settings import Settings, one_line

# Head -> (whether it has AQR, attention backend). On CUDA `auto` is compiled at its first step and therefore last.
HEADS = {
    "plain": (False, "auto"),
    "aqr, masked": (True, "masked"),
    "aqr, window": (True, "window"),
    "aqr, auto": (True, "auto"),
}
GRADIENT_NORM = 35.0  # as CMT's schedule clips


def cost_rows(settings: Settings, config: str, emit: Callable[[dict[str, Any]], None]) -> None:
    """One row per mode and head. A head is timed in turns with the plain one; memory is that of the head alone."""
    for mode in ("inference", "training"):
        asked = 1 if mode == "inference" else settings.batch
        for name in HEADS:
            row = {"config": config, "mode": mode, "head": name}
            try:
                found, batch, why = shrinking(
                    asked, lambda n, mode=mode, name=name: _cost(settings, config, mode, name, n)
                )
            except Exception as error:  # this head's: the others go on
                emit({**row, "failed": one_line(error)})
            else:
                emit({**row, "batch_size": batch, **({"shrunk": why} if why else {}), **found})
            free_memory()


def _cost(settings: Settings, config: str, mode: str, name: str, batch: int) -> dict[str, Any]:
    step = _step(settings, config, mode, name, batch)
    step()
    with PeakMemory() as memory:
        step()
    times, plain = Times(), Times()
    other = None if name == "plain" else _step(settings, config, mode, "plain", batch)
    if other:
        other()
    for _ in range(settings.rounds):
        timed(step, times)
        if other:
            timed(other, plain)
    found = {**times.facts(), "memory": memory.facts, "samples_per_s": 1000 * batch / summary(times.wall_ms)["median"]}
    if other:
        found["ratio"] = ratio(times.wall_ms, plain.wall_ms)
    return found


def _step(settings: Settings, config: str, mode: str, name: str, batch: int) -> Callable[[], None]:
    """Inference: features to boxes. Training: features to losses, their gradients, clipping and AdamW."""
    aqr, backend = HEADS[name]
    head = head_with_bias(config, backend, aqr).to(settings.device)
    inputs = make_inputs(load_model_config(config), batch, truth=mode == "training", device=settings.device)
    if mode == "inference":

        def infer() -> None:
            with torch.no_grad():
                head.predict(inputs.points, inputs.images, inputs.samples)

        return infer
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-6)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(head.loss(inputs.points, inputs.images, inputs.samples).values()).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), GRADIENT_NORM)
        optimizer.step()

    return train
