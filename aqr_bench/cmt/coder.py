"""Boxes between metres and the ten regression codes, and the top-scoring boxes of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet3d.registry import TASK_UTILS
from torch import Tensor

from aqr_bench.cmt.encoding import bounds, clamp_reference, inverse_sigmoid, to_metres

OFFSET_UNIT_M = 4.0


def normalize_bbox(boxes: Tensor) -> Tensor:
    """[..., 7 or 9] (x, y, z of the gravity centre, l, w, h, yaw, vx, vy) -> [..., 8 or 10] regression codes.

    Codes: x, y (m), log l, log w, z (m), log h, sine and cosine of the yaw, vx, vy (m/s).
    """
    x, y, z, l, w, h, yaw = boxes[..., :7].unbind(-1)
    codes = [x, y, l.log(), w.log(), z, h.log(), yaw.sin(), yaw.cos(), *boxes[..., 7:9].unbind(-1)]
    return torch.stack(codes, dim=-1)


def denormalize_bbox(codes: Tensor) -> Tensor:
    """Inverse of :func:`normalize_bbox`; z stays that of the gravity centre."""
    x, y, l, w, z, h, sin, cos = codes[..., :8].unbind(-1)
    boxes = [x, y, z, l.exp(), w.exp(), h.exp(), torch.atan2(sin, cos), *codes[..., 8:10].unbind(-1)]
    return torch.stack(boxes, dim=-1)


def stack_codes(outputs: dict[str, Tensor], prefix: str = "") -> Tensor:
    """Concatenate a task's outputs to codes [..., 10] in CMT's order: center 2, height 1, dim 3, rot 2, vel 2.

    The names are misleading. The codes are ordered as in :func:`normalize_bbox`, so in the official
    implementation, and here, the output called ``height`` is log l (its sigmoid reaches over [-5, 3] with the usual
    range), and ``dim`` is (log w, z, log h). Changing this would make the published weights useless.
    """
    names = ("center", "height", "dim", "rot", "vel")
    return torch.cat([outputs[prefix + k] for k in names if prefix + k in outputs], dim=-1)


def add_logit_offsets(
    outputs: dict[str, Tensor], reference_BQ3: Tensor, pc_range: Sequence[float], points_LBQ3: None = None
) -> dict[str, Tensor]:
    """CMT's offsets: ``center`` and ``height`` are offsets from the normalised reference points in logit space."""
    logits = inverse_sigmoid(reference_BQ3)
    low, high = bounds(pc_range, logits)
    center = (outputs["center"] + logits[..., :2]).sigmoid() * (high - low)[:2] + low[:2]
    height = (outputs["height"] + logits[..., 2:]).sigmoid() * (high - low)[2:] + low[2:]
    return {**outputs, "center": center, "height": height}


def add_metre_offsets(
    outputs: dict[str, Tensor], reference_BQ3: Tensor, pc_range: Sequence[float], points_LBQ3: Tensor | None = None
) -> dict[str, Tensor]:
    """``center`` is an offset in units of 4 m from each layer's points (metres); default: the references."""
    if points_LBQ3 is None:
        points_LBQ3 = to_metres(clamp_reference(reference_BQ3), pc_range)
    return {**outputs, "center": OFFSET_UNIT_M * outputs["center"] + points_LBQ3[..., :2]}


def clamped_centres(outputs: dict[str, Tensor], points_BQ3: Tensor, pc_range: Sequence[float]) -> Tensor:
    """Gravity centres [B, Q, 3] (metres, clamped to the range) of offsets as in :func:`add_metre_offsets`."""
    xy = OFFSET_UNIT_M * outputs["center"] + points_BQ3[..., :2]
    centre = torch.cat([xy, outputs["dim"][..., 1:2]], -1)  # the second number of ``dim`` is z: see stack_codes
    low, high = bounds(pc_range, centre)
    return centre.clamp(low, high)


@TASK_UTILS.register_module()
class MultiTaskBBoxCoder:
    """Pick the ``max_num`` best (query, class) pairs of a sample and turn their codes into boxes.

    Args:
        pc_range: (x0, y0, z0, x1, y1, z1) in metres.
        post_center_range: boxes with centres outside are dropped; None keeps all.
        max_num: boxes per sample at most. Fewer are returned where queries times classes are fewer.
        score_threshold: boxes at or below are dropped; None keeps all.
        voxel_size, num_classes: accepted for the official configs, not used.
    """

    def __init__(
        self,
        pc_range: Sequence[float],
        voxel_size: Sequence[float] | None = None,
        post_center_range: Sequence[float] | None = None,
        max_num: int = 100,
        score_threshold: float | None = None,
        num_classes: int = 10,
    ) -> None:
        self.pc_range = list(pc_range)
        self.post_center_range = None if post_center_range is None else list(post_center_range)
        self.max_num = max_num
        self.score_threshold = score_threshold

    def decode(self, preds_dicts: Sequence[Sequence[dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
        """Outputs of the last decoder layer, per task, to boxes per sample.

        Args:
            preds_dicts: [task][0] -> dict with center, height, dim, rot, vel, cls_logits, each [layers, B, Q, C].

        Returns:
            per sample: bboxes [n, 9] (gravity centre, metres), scores [n] and labels [n], by falling score.
        """
        last = [{k: v[-1] for k, v in task[0].items() if isinstance(v, Tensor)} for task in preds_dicts]
        codes_TBQ = torch.stack([stack_codes(task) for task in last])
        logits_BQC = torch.cat([task["cls_logits"] for task in last], dim=-1)
        task_of_class = torch.cat(
            [torch.full((t["cls_logits"].shape[-1],), i, device=logits_BQC.device) for i, t in enumerate(last)]
        )
        return [self._decode_sample(logits_BQC[b], codes_TBQ[:, b], task_of_class) for b in range(logits_BQC.shape[0])]

    def _decode_sample(self, logits_QC: Tensor, codes_TQ: Tensor, task_of_class: Tensor) -> dict[str, Tensor]:
        num_classes = logits_QC.shape[-1]
        scores, index = logits_QC.sigmoid().flatten().topk(min(self.max_num, logits_QC.numel()))
        labels = index % num_classes
        query = torch.div(index, num_classes, rounding_mode="floor")
        boxes = denormalize_bbox(codes_TQ[task_of_class[labels], query])
        keep = torch.ones_like(labels, dtype=torch.bool)
        if self.score_threshold is not None:
            keep &= scores > self.score_threshold
        if self.post_center_range is not None:
            low, high = boxes.new_tensor(self.post_center_range).split(3)
            keep &= ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(dim=1)
        return {"bboxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
