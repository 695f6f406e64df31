"""Checks of a published head's training step: host waits, changing queries, equal runs, TF32; FlexAttention."""

from __future__ import annotations

import collections
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from aqr_bench.compat import use_tf32
from aqr_bench.cost.full_head import make_inputs
from aqr_bench.cost.gpu_check.attention_table import WINDOWS, timed_rows
from aqr_bench.cost.gpu_check.head_cost import VARIANTS, TrainingHead, head_step
from aqr_bench.cost.gpu_check.parity import (
    compare_bias,
    head_with_bias,
    output_errors,
    outputs_and_gradients,
    relative_distance,
)
from aqr_bench.cost.gpu_check.settings import DTYPES, NOTE, Emit, Settings, attempt, model_config
from aqr_bench.cost.timing import Timings, interleaved, ratio, summary, timed

STEPS = 3  # of each of two runs that are to be equal
MIN_OBJECTS, SIZES = 3, 12  # per sample in the first step with changing queries, and number of such steps
SYNC = "synchronizing CUDA operation"  # in the warning that torch gives of a host wait


def step_rows(settings: Settings, which: str, emit: Emit) -> None:
    """Rows of all four checks for the plain head and those with AQR."""
    for name in VARIANTS:
        for mode in ("training", "inference"):
            row = {"check": f"host waits, {mode}", "head": name}
            attempt(emit, row, functools.partial(_waits, settings, mode, name))
    checks = {"changing queries": changing, "two equal runs": _repeated, "TF32 over float32": _tf32}
    for check, measure in checks.items():
        for name in VARIANTS:
            attempt(emit, {"check": check, "head": name}, functools.partial(measure, settings, name))


def _waits(settings: Settings, mode: str, name: str) -> dict[str, Any]:
    """How often one step makes the host wait for the GPU, and the lines of code that do so most."""
    if settings.device == "cpu":
        return {"not possible": "needs a GPU"}
    step = head_step(settings, NOTE, mode, name, settings.batch)
    step()
    return count_waits(step)


def count_waits(step: Callable[[], Any]) -> dict[str, Any]:
    """``waits`` and ``where``, of one call."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if SYNC in str(w.message)]
    common = collections.Counter(places).most_common(4)
    return {"waits": len(places), "where": ", ".join(f"{line} {count}" for line, count in common)}


def changing(settings: Settings, name: str, step: TrainingHead | None = None) -> dict[str, Any]:
    """Steps with another number of denoising queries each: graphs that were compiled, the slowest over the median."""
    step = step or TrainingHead(settings, NOTE, name, settings.batch)
    step(MIN_OBJECTS)
    counters.clear()
    timings = Timings()
    for objects in range(MIN_OBJECTS, MIN_OBJECTS + SIZES):
        timed(lambda: step(objects), timings)  # noqa: B023 (called at once)
    latency = summary(timings.wall_ms)
    facts = {"latency_ms": latency, "slowest": max(timings.wall_ms) / latency["median"]}
    facts["compiled graphs"] = counters["stats"]["unique_graphs"]
    if settings.device == "cuda":
        facts["reserved_mb"] = round(torch.cuda.max_memory_reserved() / 2**20)
    return facts


def _repeated(settings: Settings, name: str) -> dict[str, Any]:
    """Whether two runs with the same seed give the same weights to the last bit, else their relative distance."""
    runs = []
    for _ in range(2):
        step = TrainingHead(settings, NOTE, name, settings.batch)
        torch.manual_seed(0)
        loss = [step() for _ in range(STEPS)][-1]
        runs.append({"loss": loss, **dict(step.head.named_parameters())})
    first, second = runs
    equal = all(torch.equal(first[key], second[key]) for key in first)
    error = {
        "loss": relative_distance({"": second["loss"]}, {"": first["loss"]}),
        "weights": relative_distance(second, first),
    }
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

    error = output_errors(*with_tf32(lambda: outputs_and_gradients(head, inputs)), *truth)
    times = interleaved({"off": step, "on": lambda: with_tf32(step)}, 1, settings.rounds)
    return {
        "latency_ms": summary(times["on"].wall_ms),
        "ratio": ratio(times["on"].wall_ms, times["off"].wall_ms),
        "error": error,
    }


def flex_rows(settings: Settings, which: str, emit: Emit) -> None:
    """FlexAttention: errors, times and ratios to no bias, and graphs compiled where the number of queries changes."""
    from aqr_bench.cmt.attention import set_backend

    for dtype in DTYPES:
        compare_bias(settings, settings.parity[0], "cross", dtype, ["flex"], emit)
    for size in settings.attention:
        for dtype in DTYPES:
            timed_rows(settings, size, None, WINDOWS[0], dtype, ("none", "flex"), emit)
    row = {"check": "changing queries", "backend": "flex"}
    if settings.device == "cpu":
        emit({**row, "not possible": "no gradient on a CPU"})
        return
    step = TrainingHead(settings, NOTE, "aqr, masked", settings.batch)
    set_backend(step.head.transformer, "flex")
    attempt(emit, row, lambda: changing(settings, "flex", step))
