"""The head at full size on random features: inference and training steps with and without AQR, and their memory."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch

from aqr_bench.cost.batches import free_memory, with_smaller_batches
from aqr_bench.cost.full_head import make_inputs
from aqr_bench.cost.gpu_check.parity import head_with_bias
from aqr_bench.cost.gpu_check.settings import NOTE, VOV, Emit, Settings, attempt, model_config
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.timing import interleaved, ratio

# Name -> (head of parity.HEADS, attention backend).
VARIANTS = {"plain": ("plain", "auto"), "aqr, masked": ("cross", "masked"), "aqr, window": ("cross", "window")}
GRADIENT_NORM = 35.0  # as CMT's schedule clips


def cost_rows(settings: Settings, which: str, emit: Emit) -> None:
    """One row per config, mode and head. A head is timed alternately with the plain one, after measuring memory."""
    modes = (("inference", 1), ("training", settings.batch))
    for config, (mode, batch), name in itertools.product((NOTE, VOV), modes, VARIANTS):
        cost = functools.partial(_cost, settings, config, mode, name)
        row = {"config": config, "mode": mode, "head": name}
        attempt(emit, row, functools.partial(with_batch_size, batch, cost))
        free_memory()


def with_batch_size(batch: int, cost: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """``cost(batch)``, with a smaller batch where memory runs out, and the batch size."""
    facts, used, reason = with_smaller_batches(batch, cost)
    return {"batch_size": used, **({"shrunk": reason} if reason else {}), **facts}


def _cost(settings: Settings, config: str, mode: str, name: str, batch: int) -> dict[str, Any]:
    step = head_step(settings, config, mode, name, batch)
    step()
    with PeakMemory() as memory:
        step()
    steps = {name: step}
    if name != "plain":
        steps["plain"] = head_step(settings, config, mode, "plain", batch)
    times = interleaved(steps, warmup=1, rounds=settings.rounds)
    facts = {**times[name].facts(), "memory": memory.facts}
    facts["samples_per_s"] = 1000 * batch / facts["latency_ms"]["median"]
    if name != "plain":
        facts["ratio"] = ratio(times[name].wall_ms, times["plain"].wall_ms)
    return facts


def head_step(settings: Settings, config: str, mode: str, name: str, batch: int) -> Callable[[], Any]:
    """Inference: features to boxes. Training: features to losses, their gradients, clipping and AdamW."""
    if mode == "training":
        return TrainingHead(settings, config, name, batch)
    loaded = model_config(config, settings.size == "tiny")
    head = head_with_bias(loaded, VARIANTS[name][1], VARIANTS[name][0]).to(settings.device)
    inputs = make_inputs(loaded, batch, device=settings.device)

    def infer() -> None:
        with torch.no_grad():
            head.predict(inputs.points, inputs.images, inputs.samples)

    return infer


class TrainingHead:
    """A head with its optimiser and a random batch; a call is one training step and returns the loss."""

    def __init__(self, settings: Settings, config: str, name: str, batch: int) -> None:
        loaded = model_config(config, settings.size == "tiny")
        kind, backend = VARIANTS[name]
        self.head = head_with_bias(loaded, backend, kind).to(settings.device).train()
        self.inputs = make_inputs(loaded, batch, truth=True, device=settings.device)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-4)

    def __call__(self, objects: int | None = None) -> torch.Tensor:
        """``objects``: only so many of each sample's, and fewer denoising queries with them."""
        samples = self.inputs.samples
        if objects is not None:
            samples = [copy.copy(sample) for sample in samples]
            for sample in samples:
                sample.gt_instances_3d = sample.gt_instances_3d[:objects]
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self.head.loss(self.inputs.points, self.inputs.images, samples).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        return loss.detach()
