"""Facts on the GPU that records do not have, and how fast this device multiplies and copies."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch

from aqr_bench.cost.gpu_check.settings import DTYPES, Emit, Settings
from aqr_bench.cost.machine import gpu_state
from aqr_bench.cost.timing import interleaved, summary

SIDE = {"full": 8192, "tiny": 64}  # of the square matrices


def device_rows(settings: Settings, which: str, emit: Emit) -> None:
    """Facts one by one, as rows of ``what`` and ``value``; then products of matrices and a copy, timed."""
    for what, value in (_cuda_facts() if settings.device == "cuda" else {}).items():
        emit({"what": what, "value": value})
    side = SIDE[settings.size]
    for dtype in DTYPES:
        a = torch.randn(side, side, device=settings.device).to(getattr(torch, dtype))
        times = interleaved({"product": lambda a=a: a @ a, "copy": a.clone}, 2, settings.rounds)
        for name, timings in times.items():
            latency = summary(timings.wall_ms)
            rate = 2 * side**3 / 1e9 if name == "product" else 2 * a.numel() * a.element_size() / 1e6
            unit = "TFLOP/s" if name == "product" else "GB/s"
            value = f"{rate / latency['median']:.3g} {unit}"
            emit({"what": f"{name}, {side} x {side}, {dtype}", "value": value, "latency_ms": latency})


def _cuda_facts() -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info()
    triton = next((package.version for package in importlib.metadata.distributions(name="triton")), "none")
    return {
        "triton": triton,
        "cudnn": torch.backends.cudnn.version(),
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "memory, MB": round(total / 1e6),
        "free memory, MB": round(free / 1e6),
        "bfloat16": torch.cuda.is_bf16_supported(),
        "float32 matrix products": torch.get_float32_matmul_precision(),
        **{f"nvml {key}": value for key, value in gpu_state().items() if value is not None},
    }
