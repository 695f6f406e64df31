"""Counts the cases of the fuzz tests; mmengine and matplotlib log errors alone."""

import logging

import fuzz_cases
import pytest


@pytest.fixture(scope="session", autouse=True)
def _fuzz_budget(request):
    fuzz_cases.budget(request.config.getoption("--fuzz-cases"))


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    """mmengine and matplotlib log what they do."""
    for name in ("mmengine", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def pytest_terminal_summary(terminalreporter):
    """What was really run, as a table: results/fuzz/counts.md keeps one."""
    for line in fuzz_cases.table():
        terminalreporter.write_line(line)
