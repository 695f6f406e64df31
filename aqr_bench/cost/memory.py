"""Peak memory of a block: resident set of the process, torch's allocator on a GPU, and NVML's numbers."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from aqr_bench.cost.machine import gpu_state

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OF_THIS_PART, OF_THE_PROCESS = "of this part", "of the process so far"


class PeakMemory:
    """Context manager that measures its block; ``facts`` afterwards holds megabytes (2**20 bytes).

    ``rss_*``: resident set, with mapped libraries; ``rss_peak_is``: of this block, where the system allows a reset, or
    of the process so far. ``torch_*``: of torch's allocator, None on a CPU.
    """

    def __enter__(self) -> PeakMemory:
        import torch

        self.gpu = torch.cuda.is_available()
        if self.gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.peak_is = OF_THIS_PART if _reset_peak() else OF_THE_PROCESS
        self.before_mb = _status_mb("VmRSS")
        self.facts: dict[str, Any] = {}
        return self

    def __exit__(self, *error: object) -> None:
        import torch

        peak_mb = _status_mb("VmHWM") if self.peak_is == OF_THIS_PART else _peak_of_process_mb()
        self.facts = {
            "rss_before_mb": self.before_mb,
            "rss_peak_mb": peak_mb,
            "rss_peak_is": self.peak_is,
            "torch_allocated_mb": torch.cuda.max_memory_allocated() / 2**20 if self.gpu else None,
            "torch_reserved_mb": torch.cuda.max_memory_reserved() / 2**20 if self.gpu else None,
            "gpu": gpu_state(),
        }


def _reset_peak() -> bool:
    """Set the peak resident set to the present one (Linux); False where that is not allowed."""
    try:
        RESET.write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _peak_of_process_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status_mb(field: str) -> float | None:
    """A field of /proc/self/status in MB; None where there is no such file."""
    if not STATUS.is_file():
        return None
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return None
