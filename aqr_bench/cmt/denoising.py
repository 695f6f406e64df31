"""Denoising queries: noisy copies of the ground truth that the decoder learns to denoise (DN-DETR, as in CMT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aqr_bench.cmt.encoding import to_normalised


@dataclass(frozen=True)
class DenoisingQueries:
    """Queries that come before the matching queries: K noisy copies of boxes in P slots per sample.

    reference_BP3: normalised reference points; empty slots are 0.
    attn_mask: [P + Q, P + Q] boolean, True = may not attend.
    sample_K, slot_K: which sample and slot each copy sits in.
    labels_K: target class over all tasks; copies with too much noise are background (= number of classes).
    raw_labels_K: class before the noise.
    boxes_K: [K, 9] clean boxes, gravity centre, metres.
    """

    reference_BP3: Tensor
    attn_mask: Tensor
    sample_K: Tensor
    slot_K: Tensor
    labels_K: Tensor
    raw_labels_K: Tensor
    boxes_K: Tensor

    @property
    def pad_size(self) -> int:
        return self.reference_BP3.shape[1]

    def split(self, outputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Outputs [layers, B, P + Q, C] by name, those of the denoising queries apart as ``dn_<name>``."""
        pad = self.pad_size
        ours = {f"dn_{name}": value[:, :, :pad] for name, value in outputs.items()}
        return {name: value[:, :, pad:] for name, value in outputs.items()} | ours | {"dn_queries": self}


def make_denoising_queries(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    num_query: int,
    num_classes: int,
    pc_range: Sequence[float],
    scalar: int = 10,
    noise_scale: float = 1.0,
    noise_trans: float = 0.0,
    split: float = 0.75,
) -> DenoisingQueries | None:
    """Noisy queries for a batch, or None if it holds no object or ``scalar`` is 0.

    The centre moves by up to ``noise_scale * (size / 2 + noise_trans)`` along each axis; where the random direction
    is longer than ``split`` the target class of the copy is background. There are
    ``min(scalar, num_query // max_objects)`` groups, at least one, also when objects outnumber queries.

    Args:
        boxes: per sample [n, 9] with gravity centres, metres, LiDAR frame, on the head's device.
        labels: per sample [n], class over all tasks.
    """
    counts = [len(b) for b in boxes]
    max_objects = max(counts, default=0)
    if max_objects == 0 or scalar == 0:
        return None
    groups = max(1, min(scalar, num_query // max_objects))
    device = boxes[0].device
    sample = torch.cat([torch.full((n,), i, device=device, dtype=torch.long) for i, n in enumerate(counts)])
    within = torch.cat([torch.arange(n, device=device) for n in counts])
    raw_labels = torch.cat(list(labels)).long().repeat(groups)
    clean = torch.cat(list(boxes)).repeat(groups, 1)
    sample = sample.repeat(groups)
    slot = torch.cat([within + max_objects * g for g in range(groups)])

    centre, noisy_labels = clean[:, :3], raw_labels.clone()
    if noise_scale > 0:
        direction = torch.rand_like(centre) * 2 - 1.0
        centre = centre + direction * (clean[:, 3:6] / 2 + noise_trans) * noise_scale
        noisy_labels[direction.norm(dim=1) > split] = num_classes
    reference = clean.new_zeros(len(counts), max_objects * groups, 3)
    reference[sample, slot] = to_normalised(centre, pc_range).clamp(0.0, 1.0)
    mask = denoising_mask(groups, max_objects, num_query, device)
    return DenoisingQueries(reference, mask, sample, slot, noisy_labels, raw_labels, clean)


def denoising_mask(groups: int, group_size: int, num_query: int, device: torch.device | None = None) -> Tensor:
    """Boolean [P + Q, P + Q] with P = groups * group_size; True = may not attend.

    Matching queries do not see denoising queries; a denoising group does not see the other groups.
    """
    pad = groups * group_size
    group_of = torch.arange(pad + num_query, device=device) // group_size
    group_of[pad:] = -1
    mask = group_of[:, None] != group_of[None, :]
    mask[:pad, pad:] = False
    return mask
