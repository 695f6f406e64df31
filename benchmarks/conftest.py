"""Options, cases and the calibrated clock of the benchmarks."""

from __future__ import annotations

import math
import statistics
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from calibration import seconds

from aqr_bench import compat

compat.prepare()  # before any module imports mmdet3d

from aqr_bench.cost.gpu_check.attention_cases import make_case  # noqa: E402

SHORTEST_S = 0.01  # what is shorter is called several times a round
BUDGET_S = 0.6
ROUNDS = 7, 40


def pytest_addoption(parser):
    parser.addoption("--size", default="note", help="a size of attention_cases.SIZES")
    parser.addoption("--windows", default="5/5", help="BEV/camera window in cells")


@pytest.fixture(scope="session")
def case(request):
    windows = request.config.getoption("--windows").split("/")
    return make_case(request.config.getoption("--size"), *map(int, windows))


@pytest.fixture
def timed(benchmark):
    """Call a function in rounds, each right after the calibration kernel; returns what it returned last.

    CPU time of one thread. ``multiple``, the median of round over kernel, goes into the results (regression.py).
    """
    compat.use_threads(1)

    def call(function):
        seconds(), function()  # compiles, fills caches
        start = time.process_time()
        function()
        once = max(time.process_time() - start, 1e-6)
        calls, kernels = max(1, math.ceil(SHORTEST_S / once)), []
        rounds = min(max(round(BUDGET_S / (once * calls)), ROUNDS[0]), ROUNDS[1])

        def several():
            for _ in range(calls - 1):
                function()
            return function()

        result = benchmark.pedantic(several, setup=lambda: kernels.append(seconds()), rounds=rounds)
        if benchmark.enabled:
            ratios = [a / b for a, b in zip(benchmark.stats.stats.data, kernels, strict=True)]
            benchmark.extra_info.update(
                calls=calls, calibration_s=statistics.median(kernels), multiple=statistics.median(ratios) / calls
            )
        return result

    return call
