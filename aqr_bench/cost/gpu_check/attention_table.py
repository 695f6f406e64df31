"""Attention backends timed in turns, with the kernel that ran and peak memory: the rows of their table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from aqr_bench.bias import choose_backend
from aqr_bench.cost.gpu_check.attention_cases import SIZES, Case, make_case, step
from aqr_bench.cost.gpu_check.settings import DTYPES, Emit, Settings, one_line
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.timing import Times, in_turns, ratio, summary, synchronise

MODES = ("forward", "forward+backward")
BACKENDS = ("none", "window", "masked", "literal")  # `auto` is one of them, which the rows tell
WINDOWS = (5, 15)  # cells a side, BEV and camera
# What PyTorch's operators for attention are called in a profile, and which kernel that means. In this order: the
# specific ones first, since the CPU's name contains that of another.
KERNELS = {
    "flash_attention_for_cpu": "flash on a CPU",
    "scaled_dot_product_flash_attention": "flash",
    "scaled_dot_product_efficient_attention": "efficient",
    "scaled_dot_product_cudnn_attention": "cudnn",
    "scaled_dot_product_fused_attention_overrideable": "other fused",
    "scaled_dot_product_attention_math": "math",
}


def attention_rows(settings: Settings, size: str, emit: Emit) -> None:
    """One row per number of queries, windows, dtype, mode and backend.

    More queries and larger windows come without ``literal``, which takes gigabytes.
    """
    plain = [name for name in BACKENDS if name != "literal"]
    cases = [(settings.queries[0], WINDOWS[0], BACKENDS), (settings.queries[1], WINDOWS[0], plain)]
    for queries, window, backends in [*cases, (settings.queries[0], WINDOWS[1], plain)]:
        for dtype in DTYPES:
            timed_rows(settings, size, queries, window, dtype, backends, emit)


def timed_rows(
    settings: Settings, size: str, queries: int | None, window: int, dtype: str, backends: Sequence[str], emit: Emit
) -> None:
    """Rows of one case: backends in turns, each beside no bias."""
    case = make_case(size, window, window, settings.device, getattr(torch, dtype), queries=queries)
    chosen = choose_backend(case.query_BQC, case.bias())
    named = {"size": size, "queries": queries or SIZES[size].queries, "windows": f"{window}/{window}", "dtype": dtype}
    for mode in MODES:
        names = []
        for name in backends:
            why = cannot(name, dtype, settings.device, mode)
            if why is None:
                names.append(name)
            else:
                emit({**named, "mode": mode, "backend": name, "not possible": why})
        times, failed = interleaved(case, names, mode, settings.rounds)
        for name in names:
            row = {**named, "mode": mode, "backend": f"{name} (auto)" if name == chosen else name}
            if name in failed:
                emit({**row, "failed": failed[name]})
            else:
                emit({**row, **_numbers(settings, case, name, mode, times)})


def _numbers(settings: Settings, case: Case, name: str, mode: str, times: dict[str, Times]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"latency_ms": summary(times[name].wall_ms)}
    if "none" in times:
        numbers["ratio"] = ratio(times[name].wall_ms, times["none"].wall_ms)
    if name != "flex":  # a compiled function is no operator of PyTorch's
        numbers["kernel"] = kernels_of(lambda: step(case, name, mode == MODES[1]))
    if settings.device == "cuda":  # in a process that has run others, a CPU's resident set tells nothing
        numbers["peak_mb"] = peak(case, name, mode == MODES[1], settings.device)
    return numbers


def kernels_of(function: Callable[[], Any]) -> str:
    """The kernels of PyTorch's attention that ``function`` runs: flash, efficient, cudnn, math; empty for none."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function()
    ran = {}
    for event in seen.events():
        name = event.name.removeprefix("aten::_")
        for word, kernel in KERNELS.items():
            if name.removesuffix("_backward").endswith(word):
                ran.setdefault(kernel)
                break
    return ", ".join(ran)


def cannot(backend: str, dtype: str, device: str, mode: str) -> str | None:
    """Why a backend is not made for this dtype, device or mode (see ``biased_attention``); None if it is."""
    if backend == "window" and dtype not in ("float32", "float64"):
        return "float32 and float64 only"
    if backend == "flex" and device == "cpu" and mode == MODES[1]:
        return "no gradient on a CPU"
    return None


def interleaved(case: Case, names: Iterable[str], mode: str, rounds: int) -> tuple[dict[str, Times], dict[str, str]]:
    """Times of every variant, run in turns, and the reasons of those that failed in their warm-up."""
    steps, failed = {}, {}
    for name in names:
        run = functools.partial(step, case, name, mode == MODES[1])
        try:
            run()
            run()
        except Exception as error:  # whatever a kernel or its compiler raises: the others go on
            failed[name] = one_line(error)
        else:
            steps[name] = run
    return in_turns(steps, warmup=0, rounds=rounds), failed


def peak(case: Case, name: str, backward: bool, device: str) -> float:
    """Peak memory of one step over what is held before it, MB: the allocator's on CUDA, resident set on a CPU."""
    # Libraries and thread pools; on a CPU by a small step, since what the heap has once had would hide the peak.
    step(case if device == "cuda" else make_case("tiny", 3, 3), name, backward)
    for leaf in case.leaves:
        leaf.grad = None
    held_mb = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else None
    with PeakMemory() as memory:
        step(case, name, backward)
        synchronise()
    facts = memory.facts
    own_mb = facts["rss_peak_mb"] - facts["rss_before_mb"] if held_mb is None else facts["torch_allocated_mb"] - held_mb
    return round(own_mb * 2**20 / 1e6, 1)
