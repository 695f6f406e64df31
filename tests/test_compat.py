"""What compat.prepare sets for every model, and worker processes: a killed one is reported, none is left behind."""

from __future__ import annotations

import logging
import os
import signal

import pytest
import torch
from mmengine.logging import MMLogger, print_log
from torch.utils import checkpoint

from aqr_bench import compat
from aqr_bench.compat import spawn_pool
from aqr_bench.errors import UserError


def test_checkpointing_is_non_reentrant_unless_a_model_asks_for_the_other(monkeypatch):
    reentrant, apply = [], checkpoint.CheckpointFunction.apply

    def counted(*args):
        reentrant.append(args)
        return apply(*args)

    monkeypatch.setattr(checkpoint.CheckpointFunction, "apply", counted)
    layer, x = torch.nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), x)
    for options in ({}, {"use_reentrant": False}):
        out = checkpoint.checkpoint(layer, x, **options)
        assert torch.equal(torch.autograd.grad(out.square().sum(), x)[0], expected[0]) and not reentrant
    checkpoint.checkpoint(layer, x, use_reentrant=True)
    assert len(reentrant) == 1


def test_preparing_again_wraps_nothing_twice():
    before = checkpoint.checkpoint
    compat.prepare()
    assert checkpoint.checkpoint is before


def test_what_mmengine_logs_is_no_output_of_a_command(capsys):
    """mmdet3d writes a table of the classes for every data set that it opens."""
    compat.prepare()
    print_log("The number of instances per category", "current")
    print_log("v1.0-mini is not a meta file, simply parsed as meta information", "current", logging.WARNING)
    print_log("a file is damaged", MMLogger.get_instance("mmengine"), logging.WARNING)
    out, err = capsys.readouterr()
    assert not out and "a file is damaged" in err and "meta file" not in err and "instances" not in err


def test_a_killed_worker_is_reported():
    killed = pytest.raises(UserError, match=r"worker process was killed.*fewer --workers; finished scenes are kept")
    with killed, spawn_pool(1, note="; finished scenes are kept") as pool:
        worker = pool.submit(os.getpid).result()
        pool.submit(os.kill, worker, signal.SIGKILL).result()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
