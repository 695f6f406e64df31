"""One training step in its parts: forward with losses, backward, optimiser. Hooks and averaged weights are left out."""

from __future__ import annotations

import copy
import time
from itertools import cycle
from typing import Any

from aqr_bench.cost.subject import Subject
from aqr_bench.cost.timing import synchronise

SCOPE = (
    "preprocessing, forward pass, losses, backward pass and optimiser step; loading the files, averaged weights and "
    "other hooks are left out"
)
PARTS = ("forward", "backward", "optimiser")


class TrainingStep:
    """A subject in training: each call takes the next batch. ``part_ms``: times of the parts, one value a call.

    Mixed precision is used where the config asks for it and there is a GPU, as ``precision`` says.
    """

    def __init__(self, subject: Subject, batch_size: int) -> None:
        from mmengine.optim import build_optim_wrapper

        self.model = subject.model
        self.part_ms: dict[str, list[float]] = {part: [] for part in PARTS}
        settings, self.precision = _optimiser(subject.config.optim_wrapper)
        self._batches = cycle(subject.training_batches(batch_size))
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
        """Give back gradients and the optimiser's state, and put the model back into eval mode."""
        self._wrapper.zero_grad(set_to_none=True)
        self._wrapper = None
        self.model.eval()


def _now() -> float:
    synchronise()
    return time.perf_counter()


def _optimiser(settings: Any) -> tuple[dict, str]:
    """The config's optimiser, and in which precision it trains: without a GPU always in float32."""
    import torch

    settings = dict(settings)
    if settings.get("type", "OptimWrapper") != "AmpOptimWrapper":
        return settings, "float32"
    if torch.cuda.is_available():
        return settings, f"mixed, {settings.get('dtype') or 'float16'}"
    for key in ("loss_scale", "dtype"):
        settings.pop(key, None)
    return {**settings, "type": "OptimWrapper"}, "float32 (the config's mixed precision needs a GPU)"
