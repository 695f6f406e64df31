"""Throughput over batch sizes; the batch is halved after running out of memory."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aqr_bench.cost.timing import Timings, timed
from aqr_bench.engine.job import one_line
from aqr_bench.errors import raise_if_disk_error
from aqr_bench.records.record import status_of

Result = TypeVar("Result")
RUNS = 3  # of each batch size, after one warm-up


def with_smaller_batches(batch_size: int, run: Callable[[int], Result]) -> tuple[Result, int, str | None]:
    """``run(batch_size)``, with half the batch after each time that it runs out of memory.

    Returns:
        Its result, the batch size used, and why that is smaller than requested (None if it is not).
    Raises:
        Errors of ``run`` other than out of memory; that, too, with a batch of one sample.
    """
    reason, size = None, batch_size
    while True:
        try:
            return run(size), size, reason
        except Exception as error:
            if status_of(error) != "oom" or size == 1:
                raise
            reason = f"out of memory with {size} samples"
        free_memory()
        size //= 2


def throughput(sizes: Sequence[int], step_of: Callable[[int], Callable[[], Any]]) -> list[dict[str, Any]]:
    """Samples per second by batch size, smallest first, of ``step_of(size)``.

    A size that runs out of memory has ``status`` oom and the smaller size that was measured instead, if any; one that
    fails for another reason has its status and reason. Larger sizes are not tried.
    """
    rows: list[dict[str, Any]] = []
    for asked in sorted(set(sizes)):
        try:
            free_memory()
            times, size, reason = with_smaller_batches(asked, lambda size: _times(step_of(size)))
        except Exception as error:
            raise_if_disk_error(error)
            status, facts = status_of(error), {"asked": asked, "batch_size": None, "samples_per_s": None}
            rows.append({**facts, "status": status, **({} if status == "oom" else {"reason": one_line(error)})})
            break
        median_ms = times.facts()["latency_ms"]["median"]
        row = {"asked": asked, "batch_size": size, "status": "oom" if reason else "ok"}
        rows.append({**row, "latency_ms": median_ms, "samples_per_s": 1000 * size / median_ms, "runs": RUNS})
        if reason:
            rows[-1]["reason"] = reason
            break
    return rows


def free_memory() -> None:
    """Release unused memory for the next attempt."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _times(step: Callable[[], Any]) -> Timings:
    step()
    times = Timings()
    for _ in range(RUNS):
        timed(step, times)
    return times
