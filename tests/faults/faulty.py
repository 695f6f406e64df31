"""Run a step with a fault built in: python faulty.py (--nan-at K | --kill-worker-at K) MODULE ARGUMENTS."""

from __future__ import annotations

import argparse
import itertools
import os
import runpy
import signal
import sys


def nan_from(step: int) -> None:
    """From the ``step``-th loss on, every loss is NaN."""
    from mmengine.model import BaseModel

    original, steps = BaseModel.parse_losses, itertools.count(1)

    def parse_losses(self, losses):
        total, logged = original(self, losses)
        if next(steps) < step:
            return total, logged
        return total * float("nan"), {**logged, "loss": total * float("nan")}

    BaseModel.parse_losses = parse_losses


def kill_worker_at(batch: int) -> None:
    """Before the ``batch``-th batch that comes from worker processes, the first of them is killed; once."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Batches

    original, batches = Batches._next_data, itertools.count(1)

    def next_data(self):
        if next(batches) == batch:
            print("fault: a worker process is killed", flush=True)
            os.kill(self._workers[0].pid, signal.SIGKILL)
        return original(self)

    Batches._next_data = next_data


def main() -> None:
    """Build the fault in, then run the module as ``python -m`` would."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--nan-at", type=int, metavar="K")
    which.add_argument("--kill-worker-at", type=int, metavar="K")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    nan_from(args.nan_at) if args.nan_at else kill_worker_at(args.kill_worker_at)
    sys.argv = [args.module, *args.arguments]
    runpy.run_module(args.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
