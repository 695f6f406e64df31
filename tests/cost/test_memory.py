"""Peak memory of a block: what it held for a moment counts, what was held before does not."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aqr_bench.cost import machine, memory
from aqr_bench.cost.machine import clocks, gpu_state
from aqr_bench.cost.memory import OF_THE_PROCESS, OF_THIS_PART, PeakMemory

BLOCK_MB = 200


def hold():
    np.ones(BLOCK_MB * 2**20, dtype=np.uint8).sum()


def test_a_block_knows_its_own_peak_and_forgets_the_one_before():
    with PeakMemory() as first:
        hold()
    with PeakMemory() as second:
        pass
    if first.facts["rss_peak_is"] != OF_THIS_PART:
        pytest.skip("this system does not let a process forget its peak")
    assert first.facts["rss_peak_mb"] - first.facts["rss_before_mb"] > 0.9 * BLOCK_MB
    assert second.facts["rss_peak_mb"] < first.facts["rss_peak_mb"] - 0.5 * BLOCK_MB
    assert first.facts["torch_allocated_mb"] is None or torch.cuda.is_available()


def test_where_peaks_cannot_be_forgotten_the_record_says_so(monkeypatch):
    monkeypatch.setattr(memory, "RESET", Path("/nowhere/clear_refs"))
    with PeakMemory() as result:
        pass
    assert result.facts["rss_peak_is"] == OF_THE_PROCESS and result.facts["rss_peak_mb"] > 0


def test_clocks_say_what_this_system_knows():
    result = clocks()
    assert set(result) == {"cpu_governor", "cpu_mhz", "load_1min", "gpu"} and result["load_1min"] >= 0


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1234"))


def test_a_gpu_without_the_package_says_how_to_get_it(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_state() == {"nvml": "not installed (pip install nvidia-ml-py)"}


def test_what_nvml_says(gpu, monkeypatch):
    own = SimpleNamespace(pid=machine.os.getpid(), usedGpuMemory=3 * 2**20)
    asked = []
    nvml = SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or "device",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=5 * 2**20),
        nvmlDeviceGetComputeRunningProcesses=lambda device: [own],
        nvmlDeviceGetClockInfo=lambda device, which: 1000 * which,
        nvmlDeviceGetPowerUsage=lambda device: 250_000,
        nvmlDeviceGetTemperature=lambda device, which: 40,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    result = gpu_state()
    assert asked == ["GPU-1234"] and result["nvml"] == "ok"
    assert (result["sm_mhz"], result["memory_mhz"], result["power_w"]) == (1000, 2000, 250.0)
    assert (result["used_mb"], result["process_mb"]) == (5.0, 3.0)


def test_an_error_of_nvml_is_named_and_does_no_harm(gpu, monkeypatch):
    def fail():
        raise RuntimeError("driver not loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=fail))
    assert gpu_state() == {"nvml": "RuntimeError: driver not loaded"}
