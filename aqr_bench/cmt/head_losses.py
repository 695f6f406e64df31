"""Training of the CMT heads: the losses of all decoder layers, tasks and denoising queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from aqr_bench.cmt.coder import stack_codes
from aqr_bench.cmt.denoising import DenoisingQueries
from aqr_bench.cmt.geometry import gravity_boxes, metas_of, plain_labels
from aqr_bench.cmt.losses import denoising_losses, matching_losses, process_mean
from aqr_bench.errors import UserError

Outputs = tuple[list[dict[str, Any]], ...]  # [task][level] -> name: [layers, B, Q, C]


class HeadLosses:
    """Mixin of the heads: ``loss`` and ``loss_by_feat``.

    ``sync_factors``: what losses are divided by (counts of objects) is averaged over the processes that train together,
    so that these compute the loss of one process with all samples. CMT does so for the boxes of denoising queries only.

    Needs ``assigner``, ``loss_cls``, ``loss_bbox``, ``task_slices``, ``train_cfg``, ``scalar``, ``split``,
    ``dn_weight`` and ``aqr``.
    """

    sync_factors = False

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Losses, from features or from predictions.

        ``loss(pts_feats, img_feats, batch_data_samples)`` runs the head on features (mmdet3d 1.4's way);
        ``loss(gt_bboxes_3d, gt_labels_3d, outputs)`` is the official CMT call on the head's own output.
        """
        last = args[2] if len(args) == 3 else kwargs.get("batch_data_samples")
        if last is not None and len(last) and hasattr(last[0], "metainfo"):
            pts_feats, img_feats = args[:2]
            outputs = self(pts_feats, img_feats, metas_of(last, with_truth=True))
            boxes = [sample.gt_instances_3d.bboxes_3d for sample in last]
            labels = [sample.gt_instances_3d.labels_3d for sample in last]
            return self.loss_by_feat(boxes, labels, outputs)
        return self.loss_by_feat(*args, **kwargs)

    def loss_by_feat(self, gt_bboxes_3d: Sequence, gt_labels_3d: Sequence, preds_dicts: Outputs) -> dict[str, Tensor]:
        """Losses of all decoder layers: ``loss_*`` of the last, ``d<i>.loss_*`` of the others, ``dn_`` for denoising.

        Args:
            gt_bboxes_3d: per sample LiDARInstance3DBoxes (bottom centres, as mmdet3d stores them).
            gt_labels_3d: per sample [n].
            preds_dicts: output of :meth:`forward` in training.
        """
        if self.assigner is None:
            raise UserError("pts_bbox_head.train_cfg is missing: the head was built for inference only")
        outputs = [task[0] for task in preds_dicts]
        device = outputs[0]["center"].device
        boxes = [gravity_boxes(b, device) for b in gt_bboxes_3d]
        labels = [plain_labels(l, device) for l in gt_labels_3d]
        code_weights = self.train_cfg["code_weights"]
        layers = outputs[0]["center"].shape[0]
        codes = [stack_codes(task) for task in outputs]
        losses: dict[str, Tensor] = {}
        for layer in [layers - 1, *range(layers - 1)]:
            prefix = "" if layer == layers - 1 else f"d{layer}."
            pairs = [
                matching_losses(
                    codes[t][layer],
                    outputs[t]["cls_logits"][layer],
                    boxes,
                    labels,
                    self.task_slices[t],
                    self.assigner,
                    self.loss_cls,
                    self.loss_bbox,
                    code_weights,
                    self.sync_factors,
                )
                for t in range(len(outputs))
            ]
            losses[f"{prefix}loss_cls"] = sum(p[0] for p in pairs)
            losses[f"{prefix}loss_bbox"] = sum(p[1] for p in pairs)
        if self.scalar:
            losses.update(self._denoising_losses(outputs, layers, code_weights))
        if "image_points" in outputs[0]:
            losses["loss_image_points"] = self.image_points.loss(*outputs[0]["image_points"])
        if "aqr" in outputs[0]:
            losses.update(self.aqr.loss(*outputs[0]["aqr"]))
        return losses

    def _denoising_losses(self, outputs: list[dict], layers: int, code_weights: Sequence[float]) -> dict[str, Tensor]:
        queries: DenoisingQueries | None = outputs[0].get("dn_queries")
        losses: dict[str, Tensor] = {}
        copies = 0 if queries is None else len(queries.sample_K)
        # Also where there are none: other processes may have some, and wait for the answer of all.
        mean = process_mean(copies, outputs[0]["center"])
        counts = (mean if self.sync_factors else copies, mean)
        for layer in [layers - 1, *range(layers - 1)]:
            prefix = "" if layer == layers - 1 else f"d{layer}."
            if queries is None:  # no object in the batch: the same keys, so that processes and logs agree
                zero = sum(task["cls_logits"][layer].sum() for task in outputs) * 0
                pairs = [(zero, zero)]
            else:
                pairs = [
                    denoising_losses(
                        stack_codes(outputs[t], "dn_")[layer],
                        outputs[t]["dn_cls_logits"][layer],
                        queries,
                        self.task_slices[t],
                        self.loss_cls,
                        self.loss_bbox,
                        code_weights,
                        self.split,
                        counts,
                    )
                    for t in range(len(outputs))
                ]
            losses[f"{prefix}dn_loss_cls"] = self.dn_weight * sum(p[0] for p in pairs)
            losses[f"{prefix}dn_loss_bbox"] = self.dn_weight * sum(p[1] for p in pairs)
        return losses
