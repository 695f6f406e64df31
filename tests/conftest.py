"""Shared test set-up: the mmcv guard, one thread, --slow, and the reference folder beside the checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

from aqr_bench import compat

compat.prepare()  # before any test module imports mmdet3d

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--fuzz-cases", type=int, help="so many cases in tests/fuzz, in all (default: 370)")


# Where pytest-xdist hands out whole files, one that takes minutes and starts last keeps everyone waiting.
LONGEST_FIRST = (
    *("end_to_end/test_smoke.py", "workflow/test_workflow.py", "workflow/test_freshness.py"),
    *("workflow/test_failures.py", "workflow/test_targets.py", "workflow/test_gpus.py"),
    *("pretended_gpu/test_models.py", "engine/test_resumed_training.py", "engine/test_distributed.py"),
)


def pytest_collection_modifyitems(config, items):
    ranks = {ROOT / "tests" / file: rank for rank, file in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    compat.use_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _shared_files(tmp_path_factory):
    """Worlds and checkouts that several tests use are written once, also where pytest-xdist shares the files out."""
    import shared_files

    folder = tmp_path_factory.getbasetemp()
    shared_files.share_in(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project folder, which is the working directory; it is on the path of imports for this test alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material beside the checkout (golden numbers, one real keyframe)."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("reference folder ../shared is not here")
    return folder


@pytest.fixture(scope="session")
def keyframe(shared) -> Path:
    """A folder with one real nuScenes keyframe and its info file."""
    folder = shared / "data" / "nuscenes_sample"
    if not folder.is_dir():
        pytest.skip("the real keyframe ../shared/data/nuscenes_sample is not here")
    return folder
