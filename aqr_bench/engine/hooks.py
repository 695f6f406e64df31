"""Small mmengine hooks: seeds that survive a restart, a loss curve, a stop on divergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from aqr_bench.atomic import write_text
from aqr_bench.console import duration, print_progress
from aqr_bench.engine import seeding as seeding  # configs import this module alone: its hooks are registered with these
from aqr_bench.errors import join_names

CURVE_EVERY = 10
OPEN_POINT = "loss_curve_open_point"


class DivergedError(FloatingPointError):
    """The loss is no longer finite."""


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
            self.points = [p for p in json.loads(self._path(runner).read_text(encoding="utf-8")) if p[0] <= runner.iter]
        # Of the point that was open when the checkpoint was written; the message hub is part of it.
        self._sum, self._count = runner.message_hub.get_info(OPEN_POINT, (0.0, 0))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        mean = outputs["loss"].detach().clone()
        all_reduce(mean, op="mean")  # in place; nothing to do for one process
        loss = float(mean)
        if not np.isfinite(loss):
            # Of several processes only those whose own loss it is name their samples.
            own = np.isfinite(float(outputs["loss"]))
            samples = "" if own else _sample_tokens(data_batch)
            raise DivergedError(f"loss is {loss} at iteration {runner.iter + 1}{samples}")
        self._sum, self._count = self._sum + loss, self._count + 1
        if (runner.iter + 1) % self.every == 0 or runner.iter + 1 == runner.max_iters:
            self.points.append([runner.iter + 1, self._sum / self._count])
            self._sum, self._count = 0.0, 0
            if runner.rank == 0:
                write_text(self._path(runner), json.dumps(self.points))
        runner.message_hub.update_info(OPEN_POINT, [self._sum, self._count])


def _sample_tokens(batch: Any) -> str:
    """`` (samples a, b)`` of a collated batch; '' where its samples do not have their tokens."""
    samples = batch.get("data_samples", ()) if isinstance(batch, dict) else ()
    tokens = [token for sample in samples if (token := sample.metainfo.get("token"))]
    return f" (samples {join_names(tokens)})" if tokens else ""


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
            print_progress(f"iter {runner.iter + 1}/{runner.max_iters} {losses}{seconds}")
