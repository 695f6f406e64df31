"""Loss terms of the CMT head: matching losses of one decoder layer, denoising losses of one decoder layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from mmdet.utils import reduce_mean
from torch import Tensor
from torch.nn import functional as F

from aqr_bench.cmt.assigner import HungarianAssigner3D
from aqr_bench.cmt.coder import normalize_bbox
from aqr_bench.cmt.denoising import DenoisingQueries


@dataclass(frozen=True)
class TaskSlice:
    """A task's classes: ``first`` .. ``first + count - 1`` of the classes of all tasks."""

    first: int
    count: int

    def contains(self, labels: Tensor) -> Tensor:
        return (labels >= self.first) & (labels < self.first + self.count)

    def local(self, labels: Tensor) -> Tensor:
        """Labels within the task; ``count`` (background) for classes of other tasks."""
        return torch.where(self.contains(labels), labels - self.first, self.count)


@dataclass(frozen=True, eq=False)
class LossFunctions:
    """mmdet losses of class logits and of codes, and the weights of the ten codes."""

    loss_cls: Callable[..., Tensor]
    loss_bbox: Callable[..., Tensor]
    code_weights: Sequence[float]

    def classes(self, logits_NC: Tensor, labels_N: Tensor, factor: float) -> Tensor:
        """With one-hot labels mmdet's focal loss needs no compiled operator on any device."""
        classes = logits_NC.shape[-1]
        one_hot = F.one_hot(labels_N, classes + 1)[:, :classes]
        return self.loss_cls(logits_NC, one_hot, logits_NC.new_ones(len(logits_NC)), avg_factor=factor)

    def boxes(self, codes_ND: Tensor, boxes_N9: Tensor, factor: float) -> Tensor:
        """Boxes with a size of zero or NaN give no loss; 0 without any other."""
        targets = normalize_bbox(boxes_N9.to(codes_ND))
        usable = torch.isfinite(targets).all(dim=-1)
        codes, targets = codes_ND[usable], targets[usable]
        if len(codes) == 0:
            return codes_ND.sum() * 0
        weights = codes.new_tensor(list(self.code_weights))[: codes.shape[-1]].expand_as(codes)
        return self.loss_bbox(codes, targets, weights, avg_factor=max(float(factor), 1.0))


def matching_losses(
    codes_BQD: Tensor,
    logits_BQC: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    task: TaskSlice,
    assigner: HungarianAssigner3D,
    functions: LossFunctions,
    sync: bool = False,
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of one layer and task.

    The average factors are ``positives + 0.1 * negatives`` (at least 1) for classes and ``positives`` for boxes; they
    count this process's samples only, as in CMT, or with ``sync`` are averaged over processes.

    Args:
        boxes: per sample [n, 9], gravity centres, metres; labels: per sample [n] over all tasks.
    """
    B, Q, C = logits_BQC.shape
    target_labels = labels[0].new_full((B, Q), C)
    matched, targets = [], []
    for b in range(B):
        of_task = task.contains(labels[b])
        task_boxes, task_labels = boxes[b][of_task], labels[b][of_task] - task.first
        # Class by class, as in CMT, so that ties between equal boxes are resolved alike.
        order = torch.argsort(task_labels, stable=True)
        task_boxes, task_labels = task_boxes[order], task_labels[order]
        query, truth = assigner.match(codes_BQD[b].detach(), logits_BQC[b].detach(), task_boxes, task_labels)
        target_labels[b, query] = task_labels[truth]
        matched.append(codes_BQD[b, query])
        targets.append(task_boxes[truth])
    codes, targets = torch.cat(matched), torch.cat(targets)
    positives = process_mean(len(codes), codes) if sync else len(codes)
    factor = max(positives + 0.1 * (B * Q - positives), 1.0)
    cls = functions.classes(logits_BQC.flatten(0, 1), target_labels.flatten(), factor)
    return cls, functions.boxes(codes, targets, positives)


def denoising_losses(
    codes_BPD: Tensor,
    logits_BPC: Tensor,
    queries: DenoisingQueries,
    task: TaskSlice,
    functions: LossFunctions,
    split: float,
    counts: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of the denoising queries of one layer and task.

    The class factor is ``n * 3.14159 / 6 * split ** 3`` (at least 1), the box factor ``m`` (at least 1), for
    ``counts = (n, m)``: how many copies of objects there are for all tasks, here or on average over processes.
    The box loss covers the copies of the task's own classes, also those with so much noise that their class target is
    background.
    """
    logits = logits_BPC[queries.sample_K, queries.slot_K]
    codes = codes_BPD[queries.sample_K, queries.slot_K]
    factor = max(counts[0] * 3.14159 / 6 * split**3, 1.0)
    cls = functions.classes(logits, task.local(queries.labels_K), factor)
    of_task = task.contains(queries.raw_labels_K)
    return cls, functions.boxes(codes[of_task], queries.boxes_K[of_task], counts[1])


def process_mean(count: float, like: Tensor) -> float:
    """A count averaged over all training processes, each of which has to call this; ``like`` gives the device."""
    return reduce_mean(torch.tensor([float(count)], device=like.device)).item()
