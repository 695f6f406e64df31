"""Hooks on a stand-in for the runner: GT sampling stops when it should, epochs draw the same, also after a restart."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import ObjectSample

from aqr_bench.hooks import SeedEpochs, StopObjectSample


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


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_draws_the_same_whatever_came_before(workers):
    """And other numbers than the epochs before, also where workers live on, and on every process of several."""

    def epoch(loader, number, rank=0):
        runner = SimpleNamespace(train_dataloader=loader, epoch=number, rank=rank, iter=0)
        SeedEpochs(seed=5).before_train_epoch(runner)
        return np.concatenate([batch.numpy() for batch in loader])

    def fresh():
        return torch.utils.data.DataLoader(Noise(), 2, num_workers=workers, persistent_workers=workers > 0)

    loader = fresh()
    first, second = epoch(loader, 0), epoch(loader, 1)
    np.random.seed(99)
    assert np.array_equal(second, epoch(fresh(), 1)) and np.array_equal(first, epoch(fresh(), 0))
    assert not np.isin(first, second).any() and not np.isin(second, epoch(fresh(), 1, rank=1)).any()
    assert len(np.unique(first)) == first.size
