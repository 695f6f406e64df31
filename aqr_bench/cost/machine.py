"""State of the machine during a measurement: clocks, load, and NVML's facts on the GPU."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
NVML_PACKAGE = "nvidia-ml-py"


def clocks() -> dict[str, Any]:
    """Frequency governor and present clock of the CPU, load of the last minute, and the GPU's clocks where it has any.

    None: not available on this system, as in most virtual machines.
    """
    import psutil

    frequency = psutil.cpu_freq()
    return {
        "cpu_governor": GOVERNOR.read_text(encoding="utf-8").strip() if GOVERNOR.is_file() else None,
        "cpu_mhz": round(frequency.current, 1) if frequency else None,
        "load_1min": round(os.getloadavg()[0], 2),
        "gpu": gpu_state(),
    }


def gpu_state() -> dict[str, Any]:
    """NVML's facts on the first GPU: clocks, memory, power, temperature; ``nvml``: ok, or why there are none."""
    import torch

    if not torch.cuda.is_available():
        return {"nvml": "no GPU"}
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return {"nvml": f"not installed (pip install {NVML_PACKAGE})"}
    try:
        nvml.nvmlInit()
        # By UUID: NVML counts all GPUs of the machine, torch those that it may see.
        device = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        processes = [p for p in nvml.nvmlDeviceGetComputeRunningProcesses(device) if p.pid == os.getpid()]
        return {
            "nvml": "ok",
            "sm_mhz": nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            "memory_mhz": nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
            "power_w": nvml.nvmlDeviceGetPowerUsage(device) / 1000,
            "temperature_c": nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            "used_mb": memory.used / 2**20,
            # None inside most containers, where NVML does not see the process by its number.
            "process_mb": processes[0].usedGpuMemory / 2**20 if processes and processes[0].usedGpuMemory else None,
        }
    except Exception as error:  # of NVML; the measurement does not depend on it
        return {"nvml": f"{type(error).__name__}: {error}"}
