"""A detector's output that is not finite: refused where it arises, since it would pass for a frame without objects.

Coders drop such boxes and scores (a comparison with NaN is false), so that the heads are checked, before decoding, and
the detections as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aqr_bench.errors import UserError


class NotFiniteError(UserError):
    """A head's output, or a detection, that is NaN or infinite: the fault of weights or input, not of the program."""


def check_heads(model: nn.Module) -> None:
    """From now on, every head of a detector (a child whose name ends in ``head``) raises NotFiniteError, see above."""
    for name, child in model.named_children():
        if name.endswith("head"):
            child.register_forward_hook(partial(_check_output, name))


def check_detections(boxes_N9: Tensor, scores_N: Tensor) -> None:
    """NotFiniteError for detections of one sample that are not finite. Boxes may have columns [N, 7] or [N, 9]."""
    finite = boxes_N9.isfinite().all(1) & scores_N.isfinite()
    if not finite.all():
        raise NotFiniteError(
            f"{int((~finite).sum())} of {len(finite)} detections have a box or score that is not finite"
        )


def _check_output(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    tensors = list(_tensors(output, "output"))
    if not tensors:
        return
    finite = torch.stack([tensor.isfinite().all() for _, tensor in tensors])
    if not finite.all():  # one wait for the device, not one for every tensor
        bad = ", ".join(dict.fromkeys(key for (key, _), ok in zip(tensors, finite.tolist(), strict=True) if not ok))
        raise NotFiniteError(f"{name}: {bad} is not finite")


def _tensors(value: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in nested dicts, lists and tuples, each with the last name on the way to it."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tensors(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item, key)
