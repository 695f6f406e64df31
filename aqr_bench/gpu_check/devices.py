"""Devices and versions: what the numbers belong to, and how fast this device multiplies and copies at all."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aqr_bench.cost.machine import gpu_state
from aqr_bench.cost.timing import in_turns, summary
from aqr_bench.gpu_check.settings import Settings
from aqr_bench.gpu_check.wheels import missing

SHOWN = ("numpy", "triton", "scipy", "mmengine", "mmcv", "mmcv-lite", "mmdet", "mmdet3d", "nvidia-ml-py")
SIDE = {"full": 8192, "small": 1024, "tiny": 64}  # of the square matrices


def machine(device: str) -> dict[str, Any]:
    """What the numbers belong to."""
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "platform": platform.platform()}
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {**facts, "cpu": f"{names[0]} x {len(names)}" if names else platform.processor()}


def device_rows(settings: Settings, emit: Callable[[dict[str, Any]], None]) -> None:
    """Facts one by one, as rows of ``what`` and ``value``; then products of matrices and a copy, timed."""
    facts = {"python": platform.python_version(), **machine(settings.device), "cores": os.cpu_count()}
    for name in SHOWN:
        facts[name] = _version(name)
    facts["missing wheels"] = " ".join(missing()) or "none"
    facts["spconv"] = "installed" if importlib.util.find_spec("spconv") else "not installed"
    if settings.device == "cuda":
        facts.update(_cuda_facts())
    for what, value in facts.items():
        if value is not None:
            emit({"what": what, "value": value})
    _speeds(settings, emit)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_facts() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "GPUs": torch.cuda.device_count(),
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "multiprocessors": properties.multi_processor_count,
        "memory, MB": round(total / 1e6),
        "free memory, MB": round(free / 1e6),
        "bfloat16": torch.cuda.is_bf16_supported(),
        "float32 matrix products": torch.get_float32_matmul_precision(),
        **{f"nvml {key}": value for key, value in gpu_state().items()},
    }


def _speeds(settings: Settings, emit: Callable[[dict[str, Any]], None]) -> None:
    side = SIDE[settings.size]
    for dtype in settings.parity_dtypes:
        a = torch.randn(side, side, device=settings.device).to(getattr(torch, dtype))
        times = in_turns({"product": lambda a=a: a @ a, "copy": a.clone}, 2, settings.rounds)
        for name, own in times.items():
            latency = summary(own.wall_ms)
            rate = 2 * side**3 / 1e9 if name == "product" else 2 * a.numel() * a.element_size() / 1e6
            unit = "TFLOP/s" if name == "product" else "GB/s"
            value = f"{rate / latency['median']:.3g} {unit}"
            emit({"what": f"{name}, {side} x {side}, {dtype}", "value": value, "latency_ms": latency})
