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

Loss = Callable[..., Tensor]


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


def matching_losses(
    codes_BQD: Tensor,
    logits_BQC: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    task: TaskSlice,
    assigner: HungarianAssigner3D,
    loss_cls: Loss,
    loss_bbox: Loss,
    code_weights: Sequence[float],
    sync: bool = False,
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of one layer and task.

    The average factors are ``positives + 0.1 * negatives`` (at least 1) for classes and ``positives`` for boxes; they
    count this process's samples only, as in CMT, or with ``sync`` are averaged over processes. Boxes with a size
    of zero have no logarithm and give no box loss.

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
    cls = _class_loss(loss_cls, logits_BQC.flatten(0, 1), target_labels.flatten(), factor)
    return cls, _box_loss(loss_bbox, codes, targets, code_weights, positives)


def denoising_losses(
    codes_BPD: Tensor,
    logits_BPC: Tensor,
    queries: DenoisingQueries,
    task: TaskSlice,
    loss_cls: Loss,
    loss_bbox: Loss,
    code_weights: Sequence[float],
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
    cls = _class_loss(loss_cls, logits, task.local(queries.labels_K), factor)
    of_task = task.contains(queries.raw_labels_K)
    return cls, _box_loss(loss_bbox, codes[of_task], queries.boxes_K[of_task], code_weights, counts[1])


def process_mean(count: float, like: Tensor) -> float:
    """A count averaged over all training processes, each of which has to call this; ``like`` gives the device."""
    return reduce_mean(torch.tensor([float(count)], device=like.device)).item()


def _class_loss(loss: Loss, logits_NC: Tensor, labels_N: Tensor, factor: float) -> Tensor:
    """With one-hot labels mmdet's focal loss needs no compiled operator on any device."""
    classes = logits_NC.shape[-1]
    one_hot = F.one_hot(labels_N, classes + 1)[:, :classes]
    return loss(logits_NC, one_hot, logits_NC.new_ones(len(logits_NC)), avg_factor=factor)


def _box_loss(loss: Loss, codes_ND: Tensor, boxes_N9: Tensor, code_weights: Sequence[float], factor: float) -> Tensor:
    targets = normalize_bbox(boxes_N9.to(codes_ND))
    usable = torch.isfinite(targets).all(dim=-1)
    codes, targets = codes_ND[usable], targets[usable]
    if len(codes) == 0:
        return codes_ND.sum() * 0
    weights = codes.new_tensor(list(code_weights))[: codes.shape[-1]].expand_as(codes)
    return loss(codes, targets, weights, avg_factor=max(float(factor), 1.0))
