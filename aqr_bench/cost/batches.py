"""Throughput over batch sizes. Where memory does not suffice, the batch shrinks, and what was asked for is kept."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aqr_bench.cost.timing import Times, timed
from aqr_bench.engine.job import one_line
from aqr_bench.errors import raise_if_disk_error
from aqr_bench.records.record import status_of

Result = TypeVar("Result")
RUNS = 3  # of each batch size, after one that warms up


def shrinking(batch_size: int, run: Callable[[int], Result]) -> tuple[Result, int, str | None]:
    """``run(batch_size)``, with half the batch as often as memory does not suffice.

    Returns:
        What it gave, the batch size that it worked with, and why it is not the one asked for (None if it is).
    Raises:
        Whatever ``run`` raises but for lack of memory; that, too, where it is down to one sample.
    """
    why, size = None, batch_size
    while True:
        try:
            return run(size), size, why
        except Exception as error:
            if status_of(error) != "oom" or size == 1:
                raise
            why = f"out of memory with {size} samples"
        free_memory()
        size //= 2


def throughput(sizes: Sequence[int], step_of: Callable[[int], Callable[[], Any]]) -> list[dict[str, Any]]:
    """Samples per second by batch size, smallest first, of ``step_of(size)``.

    A size that memory does not suffice for has ``status`` oom and, once it has shrunk, the size that it shrank to; one
    that fails for another cause has its status and reason. The larger ones are not tried.
    """
    rows: list[dict[str, Any]] = []
    for asked in sorted(set(sizes)):
        try:
            free_memory()
            times, size, why = shrinking(asked, lambda size: _times(step_of(size)))
        except Exception as error:
            raise_if_disk_error(error)
            status, facts = status_of(error), {"asked": asked, "batch_size": None, "samples_per_s": None}
            rows.append({**facts, "status": status, **({} if status == "oom" else {"reason": one_line(error)})})
            break
        median_ms = times.facts()["latency_ms"]["median"]
        row = {"asked": asked, "batch_size": size, "status": "oom" if why else "ok"}
        rows.append({**row, "latency_ms": median_ms, "samples_per_s": 1000 * size / median_ms, "runs": RUNS})
        if why:
            rows[-1]["reason"] = why
            break
    return rows


def free_memory() -> None:
    """Give back what is held but not used, so that the next attempt finds it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _times(step: Callable[[], Any]) -> Times:
    step()
    times = Times()
    for _ in range(RUNS):
        timed(step, times)
    return times
