"""One training step in its parts: forward with losses, backward, optimiser. Hooks and averaged weights are left out."""

from __future__ import annotations

import copy
import time
from itertools import cycle
from typing import Any

from aqr_bench.cost.benchmark_model import BenchmarkModel
from aqr_bench.cost.timing import synchronise

SCOPE = (
    "preprocessing, forward pass, losses, backward pass and optimiser step; loading the files, averaged weights and "
    "other hooks are left out"
)
PARTS = ("forward", "backward", "optimiser")


class TrainingStep:
    """A training step on the next batch per call. ``part_ms``: times of the parts, one value per call.

    ``precision``: mixed precision is used only if the config has it and there is a GPU.
    """

    def __init__(self, model: BenchmarkModel, batch_size: int) -> None:
        from mmengine.optim import build_optim_wrapper

        self.model = model.model
        self.part_ms: dict[str, list[float]] = {part: [] for part in PARTS}
        settings, self.precision = _optimiser(model.config.optim_wrapper)
        self._batches = cycle(model.training_batches(batch_size))
        self._wrapper = build_optim_wrapper(self.model, settings)
        self.model.train()  # last: after an error in here the model is still in eval mode

    def __call__(self) -> None:
        wrapper, batch = self._wrapper, copy.copy(next(self._batches))
        marks = [_now()]
        with wrapper.optim_context(self.model):
            losses = self.model(**self.model.data_preprocessor(batch, True), mode="loss")
            total, _ = self.model.parse_losses(losses)
        marks.append(_now())
        wrapper.backward(wrapper.scale_loss(total))
        marks.append(_now())
        wrapper.step()
        wrapper.zero_grad()
        marks.append(_now())
        for part, start, end in zip(PARTS, marks, marks[1:], strict=False):
            self.part_ms[part].append(1000 * (end - start))

    def close(self) -> None:
        """Release gradients and the optimiser's state, and set the model to eval mode."""
        self._wrapper.zero_grad(set_to_none=True)
        self._wrapper = None
        self.model.eval()


def _now() -> float:
    synchronise()
    return time.perf_counter()


def _optimiser(settings: Any) -> tuple[dict, str]:
    """Settings of the config's optimiser, and its precision: without a GPU always float32."""
    import torch

    settings = dict(settings)
    if settings.get("type", "OptimWrapper") != "AmpOptimWrapper":
        return settings, "float32"
    if torch.cuda.is_available():
        return settings, f"mixed, {settings.get('dtype') or 'float16'}"
    for key in ("loss_scale", "dtype"):
        settings.pop(key, None)
    return {**settings, "type": "OptimWrapper"}, "float32 (the config's mixed precision needs a GPU)"
