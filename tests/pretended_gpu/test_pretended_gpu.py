"""The pretended GPU itself; the baseline of host waits; what a machine without a compiler is told."""

from __future__ import annotations

import subprocess
import sys

import pretended_cuda.guard as guard
import pytest
from device_cases import DEVICE
from host_waits import compared

RUNNER = "run_device.py"


@pytest.mark.parametrize("case", DEVICE)
def test_it(case, results):
    results.facts(case)


def test_without_a_compiler_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(guard.shutil, "which", lambda name: None)
    assert "C++ compiler" in guard.unavailable()


def test_a_process_without_torch_pays_nothing(pretended):
    code = "import sys; print('torch' in sys.modules, 'pretended_cuda' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=pretended(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_refusals_that_the_program_catches_are_left_as_events(pretended, tmp_path):
    code = "import torch\ntry: torch.ones(2) + torch.ones(2, device='cuda')\nexcept RuntimeError: pass"
    subprocess.run([sys.executable, "-c", code], env=pretended(tmp_path / "events"), check=True)
    (file,) = (tmp_path / "events").iterdir()
    assert "aten.add.Tensor" in file.read_text()


def test_more_and_fewer_host_waits_are_reported():
    def counts(waits: int) -> dict:
        places = {"bias/cells.py _part: item": waits}
        lines = [f"{waits} item at bias/cells.py:82 (_part)"]
        return {"training": {"waits": places, "uploads": {}, "lines": lines}}

    baseline = {"head": {"training": {"waits": {"bias/cells.py _part: item": 3}, "uploads": {}}}}
    assert compared("head", counts(3), baseline) is None
    more, fewer = (compared("head", counts(n), baseline) for n in (4, 2))
    assert "head, training: 4 waits, 3 in host_waits.json (more" in more and "3 -> 4  bias/cells.py _part: item" in more
    assert "cells.py:82" in more and "host_waits.py" in more and "fewer" in fewer
    assert "no model 'other'" in compared("other", counts(3), baseline)
