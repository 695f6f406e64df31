"""make setup CUDA=...: which commands it gives pip, and what it says on a machine with an NVIDIA driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aqr_bench.cli import cuda_builds
from aqr_bench.cli.cuda_builds import Driver, advise, find_driver, hint, spconv_build

ROOT = Path(__file__).resolve().parents[2]
# Writes its arguments and the requirements that it is given; `freeze` and `check` answer as the files say.
PIP = """#!/bin/sh
echo "$@" >> calls
case "$1" in freeze) cat installed 2>/dev/null;; check) cat complaints 2>/dev/null; test ! -s complaints;; esac
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A checkout with what set-up reads, a pip that only notes what it is told, and an environment without anything."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "aqr_bench" / "cli").mkdir(parents=True)
    shutil.copy(ROOT / "aqr_bench/cli/cuda_builds.py", tmp_path / "aqr_bench/cli")
    (tmp_path / "pip").write_text(PIP)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "pip").chmod(0o755)
    return tmp_path


def make(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, **environment}
    command = ["make", "--no-print-directory", *arguments, f"PYTHON={sys.executable}", "PIP=./pip"]
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)


def calls(place: Path) -> list[str]:
    """What pip was told since the last call."""
    file = place / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def pretend_driver(place: Path, answer: str) -> str:
    """A PATH with an nvidia-smi first."""
    folder = place / "driver"
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{answer}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def pins(place: Path) -> list[str]:
    return [
        line for line in (place / ".venv/requirements.lock").read_text().splitlines() if line[:4] in ("spco", "cumm")
    ]


def test_cuda_installs_torch_and_spconv_for_it_and_stays_with_them(place):
    (place / "complaints").write_text("aqr-bench 0.1.0 requires spconv, which is not installed.\n")
    done = make(place, "setup", "CUDA=cu126")
    assert done.returncode == 0, done.stderr
    message = calls(place)
    assert "install --quiet torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" in message
    assert "install --quiet --no-deps -r .venv/requirements.lock" in message
    assert pins(place) == ["cumm-cu126==0.7.11", "spconv-cu126==2.3.8"]
    assert len((place / ".venv/requirements.lock").read_text().splitlines()) == len(
        (place / "requirements.lock").read_text().splitlines()
    )
    # Later calls, which do not name it, change nothing, also when the lock has changed.
    assert make(place, "setup").returncode == 0 and calls(place) == []
    os.utime(place / "requirements.lock", (2e9, 2e9))
    assert make(place, "setup", CUDA="/usr/local/cuda").returncode == 0
    assert "install --quiet torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" in calls(place)
    assert pins(place) == ["cumm-cu126==0.7.11", "spconv-cu126==2.3.8"]


def test_another_build_is_exchanged_for_the_one_that_is_there(place):
    (place / ".venv" / ".ready").write_text("")
    (place / "installed").write_text("cumm==0.7.11\nnumpy==1.26.4\nspconv==2.3.8\ntorch==2.13.0\ntorchvision==0.1\n")
    done = make(place, "setup", "CUDA=cu130")
    assert done.returncode == 0, done.stderr
    message = calls(place)
    assert message.index("uninstall --quiet --yes cumm spconv torch") < message.index(
        "install --quiet torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
    )
    assert pins(place) == ["cumm-cu126==0.7.11", "spconv-cu126==2.3.8"]  # the newest that there is
    assert make(place, "setup", "CUDA=cpu").returncode == 0
    assert "install --quiet torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" in calls(place)
    assert pins(place) == ["cumm==0.7.11", "spconv==2.3.8"]


def test_without_cuda_the_default_builds_are_installed_and_every_complaint_of_pip_counts(place):
    assert make(place, "setup").returncode == 0
    message = calls(place)
    assert "install --quiet torch==2.13.0" in [line.strip() for line in message]
    assert not any("uninstall" in line or "index" in line for line in message)
    assert pins(place) == ["cumm==0.7.11", "spconv==2.3.8"]
    (place / ".venv" / ".ready").unlink()
    (place / "complaints").write_text("aqr-bench 0.1.0 requires spconv, which is not installed.\n")
    done = make(place, "setup")
    assert done.returncode != 0 and "requires spconv" in done.stdout and not (place / ".venv" / ".ready").exists()


def test_other_complaints_count_with_cuda_too(place):
    text = (
        "aqr-bench 0.1.0 requires spconv, which is not installed.\nmmdet 3.3.0 has requirement scipy, but it is not.\n"
    )
    (place / "complaints").write_text(text)
    done = make(place, "setup", "CUDA=cu126")
    assert done.returncode != 0 and "requires spconv" not in done.stdout and "mmdet 3.3.0" in done.stdout


@pytest.mark.parametrize("cuda", ["126", "cu12", "cu113", "gpu"])
def test_a_cuda_that_there_is_no_build_for_is_refused(place, cuda):
    done = make(place, "setup", f"CUDA={cuda}")
    assert done.returncode != 0 and f"error: CUDA={cuda}: " in done.stderr and calls(place) == []


def test_set_up_with_a_driver_says_how_to_get_the_cuda_builds(place):
    path = pretend_driver(place, "550.54.15, 8.0")
    assert "make clean setup CUDA=cu126" in make(place, "setup", PATH=path).stdout
    again = make(place, "setup", PATH=path)
    assert "NVIDIA driver 550.54.15" in again.stdout and "make clean setup CUDA=cu126" in again.stdout
    assert "note:" not in make(place, "setup", "CUDA=cu126", PATH=path).stdout


@pytest.mark.parametrize(
    ("version", "capabilities", "command", "note"),
    [
        ("550.54.15", (8.0,), "make clean setup CUDA=cu126", ""),
        ("580.95", (9.0, 9.0), "make clean setup CUDA=cu126", ""),
        ("525.60.13", (), "make clean setup CUDA=cu126", ""),
        ("470.82", (8.0,), None, "CUDA 12.6 needs driver 525 or newer"),
        ("580.95", (12.0,), "make clean setup CUDA=cu130", "PTX"),
        ("570.10", (10.0,), None, "CUDA 13.0 needs driver 580 or newer"),
    ],
)
def test_the_build_fits_driver_and_card(version, capabilities, command, note):
    advice = advise(Driver(version, capabilities))
    assert advice.command == command and note in advice.note
    output = hint(Driver(version, capabilities), "")
    assert (command or note) in output and hint(Driver(version, capabilities), "cu126") is None
    assert hint(None, "") is None


def test_the_driver_is_asked_of_nvidia_smi_and_else_of_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", pretend_driver(tmp_path, "550.54.15, 8.0\n550.54.15, 9.0"))
    assert find_driver() == Driver("550.54.15", (8.0, 9.0))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(cuda_builds, "PROC", tmp_path / "version")
    assert find_driver() is None
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 2024\nGCC version: 12.2.0\n"
    (tmp_path / "version").write_text(text)
    assert find_driver() == Driver("535.183.01")


def test_spconv_s_build_is_the_newest_that_is_no_newer_than_torch_s():
    assert [spconv_build(cuda) for cuda in ("cu118", "cu124", "cu126", "cu128", "cu130")] == [
        "cu118",
        "cu124",
        "cu126",
        "cu126",
        "cu126",
    ]
