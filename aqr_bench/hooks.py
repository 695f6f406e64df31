"""Small mmengine hooks: seeds that survive a restart, a loss curve, a stop on divergence."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from aqr_bench.progress import duration
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


def with_rank_suffix(rank: int) -> tuple[int, ...]:
    """Last part of a seed in distributed training: empty for rank 0, which draws what a single process draws."""
    return (rank,) if rank else ()


class SeededBatchSampler:
    """Batch sampler over another one: each batch comes with its own seed, and the first ``skip`` are left out.

    The seed of batch k is (*parts, k, 0, *rank). ``parts`` and ``skip`` may be set anew before each pass. ``endless``:
    after the last batch comes the first one of the sampler's next epoch, so ``skip`` may exceed one pass.

    Its length is that of one pass, whatever is skipped and however many passes follow: mmengine's hooks and by-epoch
    schedules ask for it after every iteration, and a resumed training has to get the answer of an unbroken one.
    """

    def __init__(
        self, batches: Any, parts: tuple[int, ...], skip: int = 0, rank: int = 0, endless: bool = False
    ) -> None:
        self.batches, self.parts, self.skip, self.rank, self.endless = batches, parts, skip, rank, endless
        self.sampler = batches.sampler  # mmengine sets its epoch

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        for number, indices in enumerate(self._passes()):
            if number >= self.skip:
                yield (*self.parts, number, 0, *with_rank_suffix(self.rank)), indices

    def _passes(self) -> Iterator[list[int]]:
        for epoch in count():
            if epoch and hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            empty = True
            for indices in self.batches:
                empty = False
                yield indices
            if empty or not self.endless:
                return

    def __len__(self) -> int:
        return len(self.batches)


class SeededData:
    """Data set that seeds all generators before it loads a batch of ``SeededBatchSampler``.

    What a batch draws then depends neither on the process that loads it nor on what that process loaded before.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, batch: tuple[tuple[int, ...], list[int]]) -> list[Any]:
        seed, indices = batch
        seed_all(*seed)
        return [self.dataset[index] for index in indices]

    def __getattr__(self, name: str) -> Any:
        """Hooks look for the data set's own: its pipeline, its meta information."""
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


def seeded_loader(loader: DataLoader, sampler: SeededBatchSampler) -> DataLoader:
    """A loader like another one with the batches of ``sampler``, each loaded with its own seed."""
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = dict(persistent_workers=loader.persistent_workers, prefetch_factor=loader.prefetch_factor)
    return DataLoader(
        SeededData(loader.dataset),
        batch_sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        timeout=loader.timeout,
        **workers,
    )


class SkipFirst:
    """Iterator whose first ``skip`` values are None: batches that were trained on before the run was resumed."""

    def __init__(self, iterator: Iterator[Any], skip: int) -> None:
        self.iterator, self.skip = iterator, skip

    def __next__(self) -> Any:
        if self.skip:
            self.skip -= 1
            return None
        return next(self.iterator)


@HOOKS.register_module()
class SeedIterations(Hook):
    """Seed all generators from (seed, iteration), so that a resumed run equals an unbroken one.

    mmengine saves no generator state. Augmentation is seeded as the batch is loaded, by whichever worker process loads
    it; dropout and denoising noise as the iteration starts. Of several processes that train, each draws its own.
    """

    priority = "VERY_LOW"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def before_train(self, runner) -> None:
        loop = runner.train_loop
        loader = loop.dataloader
        if loader.num_workers:
            # Its workers have drawn from the endless sampler already, and it cannot be set back: another one.
            loop.dataloader_iterator = None
            config = {**runner.cfg.train_dataloader, "dataset": loader.dataset}
            apart = runner.cfg.get("randomness", {}).get("diff_rank_seed", False)
            loader = runner.build_dataloader(config, seed=runner.seed, diff_rank_seed=apart)
        sampler = SeededBatchSampler(loader.batch_sampler, (self.seed,), runner.iter, runner.rank, endless=True)
        loop.dataloader = seeded_loader(loader, sampler)
        # As it resumes, the loop asks for the batches that it has trained on before.
        loop.dataloader_iterator = SkipFirst(iter(loop.dataloader), runner.iter)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        seed_all(self.seed, runner.iter, 1, *with_rank_suffix(runner.rank))


@HOOKS.register_module()
class SeedEpochs(Hook):
    """Seed all generators from seed, epoch and iteration, so that a resumed run equals an unbroken one.

    For training by epochs, with worker processes or without, in one process or several. What a batch draws does not
    depend on the number of workers. Checkpoints may be written within an epoch (``by_epoch=False``): mmengine starts
    the epoch anew, and the batches that were trained on before are left out here.
    """

    priority = "VERY_LOW"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.sampler: SeededBatchSampler | None = None

    def before_train_epoch(self, runner) -> None:
        loop, parts = runner.train_loop, (self.seed, runner.epoch, runner.rank)
        if self.sampler is None:
            self.sampler = SeededBatchSampler(loop.dataloader.batch_sampler, parts)
            loop.dataloader = seeded_loader(loop.dataloader, self.sampler)
        self.sampler.parts = parts
        self.sampler.skip = runner.iter - runner.epoch * len(self.sampler)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        seed_all(self.seed, runner.iter, runner.rank, 1)


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
    """One line every so many iterations: iteration, losses (of the first process), seconds per iteration, time left."""

    priority = "LOW"

    def __init__(self, every: int = 50) -> None:
        self.every = every

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.rank:
            return
        if (runner.iter + 1) % self.every == 0 or runner.iter + 1 == runner.max_iters:
            timing = runner.message_hub.log_scalars.get("train/time")
            seconds = ""
            if timing is not None and len(timing.data[0]):
                each = float(timing.mean(self.every))
                left = each * (runner.max_iters - runner.iter - 1)
                seconds = f" {each:.2f} s/iter" + (f", about {duration(left)} left" if left else "")
            names = [name for name in runner.message_hub.log_scalars if "loss" in name]
            means = {n.partition("/")[2]: runner.message_hub.log_scalars[n].mean(self.every) for n in names}
            losses = " ".join(f"{name} {value:.2f}" for name, value in means.items())
            print(f"iter {runner.iter + 1}/{runner.max_iters} {losses}{seconds}", flush=True)
