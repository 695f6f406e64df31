"""Wall and processor time of functions that run alternately, so that their ratio does not depend on other load."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Timings:
    """Times of one function, one value per call. ``cpu_ms`` is that of all threads of this process."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Their keys in a record."""
        return {"latency_ms": summary(self.wall_ms), "latency_cpu_ms": summary(self.cpu_ms)}


def synchronise() -> None:
    """Wait for the GPU, if there is one, to finish its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable[[], Any], times: Timings) -> None:
    """Run ``function`` once, from an idle device to an idle device, and add its times."""
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    synchronise()
    times.wall_ms.append(1000 * (time.perf_counter() - wall))
    times.cpu_ms.append(1000 * (time.process_time() - cpu))


def interleaved(functions: Mapping[str, Callable[[], Any]], warmup: int, rounds: int) -> dict[str, Timings]:
    """Timings of every function, each run once per round in random order, since a run affects the next one."""
    for function in functions.values():
        for _ in range(warmup):
            function()
    times = {name: Timings() for name in functions}
    for turn in range(rounds):
        for name in random.Random(turn).sample(list(functions), len(functions)):
            timed(functions[name], times[name])
    return times


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile (one of the values) and all values."""
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[int(0.95 * (len(ordered) - 1) + 0.5)],
        "values": list(values),
    }


def ratio(variant: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratio within each round."""
    ratios = [a / b for a, b in zip(variant, baseline, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"median": middle, "low": low, "high": high}


def timing_facts(variant: Timings, baseline: Timings) -> dict[str, Any]:
    """Keys of a record: times of a variant and their ratios to the baseline."""
    wall, cpu = ratio(variant.wall_ms, baseline.wall_ms), ratio(variant.cpu_ms, baseline.cpu_ms)
    return {
        **variant.facts(),
        "latency_ratio": wall["median"],
        "latency_ratio_quartiles": [wall["low"], wall["high"]],
        "latency_cpu_ratio": cpu["median"],
    }
