"""Hungarian matching of queries and ground truth boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet3d.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from aqr_bench.cmt.coder import normalize_bbox
from aqr_bench.errors import UserError, nearest


def focal_cost(
    logits_QC: Tensor,
    labels_G: Tensor,
    weight: float = 1.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
    eps: float = 1e-12,
) -> Tensor:
    """Focal classification cost [Q, G]: loss as class ``labels[g]`` minus loss as background."""
    p = logits_QC.sigmoid()
    negative = -(1 - p + eps).log() * (1 - alpha) * p.pow(gamma)
    positive = -(p + eps).log() * alpha * (1 - p).pow(gamma)
    return weight * (positive - negative)[:, labels_G]


def softmax_cost(logits_QC: Tensor, labels_G: Tensor, weight: float = 1.0) -> Tensor:
    """DETR's classification cost [Q, G]: minus the softmax probability of the label."""
    return -weight * logits_QC.softmax(-1)[:, labels_G]


def l1_cost(codes_QD: Tensor, codes_GD: Tensor, weight: float = 1.0) -> Tensor:
    """Sum of absolute differences of the codes, [Q, G]."""
    return weight * torch.cdist(codes_QD, codes_GD, p=1)


_CLASS_COSTS = {"FocalLossCost": focal_cost, "ClassificationCost": softmax_cost}
_BOX_COSTS = {"BBox3DL1Cost": l1_cost}
_MATCHED_CODES = 8  # position, size, yaw; velocities are not matched


@TASK_UTILS.register_module()
class HungarianAssigner3D:
    """One-to-one matching with the lowest sum of classification and box costs.

    Args:
        cls_cost, reg_cost: config dicts with ``type`` and keyword arguments of the cost.
        iou_cost: accepted for the official configs; its weight has to be 0, since CMT matches without IoU.
        pc_range: accepted for the official configs; codes are in metres.
        code_weights: ten weights, applied to both sides before the box cost.
    """

    def __init__(
        self,
        cls_cost: dict | None = None,
        reg_cost: dict | None = None,
        iou_cost: dict | None = None,
        pc_range: Sequence[float] | None = None,
        code_weights: Sequence[float] | None = None,
    ) -> None:
        self.cls_cost = _cost(cls_cost or {"type": "ClassificationCost"}, _CLASS_COSTS, "cls_cost")
        self.reg_cost = _cost(reg_cost or {"type": "BBox3DL1Cost"}, _BOX_COSTS, "reg_cost")
        if iou_cost and iou_cost.get("weight", 0.0) != 0:
            raise UserError(
                f"assigner.iou_cost.weight is {iou_cost['weight']}: CMT matches without IoU, so it has to be 0"
            )
        self.code_weights = None if code_weights is None else [float(w) for w in code_weights]

    @torch.no_grad()
    def match(self, codes_Q: Tensor, logits_QC: Tensor, boxes_G: Tensor, labels_G: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (query, ground truth) of the matched pairs; min(Q, G) of them.

        Args:
            codes_Q: [Q, 10] regression codes.
            logits_QC: [Q, classes of the task].
            boxes_G: [G, 9] boxes with gravity centres, metres.
            labels_G: [G] labels within the task.
        """
        if len(boxes_G) == 0 or len(codes_Q) == 0:
            empty = labels_G.new_zeros(0)
            return empty, empty
        targets = normalize_bbox(boxes_G)
        if self.code_weights is not None:
            weights = codes_Q.new_tensor(self.code_weights)[: codes_Q.shape[-1]]
            codes_Q, targets = codes_Q * weights, targets * weights[: targets.shape[-1]]
        cost = self.cls_cost(logits_QC, labels_G)
        cost = cost + self.reg_cost(codes_Q[:, :_MATCHED_CODES], targets[:, :_MATCHED_CODES])
        # scipy rejects non-finite costs. A diverged network is visible in its loss, which stays non-finite.
        cost = torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6)
        query, truth = linear_sum_assignment(cost.cpu().numpy())
        return torch.as_tensor(query, device=codes_Q.device), torch.as_tensor(truth, device=codes_Q.device)


def _cost(cfg: dict, costs: dict, key: str):
    cfg = dict(cfg)
    name = str(cfg.pop("type", "")).rsplit(".", 1)[-1]
    if name not in costs:
        raise UserError(f"assigner.{key}.type '{name}' is unknown{nearest(name, costs)}")
    function = costs[name]
    return lambda a, b: function(a, b, **cfg)
