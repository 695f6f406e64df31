"""Options and cases of the attention pieces."""

from __future__ import annotations

import pytest

from aqr_bench.gpu_check.attention_cases import make_case


def pytest_addoption(parser):
    parser.addoption("--size", default="note", help="a size of attention_cases.SIZES")
    parser.addoption("--windows", default="5/5", help="BEV/camera window in cells")


@pytest.fixture(scope="session")
def case(request):
    windows = request.config.getoption("--windows").split("/")
    return make_case(request.config.getoption("--size"), *map(int, windows))
