"""Rows of the attention tables: backends timed alternately, with the kernel that ran and peak memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from aqr_bench.bias import choose_backend
from aqr_bench.cost.attention_kernels import kernels_of
from aqr_bench.cost.gpu_check.attention_cases import ATTENTION, SIZES, Attention, Case, make_case, step
from aqr_bench.cost.gpu_check.settings import DTYPES, Emit, Settings
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.timing import Timings, interleaved, ratio, summary, synchronise
from aqr_bench.engine.job import one_line

MODES = ("forward", "forward+backward")
BACKENDS = ("none", "window", "masked", "literal")  # `auto` is one of them, named in the rows
WINDOWS = (5, 15)  # cells a side, BEV and camera


def attention_rows(settings: Settings, size: str, emit: Emit) -> None:
    """One row per number of queries, windows, dtype, mode and backend.

    More queries and larger windows are without ``literal``, which takes gigabytes.
    """
    plain = [name for name in BACKENDS if name != "literal"]
    cases = [(settings.queries[0], WINDOWS[0], BACKENDS), (settings.queries[1], WINDOWS[0], plain)]
    for queries, window, backends in [*cases, (settings.queries[0], WINDOWS[1], plain)]:
        for dtype in DTYPES:
            timed_rows(settings, size, queries, window, dtype, backends, emit)


def timed_rows(
    settings: Settings, size: str, queries: int | None, window: int, dtype: str, backends: Sequence[str], emit: Emit
) -> None:
    """Rows of one case: backends timed alternately, with the ratio to no bias."""
    case = make_case(size, window, window, settings.device, getattr(torch, dtype), queries=queries)
    chosen = choose_backend(case.query_BQC, case.bias())
    named = {"size": size, "queries": queries or SIZES[size].queries, "windows": f"{window}/{window}", "dtype": dtype}
    for mode in MODES:
        names = []
        for name in backends:
            why = unsupported_reason(name, dtype, settings.device, mode)
            if why is None:
                names.append(name)
            else:
                emit({**named, "mode": mode, "backend": name, "not possible": why})
        times, failed = time_attention(case, {name: ATTENTION[name] for name in names}, mode, settings.rounds)
        for name in names:
            row = {**named, "mode": mode, "backend": f"{name} (auto)" if name == chosen else name}
            if name in failed:
                emit({**row, "failed": failed[name]})
            else:
                emit({**row, **_numbers(settings, case, name, mode, times)})


def _numbers(settings: Settings, case: Case, name: str, mode: str, times: dict[str, Timings]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"latency_ms": summary(times[name].wall_ms)}
    if "none" in times:
        numbers["ratio"] = ratio(times[name].wall_ms, times["none"].wall_ms)
    if name != "flex":  # a compiled function, not an operator of PyTorch
        numbers["kernel"] = kernels_of(lambda: step(case, ATTENTION[name], mode == MODES[1]))
    if settings.device == "cuda":  # the resident set of a process that has run others is of no use
        numbers["peak_mb"] = peak(case, ATTENTION[name], mode == MODES[1], settings.device)
    return numbers


def unsupported_reason(backend: str, dtype: str, device: str, mode: str) -> str | None:
    """Why a backend does not support this dtype, device or mode (see ``biased_attention``); None if it does."""
    if backend == "window" and dtype not in ("float32", "float64"):
        return "float32 and float64 only"
    if backend == "flex" and device == "cpu" and mode == MODES[1]:
        return "no gradient on a CPU"
    return None


def time_attention(
    case: Case, variants: Mapping[str, Attention], mode: str, rounds: int
) -> tuple[dict[str, Timings], dict[str, str]]:
    """Timings of every variant, run alternately, and the errors of those that failed in their warm-up."""
    steps, failed = {}, {}
    for name, attend in variants.items():
        run = functools.partial(step, case, attend, mode == MODES[1])
        try:
            run()
            run()
        except Exception as error:  # of a kernel or its compiler: the others continue
            failed[name] = one_line(error)
        else:
            steps[name] = run
    return interleaved(steps, warmup=0, rounds=rounds), failed


def peak(case: Case, attend: Attention, backward: bool, device: str) -> float:
    """Additional peak memory of one step, MB: the allocator's on CUDA, resident set on a CPU."""
    # Loads libraries and thread pools; on a CPU by a small step, since a grown heap would hide the peak.
    step(case if device == "cuda" else make_case("tiny", 3, 3), attend, backward)
    for leaf in case.leaves:
        leaf.grad = None
    return added_peak_mb(lambda: step(case, attend, backward), device)


def added_peak_mb(run: Callable[[], object], device: str) -> float:
    """Additional peak memory of ``run``, MB: the allocator's on CUDA, resident set on a CPU."""
    before_mb = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else None
    with PeakMemory() as memory:
        run()
        synchronise()
    facts = memory.facts
    if before_mb is None:
        added_mb = facts["rss_peak_mb"] - facts["rss_before_mb"]
    else:
        added_mb = facts["torch_allocated_mb"] - before_mb
    return round(added_mb * 2**20 / 1e6, 1)
