"""What every job does around its work: its costs, the reason of a failure."""

from __future__ import annotations

import resource
import time

from aqr_bench.errors import error_text, root_cause
from aqr_bench.records.record import status_of


def failure_status(error: Exception, limit: int | None) -> tuple[str, str]:
    """Status and reason for a record."""
    status, reason = status_of(error), one_line(error)
    if status == "oom" and limit:
        reason = f"{reason.rstrip(': ')} (memory limit {limit} MB)"
    return status, reason


def one_line(error: BaseException) -> str:
    """What went wrong, in at most 300 characters on one line, and the notes that were added to the error."""
    error = root_cause(error)
    text = " ".join(": ".join(error_text(error)).split())[:300]
    return " ".join([text, *getattr(error, "__notes__", [])])


def cost_since(clock: tuple[float, float]) -> dict[str, float]:
    return {
        "wall_s": round(time.perf_counter() - clock[0], 2),
        "cpu_s": round(time.process_time() - clock[1], 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def summed_costs(costs: list[dict[str, float]]) -> dict[str, float]:
    """Processor time and memory summed over all processes; empty for one."""
    if len(costs) == 1:
        return {}
    return {"processes": len(costs), **{k: round(sum(c[k] for c in costs), 2) for k in ("cpu_s", "peak_rss_mb")}}
