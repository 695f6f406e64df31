"""Hooks on a stand-in for the runner: GT sampling stops when it should, epochs draw the same, also after a restart."""

from __future__ import annotations

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import ObjectSample

from aqr_bench.engine.hooks import StopObjectSample
from aqr_bench.engine.seeding import SeededBatchSampler, SeededData, SeedEpochs, seeded_loader


class Sampler(ObjectSample):
    """Marks what passes unless it is switched off."""

    def __init__(self) -> None:
        self.disabled = False

    def transform(self, results: dict) -> dict:
        return {**results, "pasted": not self.disabled}


class Data(torch.utils.data.Dataset):
    def __init__(self, steps) -> None:
        self.pipeline = SimpleNamespace(transforms=steps)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        results = {"index": index}
        for step in self.pipeline.transforms:
            results = step.transform(results)
        return results


class Wrapped(torch.utils.data.Dataset):
    """As a class-balanced wrapper holds a data set."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.dataset[index]


def pasted(loader) -> set[bool]:
    return {bool(value) for batch in loader for value in batch["pasted"]}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("first_epoch", [0, 15, 17])
def test_sampling_stops_after_the_epoch_also_in_workers_and_after_a_restart(workers, first_epoch):
    loader = torch.utils.data.DataLoader(
        Wrapped(Data([Sampler()])), batch_size=2, num_workers=workers, persistent_workers=workers > 0
    )
    runner, hook = SimpleNamespace(train_dataloader=loader, epoch=0), StopObjectSample(after_epoch=15)
    for runner.epoch in [e for e in (0, 14, 15, 16, 19) if e >= first_epoch] or [first_epoch]:
        hook.before_train_epoch(runner)
        assert pasted(loader) == {runner.epoch < 15}, runner.epoch


def test_nothing_to_stop_is_an_error():
    loader = torch.utils.data.DataLoader(Data([]))
    with pytest.raises(ValueError, match="no ObjectSample"):
        StopObjectSample(after_epoch=1).before_train_epoch(SimpleNamespace(train_dataloader=loader, epoch=1))


class Noise(torch.utils.data.Dataset):
    """What a sample draws from all three generators."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.array([random.random(), np.random.rand(), float(torch.rand(1))])


def loader_of_noise(workers: int, **settings) -> torch.utils.data.DataLoader:
    settings = settings or dict(batch_size=2)
    return torch.utils.data.DataLoader(Noise(), num_workers=workers, persistent_workers=workers > 0, **settings)


def drawn(batches) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch in batches])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_draws_the_same_whatever_came_before_and_whoever_loads(workers):
    """And other numbers than the epochs before, also where workers live on, and on every process of several."""

    def epochs(count, numbers, rank=0):
        loop, hook = SimpleNamespace(dataloader=loader_of_noise(count)), SeedEpochs(seed=5)
        for number in numbers:
            hook.before_train_epoch(SimpleNamespace(train_loop=loop, epoch=number, rank=rank, iter=0))
            yield drawn(loop.dataloader)

    first, second = epochs(workers, [0, 1])
    np.random.seed(99)
    (alone,) = epochs(0, [1])
    (other,) = epochs(workers, [1], rank=1)
    assert np.array_equal(second, alone) and np.array_equal(first, next(epochs(0, [0])))
    assert not np.isin(first, second).any() and not np.isin(second, other).any()
    assert len(np.unique(first)) == first.size == 12


class EpochSampler(torch.utils.data.SequentialSampler):
    """Another order in every epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(index + self.epoch) % 4 for index in range(4)])


def test_batches_go_on_from_epoch_to_epoch_without_those_of_before():
    """Seeds count on, as in an unbroken training."""
    batches = torch.utils.data.BatchSampler(EpochSampler(range(4)), 2, False)
    numbered = SeededBatchSampler(batches, (7,), skip=1, endless=True)
    result = [batch for batch, _ in zip(numbered, range(4), strict=False)]
    assert result == [((7, 1, 0), [2, 3]), ((7, 2, 0), [1, 2]), ((7, 3, 0), [3, 0]), ((7, 4, 0), [2, 3])]
    assert [indices for _, indices in SeededBatchSampler(batches, (7,), endless=False)] == [[2, 3], [0, 1]]
    assert list(SeededBatchSampler(torch.utils.data.BatchSampler(range(1), 2, True), (7,), endless=True)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_what_the_process_itself_draws(workers):
    def first_three(count):
        loader = loader_of_noise(count)
        numbered = SeededBatchSampler(loader.batch_sampler, (5,), skip=0, endless=True)
        return drawn(batch for batch, _ in zip(seeded_loader(loader, numbered), range(3), strict=False))

    assert np.array_equal(first_three(workers), first_three(0)) and len(np.unique(first_three(0))) == 18


def test_a_seeded_data_set_shows_what_it_wraps():
    data = SeededData(Data([Sampler()]))
    assert data.pipeline is data.dataset.pipeline and len(pickle.loads(pickle.dumps(data))) == 4
    assert not hasattr(data, "metainfo") and not hasattr(data, "__getitem__")
