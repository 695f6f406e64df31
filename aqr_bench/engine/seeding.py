"""Seeds of data and iterations that depend neither on workers nor on restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader


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
