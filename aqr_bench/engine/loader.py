"""The data loader of an evaluation: that of the config, under one condition of the sensors."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy, deepcopy
from typing import Any

from aqr_bench.compat import with_pickle_name
from aqr_bench.console import steps
from aqr_bench.study.spec import Condition


def build_loader(config: Any, condition: Condition, batch_size: int, read: Any = None) -> Any:
    """The config's test data loader with its SensorCondition set.

    ``read``: the data set of another condition, so that the info file need not be read again.
    """
    from mmengine.dataset import Compose
    from mmengine.runner import Runner

    loader = deepcopy(config.test_dataloader)
    loader.batch_size = batch_size
    transforms = [s for s in loader.dataset.pipeline if s["type"] == "SensorCondition"]
    if len(transforms) != 1:
        raise RuntimeError(f"the test pipeline needs exactly one SensorCondition, it has {len(transforms)}")
    transforms[0].update(condition.transform_arguments)
    transforms[0].update(ann_file=loader.dataset.ann_file, data_root=loader.dataset.data_root)
    with with_pickle_name(f"info file {loader.dataset.ann_file}"):
        if read is None:
            return Runner.build_dataloader(loader)
        pipeline, loader.dataset = Compose(loader.dataset.pipeline), copy(read)
        loader.dataset.pipeline = None  # mmengine copies the whole data set, and not every pipeline can be copied
        built = Runner.build_dataloader(loader)
        built.dataset.pipeline = pipeline
        return built


def batches(loader: Any, name: str) -> Iterator[dict]:
    """Collated batches, with progress under a name. RuntimeError: a worker process has died."""
    try:
        yield from steps(loader, name, lambda _: "batches")
    except (ConnectionError, EOFError) as error:
        # Where torch may meet a dead worker first: tensors are handed over by sockets.
        raise RuntimeError(f"a worker process of the loader has died ({type(error).__name__}: {error})") from error
