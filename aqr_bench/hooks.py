"""Small mmengine hooks: seeds that survive a restart, a loss curve, a stop on divergence."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from aqr_bench.whole import write_text

CURVE_EVERY = 10
OPEN_POINT = "loss_curve_open_point"


class DivergedError(FloatingPointError):
    """The loss is no longer finite."""


def seed_all(*parts: int) -> None:
    """Seed random, numpy and torch from a tuple of numbers."""
    state = np.random.SeedSequence(parts).generate_state(2)
    random.seed(int(state[0]))
    np.random.seed(int(state[0]))
    torch.manual_seed(int(state[1]))


def of_rank(rank: int) -> tuple[int, ...]:
    """What tells the seeds of several processes apart; nothing for the first, whose seeds are those of a single one."""
    return (rank,) if rank else ()


class SeededBatches:
    """Iterator over batches that seeds all generators before each: batch k is the same in every run.

    The first ``skip`` batches, those trained on before a restart, are not loaded: only their indices are drawn.
    """

    def __init__(self, iterator: Any, seed: int, skip: int, rank: int = 0) -> None:
        self.iterator, self.seed, self.skip, self.count, self.rank = iterator, seed, skip, 0, rank

    def __next__(self) -> Any:
        index, self.count = self.count, self.count + 1
        if index < self.skip:
            # mmengine's endless iterator around torch's; without workers, drawing the indices is all that moves it on.
            return self.iterator._iterator._next_index()
        seed_all(self.seed, index, 0, *of_rank(self.rank))
        return next(self.iterator)


@HOOKS.register_module()
class SeedIterations(Hook):
    """Seed all generators from (seed, iteration), so that a resumed run equals an unbroken one.

    mmengine saves no generator state. Augmentation is seeded as the batch is loaded, dropout and denoising noise as
    the iteration starts. Of several processes each draws its own.

    Raises:
        ValueError: the training loader has worker processes, whose generators this does not reach.
    """

    priority = "VERY_LOW"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def before_train(self, runner) -> None:
        loop = runner.train_loop
        if loop.dataloader.num_workers:
            raise ValueError("SeedIterations needs train_dataloader.num_workers=0")
        loop.dataloader_iterator = SeededBatches(loop.dataloader_iterator, self.seed, runner.iter, runner.rank)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        seed_all(self.seed, runner.iter, 1, *of_rank(runner.rank))


@HOOKS.register_module()
class SeedEpochs(Hook):
    """Seed all generators from seed, epoch and iteration: a run resumed after an epoch equals an unbroken one.

    For training by epochs, with worker processes or without, in one process or several. Workers start anew every epoch:
    those that live on would go on with generators that a resumed run cannot have, and those that mmengine starts anew
    would draw the same augmentation in every epoch.
    """

    priority = "VERY_LOW"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def before_train_epoch(self, runner) -> None:
        loader, parts = runner.train_dataloader, (self.seed, runner.epoch, runner.rank)
        if loader.num_workers:
            loader._iterator = None
            loader.worker_init_fn = partial(_seed_worker, parts)
        seed_all(*parts, 0)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        seed_all(self.seed, runner.iter, runner.rank, 1)


def _seed_worker(parts: tuple[int, ...], worker: int) -> None:
    seed_all(*parts, 2, worker)


@HOOKS.register_module()
class LossCurve(Hook):
    """Keep [iteration, mean loss] pairs, also over a restart, and raise DivergedError on a loss that is not finite.

    Of several processes the loss is the mean over them, so that all of them stop at the same iteration; the first one
    writes the file.
    """

    priority = "NORMAL"

    def __init__(self, every: int = CURVE_EVERY) -> None:
        self.every = every
        self.points: list[list[float]] = []
        self._sum, self._count = 0.0, 0

    def _path(self, runner) -> Path:
        return Path(runner.work_dir) / "curve.json"

    def before_train(self, runner) -> None:
        if not runner.iter:
            return
        if self._path(runner).is_file():
            self.points = [p for p in json.loads(self._path(runner).read_text()) if p[0] <= runner.iter]
        # Of the point that was open when the checkpoint was written; the message hub is part of it.
        self._sum, self._count = runner.message_hub.get_info(OPEN_POINT, (0.0, 0))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        mean = outputs["loss"].detach().clone()
        all_reduce(mean, op="mean")  # in place; nothing to do for one process
        loss = float(mean)
        if not np.isfinite(loss):
            raise DivergedError(f"loss is {loss} at iteration {runner.iter + 1}")
        self._sum, self._count = self._sum + loss, self._count + 1
        if (runner.iter + 1) % self.every == 0 or runner.iter + 1 == runner.max_iters:
            self.points.append([runner.iter + 1, self._sum / self._count])
            self._sum, self._count = 0.0, 0
            if runner.rank == 0:
                write_text(self._path(runner), json.dumps(self.points))
        runner.message_hub.update_info(OPEN_POINT, [self._sum, self._count])


@HOOKS.register_module()
class StopObjectSample(Hook):
    """Switch GT sampling off after so many epochs, also in a run that was resumed later than that.

    mmdet3d's DisableObjectSampleHook acts at the very start of one epoch only: resumed after it, a training goes on
    with objects pasted in. Without the switch CMT's r50 config was seen to reach 65.0 mAP instead of 67.9.

    Args:
        after_epoch: the last epoch with pasted objects.

    Raises:
        ValueError: the training pipeline has nothing to switch off.
    """

    priority = "NORMAL"

    def __init__(self, after_epoch: int = 15) -> None:
        self.after_epoch, self._done = after_epoch, False

    def before_train_epoch(self, runner) -> None:
        from mmdet3d.datasets.transforms import ObjectSample

        if self._done or runner.epoch < self.after_epoch:
            return
        loader = runner.train_dataloader
        dataset = loader.dataset
        while not hasattr(dataset, "pipeline"):
            dataset = dataset.dataset
        samplers = [step for step in dataset.pipeline.transforms if isinstance(step, ObjectSample)]
        if not samplers:
            raise ValueError("StopObjectSample: the training pipeline has no ObjectSample to switch off")
        for step in samplers:
            step.disabled = True
        # Workers that live on hold a copy of the old pipeline: the next pass over the loader starts new ones.
        loader._iterator = None
        self._done = True


@HOOKS.register_module()
class Progress(Hook):
    """One line every so many iterations: iteration, the losses (of the first process), seconds per iteration."""

    priority = "LOW"

    def __init__(self, every: int = 50) -> None:
        self.every = every

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.rank:
            return
        if (runner.iter + 1) % self.every == 0 or runner.iter + 1 == runner.max_iters:
            timing = runner.message_hub.log_scalars.get("train/time")
            seconds = f" {timing.mean(self.every):.2f} s/iter" if timing is not None and timing.data else ""
            names = [name for name in runner.message_hub.log_scalars if "loss" in name]
            means = {n.partition("/")[2]: runner.message_hub.log_scalars[n].mean(self.every) for n in names}
            losses = " ".join(f"{name} {value:.2f}" for name, value in means.items())
            print(f"iter {runner.iter + 1}/{runner.max_iters} {losses}{seconds}", flush=True)
