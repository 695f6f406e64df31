"""Wall and processor time of functions that run in turns, so that their ratio survives what else the machine does."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Times:
    """Times of one function, in the order in which it ran. ``cpu_ms`` is that of all threads of this process."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """What a record keeps of them."""
        return {"latency_ms": summary(self.wall_ms), "latency_cpu_ms": summary(self.cpu_ms)}


def synchronise() -> None:
    """Wait until the GPU has done what it was given; nothing to wait for without one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable[[], Any], times: Times) -> None:
    """Run ``function`` once, from an idle device to an idle device, and add its times."""
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    synchronise()
    times.wall_ms.append(1000 * (time.perf_counter() - wall))
    times.cpu_ms.append(1000 * (time.process_time() - cpu))


def in_turns(functions: Mapping[str, Callable[[], Any]], warmup: int, rounds: int) -> dict[str, Times]:
    """Times of every function, each run once a round, in an order drawn anew: what ran before leaves its traces."""
    for function in functions.values():
        for _ in range(warmup):
            function()
    times = {name: Times() for name in functions}
    for turn in range(rounds):
        for name in random.Random(turn).sample(list(functions), len(functions)):
            timed(functions[name], times[name])
    return times


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile (of those measured, none in between) and all values."""
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[int(0.95 * (len(ordered) - 1) + 0.5)],
        "values": list(values),
    }


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratio, taken round by round: both ran within the same moments."""
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"median": middle, "low": low, "high": high}


def compared(mine: Times, theirs: Times) -> dict[str, Any]:
    """The times of a variant and their ratios to those of the baseline, as a record keeps them."""
    wall, cpu = ratio(mine.wall_ms, theirs.wall_ms), ratio(mine.cpu_ms, theirs.cpu_ms)
    return {
        **mine.facts(),
        "latency_ratio": wall["median"],
        "latency_ratio_quartiles": [wall["low"], wall["high"]],
        "latency_cpu_ratio": cpu["median"],
    }
