"""One workflow at a time in a folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aqr_bench.cli.folder_lock import clear_stale_lock, only_workflow_in, workers_in
from aqr_bench.errors import UserError


def test_lock_is_held_by_one_and_freed(tmp_path):
    refused = pytest.raises(UserError, match="another run is at work")
    with only_workflow_in(tmp_path), refused, only_workflow_in(tmp_path):
        pytest.fail("two at once")
    with only_workflow_in(tmp_path):
        assert clear_stale_lock(tmp_path) is False
        (tmp_path / ".snakemake/locks").mkdir()
        (tmp_path / ".snakemake/locks/0.output.lock").touch()
        assert clear_stale_lock(tmp_path) and not (tmp_path / ".snakemake/locks").exists()


def test_a_job_left_running_is_noticed(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "-m", "aqr_bench", "train"], cwd=tmp_path
    )
    try:
        assert workers_in(tmp_path) == [(job.pid, "aqr-bench train")]
        with (
            pytest.raises(UserError, match=f"aqr-bench train as process {job.pid}"),
            only_workflow_in(tmp_path),
        ):
            pytest.fail("ran beside it")
    finally:
        job.kill()
        job.wait()
    assert workers_in(tmp_path) == []
