"""The untrained model of a variant with a few real samples, and steps that run the next batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from aqr_bench.engine.loader import build_loader
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.spec import Condition

SCOPE = (
    "preprocessing, voxelisation, backbones, head (router and decoder) and box decoding; loading the files is left out"
)
SCOPE_WITHOUT = "the same without voxelisation, which is done beforehand"
BATCHES = 4  # in a cycle


@dataclass
class LoadedSamples:
    """Samples of a data loader with its collate function; loaders with equal samples have one ``identity``."""

    items: list[Any]
    collate: Callable[[list[Any]], Any]
    identity: str

    def batches(self, size: int) -> list[Any]:
        """A few batches of ``size`` samples; too few samples are repeated."""
        samples = cycle(self.items)
        return [self.collate([copy.deepcopy(next(samples)) for _ in range(size)]) for _ in range(BATCHES)]


@dataclass
class BenchmarkModel:
    """A model with its config and samples; ``load_benchmark_model(like=...)`` shares the samples."""

    model: Any
    config: Any
    condition: Condition
    loaded: dict[str, LoadedSamples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._trained = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}

    def restore(self) -> None:
        """Eval mode, no gradients, parameters frozen or trained as loaded, whatever a part that failed has left."""
        self.model.eval()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._trained.get(name, parameter.requires_grad))
            parameter.grad = None

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def inference(self, batch_size: int) -> Callable[[], None]:
        """A function that runs inference on the next batch per call."""
        batches = cycle(self._test_samples().batches(batch_size))
        return lambda: self._detect(next(batches))

    def inference_without_voxelisation(self, batch_size: int) -> Callable[[], None] | None:
        """The same with precomputed voxels; None for a model without a voxel layer."""
        import torch

        layer = getattr(self.model, "pts_voxel_layer", None)
        if layer is None:
            return None
        batches = self._test_samples().batches(batch_size)
        with torch.no_grad():
            voxels_by_batch = [
                layer(self.model.data_preprocessor(copy.copy(batch), False)["inputs"]["points"]) for batch in batches
            ]
        inputs = cycle(zip(batches, voxels_by_batch, strict=True))

        def step() -> None:
            batch, voxels = next(inputs)
            self.model.pts_voxel_layer = _constant_layer(voxels)
            try:
                self._detect(batch)
            finally:
                self.model.pts_voxel_layer = layer

        return step

    def training_batches(self, batch_size: int) -> list[Any]:
        """Batches of the train split through its pipeline; the same samples for equal pipelines."""
        loader = self.config.train_dataloader

        def build() -> Any:
            from mmengine.runner import Runner

            return Runner.build_dataloader(copy.deepcopy(loader))

        identity = {"loader": loader.to_dict(), "count": BATCHES * batch_size}
        return self._samples("train", identity, build, BATCHES * batch_size).batches(batch_size)

    def _detect(self, batch: Any) -> None:
        import torch

        with torch.no_grad():
            # The preprocessor may change its input: a shallow copy protects the batch.
            self.model.test_step(copy.copy(batch))

    def _test_samples(self) -> LoadedSamples:
        identity = {"loader": self.config.test_dataloader.to_dict(), "condition": self.condition.settings}
        return self._samples("test", identity, lambda: build_loader(self.config, self.condition, 1), BATCHES)

    def _samples(self, split: str, facts: dict, build: Callable[[], Any], count: int) -> LoadedSamples:
        samples, identity = self.loaded.get(split), config_hash(facts)
        if samples is None or samples.identity != identity:
            self.loaded[split] = samples = _read(build, count, identity)
        return samples


def load_benchmark_model(config: Any, condition: Condition, like: BenchmarkModel | None = None) -> BenchmarkModel:
    """The model of a config on this machine's device, in eval mode, with weights of seed 0.

    Args:
        condition: of the sensors in inference.
        like: another model; equal samples are shared with it instead of read again.
    """
    import torch
    from mmengine.device import get_device

    from aqr_bench.engine.third_party import build_model

    torch.manual_seed(0)
    model = build_model(config).to(get_device()).eval()
    return BenchmarkModel(model, config, condition, dict(like.loaded) if like else {})


def _read(build: Callable[[], Any], count: int, identity: str) -> LoadedSamples:
    """The first samples of a loader's data set, in this process and always with the same random numbers."""
    from aqr_bench.engine.seeding import seed_all

    loader = build()
    seed_all(0)
    items = [loader.dataset[i] for i in range(min(count, len(loader.dataset)))]
    return LoadedSamples(items, loader.collate_fn, identity)


def _constant_layer(voxels: Sequence[Any]) -> Any:
    """A voxel layer that returns ``voxels`` for any points."""
    from torch import nn

    class Constant(nn.Module):
        def forward(self, points: Any) -> Any:
            return voxels

    return Constant()
