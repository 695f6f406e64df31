"""Starts the processes that have the pretended GPU, one for all selected cases of a test module."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pretended_cuda import environment, unavailable  # imports no torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

PATIENCE_S = 1800  # a process that hangs is ended; no test passes or fails by less


@pytest.fixture(scope="session")
def pretended() -> Callable[..., dict[str, str]]:
    """``environment`` of the pretended GPU for this checkout; skips where it cannot be built."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    return lambda events=None: environment(ROOT, events)


@dataclass(frozen=True)
class Results:
    """What the cases of one process reported; ``output``: the end of what it printed."""

    cases: dict[str, dict[str, Any]]
    output: str

    def facts(self, name: str) -> dict[str, Any]:
        """Facts of a case; fails the test with the case's error."""
        if name not in self.cases:
            pytest.fail(f"the process ended before case '{name}':\n{self.output}", pytrace=False)
        if self.cases[name]["error"]:
            pytest.fail(self.cases[name]["error"], pytrace=False)
        return self.cases[name]["facts"]


@pytest.fixture(scope="module")
def results(request, pretended, tmp_path_factory) -> Results:
    """Runs the module's RUNNER with the cases that are selected: the parameter ``case`` of its tests."""
    with_case = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = list(dict.fromkeys(i.callspec.params["case"] for i in with_case if "case" in i.callspec.params and runs(i)))
    out = tmp_path_factory.mktemp("cases") / "results.json"
    command = [sys.executable, str(HERE / request.module.RUNNER), str(out), *names]
    done = subprocess.run(command, env=pretended(), cwd=out.parent, capture_output=True, text=True, timeout=PATIENCE_S)
    cases = json.loads(out.read_text()) if out.is_file() else {}
    return Results(cases, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def runs(item: pytest.Item) -> bool:
    """Whether a selected test is not skipped as a slow one."""
    return not any(mark.name == "skip" for mark in item.iter_markers())
