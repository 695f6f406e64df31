"""Worker processes: one that is killed is reported, and none is left behind."""

from __future__ import annotations

import os
import signal

import pytest

from aqr_bench.errors import UserError
from aqr_bench.runtime import spawn_pool


def test_a_killed_worker_is_reported():
    killed = pytest.raises(UserError, match=r"worker process was killed.*fewer --workers; finished scenes are kept")
    with killed, spawn_pool(1, note="; finished scenes are kept") as pool:
        worker = pool.submit(os.getpid).result()
        pool.submit(os.kill, worker, signal.SIGKILL).result()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
