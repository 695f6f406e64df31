"""Both stages of MoME in one training, for tiers that train for minutes; its nuScenes configs are two trainings."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from aqr_bench.errors import UserError


@HOOKS.register_module()
class TwoStages(Hook):
    """First the experts, on samples with all their sensors; then the router alone, with the pipeline's SensorDropout.

    The stage follows from the iteration, so that a resumed training continues in the right one.

    Args:
        router_from: fraction of the iterations after which the second stage begins.

    Raises:
        UserError: a fraction outside (0, 1), another head, a pipeline without SensorDropout, or with worker processes,
            which hold copies of it.
    """

    priority = "NORMAL"

    def __init__(self, router_from: float) -> None:
        if not 0 < router_from < 1:
            raise UserError(f"custom_hooks.TwoStages.router_from is {router_from}; it has to be between 0 and 1")
        self.router_from = router_from

    def before_train(self, runner: Any) -> None:
        self._head, self._dropout = _head_of(runner), _sensor_dropout(runner)
        self._probabilities = (self._dropout.lidar, self._dropout.cameras)
        self._begin = round(self.router_from * runner.max_iters)
        self._enter("router" if runner.iter >= self._begin else "experts")

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self._begin:
            self._enter("router")

    def _enter(self, stage: str) -> None:
        self._head.set_stage(stage)
        self._dropout.lidar, self._dropout.cameras = self._probabilities if stage == "router" else (0.0, 0.0)


def _head_of(runner: Any) -> Any:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    head = getattr(model, "pts_bbox_head", None)
    if not hasattr(head, "set_stage"):
        raise UserError("custom_hooks.TwoStages is for pts_bbox_head.type 'MultiExpertDecoding'; leave it out")
    return head


def _sensor_dropout(runner: Any) -> Any:
    """The step of the training pipeline."""
    loader = runner.train_dataloader
    if loader.num_workers:
        raise UserError("custom_hooks.TwoStages changes the training pipeline: set train_dataloader.num_workers to 0")
    dataset = loader.dataset
    while not hasattr(dataset, "pipeline"):
        dataset = dataset.dataset
    steps = [step for step in dataset.pipeline.transforms if type(step).__name__ == "SensorDropout"]
    if len(steps) != 1:
        raise UserError("custom_hooks.TwoStages needs exactly one SensorDropout in the training pipeline")
    return steps[0]
