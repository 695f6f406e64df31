"""A training step of a published head, looked at closely: host waits, changing queries, equal runs, TF32."""

from __future__ import annotations

import collections
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from aqr_bench.compat import use_tf32
from aqr_bench.cost.full_head import make_inputs
from aqr_bench.cost.gpu_check.head_cost import VARIANTS, TrainingHead, head_step
from aqr_bench.cost.gpu_check.parity import apart, compared, head_with_bias, outputs_and_gradients
from aqr_bench.cost.gpu_check.settings import NOTE, Emit, Settings, attempt, model_config
from aqr_bench.cost.timing import in_turns, ratio, summary, synchronise

STEPS = 3  # of each of two runs that are to be equal
FEWEST, SIZES = 3, 12  # objects per sample of the first step with changing queries, and how many such steps
SYNC = "synchronizing CUDA operation"  # in the warning that torch gives of a host wait


def step_rows(settings: Settings, which: str, emit: Emit) -> None:
    """Rows of all four checks for the plain head and those with AQR."""
    for name in VARIANTS:
        for mode in ("training", "inference"):
            row = {"check": f"host waits, {mode}", "head": name}
            attempt(emit, row, lambda mode=mode, name=name: _waits(settings, mode, name))
    for name in VARIANTS:
        attempt(emit, {"check": "changing queries", "head": name}, lambda name=name: changing(settings, name))
    for name in VARIANTS:
        attempt(emit, {"check": "two equal runs", "head": name}, lambda name=name: _repeated(settings, name))
    for name in VARIANTS:
        attempt(emit, {"check": "TF32 over float32", "head": name}, lambda name=name: _tf32(settings, name))


def _waits(settings: Settings, mode: str, name: str) -> dict[str, Any]:
    """How often one step makes the host wait for the GPU, and the places that do so most."""
    if settings.device == "cpu":
        return {"not possible": "needs a GPU"}
    step = head_step(settings, NOTE, mode, name, settings.batch)
    step()
    return count_waits(step)


def count_waits(step: Callable[[], Any]) -> dict[str, Any]:
    """``waits`` and ``where``, of one call."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if SYNC in str(w.message)]
    most = collections.Counter(places).most_common(4)
    return {"waits": len(places), "where": ", ".join(f"{place} {count}" for place, count in most)}


def changing(settings: Settings, name: str, step: TrainingHead | None = None) -> dict[str, Any]:
    """Steps with another number of denoising queries each: graphs that were compiled, the slowest over the median."""
    step = step or TrainingHead(settings, NOTE, name, settings.batch)
    step(FEWEST)
    counters.clear()
    times = []
    for objects in range(FEWEST, FEWEST + SIZES):
        synchronise()
        start = time.perf_counter()
        step(objects)
        synchronise()
        times.append(1000 * (time.perf_counter() - start))
    facts = {"latency_ms": summary(times), "slowest": max(times) / summary(times)["median"]}
    facts["compiled graphs"] = counters["stats"]["unique_graphs"]
    if settings.device == "cuda":
        facts["reserved_mb"] = round(torch.cuda.max_memory_reserved() / 2**20)
    return facts


def _repeated(settings: Settings, name: str) -> dict[str, Any]:
    """Whether two runs with the same seed give the same weights to the last bit, else how far they are apart."""
    runs = []
    for _ in range(2):
        step = TrainingHead(settings, NOTE, name, settings.batch)
        torch.manual_seed(0)
        loss = [step() for _ in range(STEPS)][-1]
        runs.append({"loss": loss, **dict(step.head.named_parameters())})
    first, second = runs
    equal = all(torch.equal(first[key], second[key]) for key in first)
    error = {"loss": apart({"": second["loss"]}, {"": first["loss"]}), "weights": apart(second, first)}
    return {"equal": equal, "error": error}


def _tf32(settings: Settings, name: str) -> dict[str, Any]:
    """Time of a training step with TF32 over that without, and what it does to outputs and gradients."""
    kind, backend = VARIANTS[name]
    config = model_config(NOTE, settings.size == "tiny")
    inputs = make_inputs(config, device=settings.device)
    head = head_with_bias(config, backend, kind).to(settings.device)
    use_tf32(False)  # PyTorch's default has it on for convolutions
    truth = outputs_and_gradients(head, inputs)
    step = TrainingHead(settings, NOTE, name, settings.batch)

    def with_tf32(function: Callable[[], Any]) -> Any:
        use_tf32(True)
        try:
            return function()
        finally:
            use_tf32(False)

    error = compared(*with_tf32(lambda: outputs_and_gradients(head, inputs)), *truth)
    times = in_turns({"off": step, "on": lambda: with_tf32(step)}, 1, settings.rounds)
    return {
        "latency_ms": summary(times["on"].wall_ms),
        "ratio": ratio(times["on"].wall_ms, times["off"].wall_ms),
        "error": error,
    }
