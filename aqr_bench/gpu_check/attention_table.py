"""Attention backends timed in turns, with their peak memory; the part of the check that makes the table of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from aqr_bench.bias import choose_backend
from aqr_bench.cost.timing import Times, in_turns, ratio, summary
from aqr_bench.gpu_check.attention_cases import Case, make_case, step
from aqr_bench.gpu_check.settings import Settings, one_line

MODES = ("forward", "forward+backward")
BACKENDS = ("none", "auto", "window", "masked", "literal", "flex")
WINDOWS = (5, 15)  # cells a side, BEV and camera


def attention_rows(settings: Settings, size: str, emit: Callable[[dict[str, Any]], None]) -> None:
    """One row per dtype, windows, mode and backend; what FlexAttention compiles comes last, since it may take long."""
    cases = [(dtype, window) for window in WINDOWS for dtype in settings.speed_dtypes]
    for compiled in (False, True):
        for dtype, window in cases:
            case = make_case(size, window, window, settings.device, getattr(torch, dtype))
            named = {"size": size, "dtype": dtype, "windows": f"{window}/{window}"}
            _timed_case(settings, case, named, compiled, emit)


def _timed_case(
    settings: Settings, case: Case, named: dict[str, Any], compiled: bool, emit: Callable[[dict[str, Any]], None]
) -> None:
    chosen = choose_backend(case.query_BQC, case.bias())
    ways = {name: chosen if name == "auto" else name for name in BACKENDS}
    for mode in MODES:
        names = []
        for name, way in ways.items():
            if (way == "flex") != compiled and name != "none":
                continue
            why = cannot(way, named["dtype"], settings.device, mode)
            if why is None:
                names.append(name)
            else:
                emit({**named, "mode": mode, "backend": name, "not possible": why})
        if names == ["none"] and compiled:
            continue
        times, failed = interleaved(case, names, mode, settings.rounds)
        for name in names:
            row = {**named, "mode": mode, "backend": name}
            if name == "auto":
                row["chosen"] = chosen
            if name in failed:
                emit({**row, "failed": failed[name]})
            elif name != "none" or not compiled:
                emit({**row, **_numbers(settings, case, name, mode, times)})


def _numbers(settings: Settings, case: Case, name: str, mode: str, times: dict[str, Times]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"latency_ms": summary(times[name].wall_ms)}
    if "none" in times:
        numbers["ratio"] = ratio(times[name].wall_ms, times["none"].wall_ms)
    if settings.device == "cuda":  # in a process that has run others, a CPU's resident set tells nothing
        numbers["peak_mb"] = peak(case, name, mode == MODES[1], settings.device)
    return numbers


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
    if device == "cuda":
        step(case, name, backward)
        for leaf in case.leaves:
            leaf.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(case, name, backward)
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
    small = make_case("tiny", 3, 3)
    step(small, name, backward)  # libraries and thread pools
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    step(case, name, backward)
    return round((_status("VmHWM") - before) / 1e3, 1)


def _status(field: str) -> float:
    """kB of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) * 1.024
    raise RuntimeError(f"/proc/self/status has no {field}")
