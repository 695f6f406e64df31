"""Training of the CMT heads: the losses of all decoder layers, tasks and denoising queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aqr_bench.cmt.assigner import HungarianAssigner3D
from aqr_bench.cmt.coder import stack_codes
from aqr_bench.cmt.denoising import DenoisingQueries
from aqr_bench.cmt.losses import LossFunctions, TaskSlice, denoising_losses, matching_losses, process_mean


@dataclass(frozen=True, eq=False)
class HeadLosses:
    """Losses of a head's outputs for matching and denoising queries.

    Args:
        assigner: matches queries and boxes.
        functions: losses of class logits and codes.
        tasks: classes of each task.
        denoising: whether the head has denoising queries.
        dn_weight, split: of the denoising losses, see :class:`CmtHead`.
    """

    assigner: HungarianAssigner3D
    functions: LossFunctions
    tasks: Sequence[TaskSlice]
    denoising: bool
    dn_weight: float
    split: float

    def __call__(
        self, outputs: Sequence[dict[str, Any]], boxes: Sequence[Tensor], labels: Sequence[Tensor], sync: bool
    ) -> dict[str, Tensor]:
        """``loss_*`` of the last decoder layer, ``d<i>.loss_*`` of the others, ``dn_`` for denoising.

        Args:
            outputs: per task, name -> [layers, B, Q, C].
            boxes: per sample [n, 9], gravity centres, metres; labels: per sample [n] over all tasks.
            sync: counts of objects, by which losses are divided, are averaged over the processes that train together.
                CMT does so for the boxes of denoising queries only.
        """
        codes = [stack_codes(task) for task in outputs]

        def matching(layer: int, t: int) -> tuple[Tensor, Tensor]:
            logits, task = outputs[t]["cls_logits"][layer], self.tasks[t]
            return matching_losses(codes[t][layer], logits, boxes, labels, task, self.assigner, self.functions, sync)

        losses = _over_layers(matching, outputs)
        if self.denoising:
            losses |= self._denoising_losses(outputs, sync)
        return losses

    def _denoising_losses(self, outputs: Sequence[dict[str, Any]], sync: bool) -> dict[str, Tensor]:
        queries: DenoisingQueries | None = outputs[0].get("dn_queries")
        copies = 0 if queries is None else len(queries.sample_K)
        # Also without copies: other processes may have some, and wait until all processes have answered.
        mean = process_mean(copies, outputs[0]["center"])
        counts = (mean if sync else copies, mean)

        def denoising(layer: int, t: int) -> tuple[Tensor, Tensor]:
            if queries is None:  # no object in the batch: the same keys, so that processes and logs agree
                zero = outputs[t]["cls_logits"][layer].sum() * 0
                return zero, zero
            codes, logits = stack_codes(outputs[t], "dn_")[layer], outputs[t]["dn_cls_logits"][layer]
            return denoising_losses(codes, logits, queries, self.tasks[t], self.functions, self.split, counts)

        return {name: self.dn_weight * loss for name, loss in _over_layers(denoising, outputs, "dn_").items()}


def _over_layers(
    losses_of: Callable[[int, int], tuple[Tensor, Tensor]], outputs: Sequence[dict[str, Any]], prefix: str = ""
) -> dict[str, Tensor]:
    """(class loss, box loss) of (layer, task), summed over the tasks; the last layer first."""
    layers = outputs[0]["center"].shape[0]
    losses = {}
    for layer in [layers - 1, *range(layers - 1)]:
        pairs = [losses_of(layer, task) for task in range(len(outputs))]
        name = prefix if layer == layers - 1 else f"d{layer}.{prefix}"
        losses[f"{name}loss_cls"] = sum(pair[0] for pair in pairs)
        losses[f"{name}loss_bbox"] = sum(pair[1] for pair in pairs)
    return losses
