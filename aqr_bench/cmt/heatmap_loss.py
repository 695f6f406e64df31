"""Auxiliary losses on the BEV and image tokens: features learn classes and boxes before the decoder does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.losses import GaussianFocalLoss, MSELoss
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from aqr_bench.bias import project_to_cameras
from aqr_bench.cmt.geometry import CameraGeometry, ground_truth, sensor_states
from aqr_bench.cmt.losses import LossFunctions, process_mean
from aqr_bench.errors import UserError
from aqr_bench.sensor_state import SensorState

MIN_SIGMA = 0.6  # cells; below it, a Gaussian is one cell
CODE_REACH = 1.5  # cells from an object's centre within which a BEV cell regresses its box: 3 x 3 cells
VELOCITY_UNIT = 5.0  # m/s
NUM_CODES = 10  # x, y, log l, log w, z, log h, sine and cosine of the yaw, vx, vy: see ``normalize_bbox``


@MODELS.register_module()
class AuxiliaryHeatmaps(BaseModule):
    """A class heat map by one 1x1 convolution on each feature map, with CenterPoint's focal loss; training only.

    Not part of CMT: for the small tiers, whose schedules are too short for the branches to learn from the decoder's
    gradient alone. It is the same for all variants and costs nothing at inference.

    Args:
        bev_channels, image_channels: channels of the two feature maps.
        num_classes: C.
        pc_range: (x0, y0, z0, x1, y1, z1) of the BEV map, metres.
        loss_weight: of both heat maps.
        bev_code_weights: weights of the squared errors of ten regression codes (those of the head's ``code_weights``)
            that a second convolution predicts in the 3 x 3 BEV cells around each centre, x and y relative to the cell:
            headings and velocities are hard to learn for a decoder whose BEV features were trained on classes alone.
            None: no codes.
    """

    def __init__(
        self,
        bev_channels: int,
        image_channels: int,
        num_classes: int,
        pc_range: Sequence[float],
        loss_weight: float = 1.0,
        bev_code_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if bev_code_weights is not None and len(bev_code_weights) != NUM_CODES:
            raise UserError(
                f"model.auxiliary.bev_code_weights has {len(bev_code_weights)} numbers; set {NUM_CODES}, in the order "
                "of pts_bbox_head.train_cfg.code_weights, or None"
            )
        self.bev = nn.Conv2d(bev_channels, num_classes, 1)
        self.image = nn.Conv2d(image_channels, num_classes, 1)
        for layer in (self.bev, self.image):
            nn.init.constant_(layer.bias, -2.19)
        self.sync_factors = False  # see CmtDetector
        self.num_classes, self.pc_range = num_classes, tuple(pc_range)
        self.focal = GaussianFocalLoss(loss_weight=loss_weight)
        self.bev_codes = None
        if bev_code_weights is not None:
            self.bev_codes = nn.Conv2d(bev_channels, NUM_CODES, 1)
            self.code_losses = LossFunctions(self.focal, MSELoss(), tuple(bev_code_weights))

    def loss(self, bev_BCHW: Tensor | None, image_MCHW: Tensor | None, metas: Sequence[dict]) -> dict[str, Tensor]:
        """``loss_bev_heatmap``, ``loss_image_heatmap`` and, where asked for, ``loss_bev_codes``.

        A missing sensor has none if there is no map, and one of 0 in the samples where it was dropped.

        Args:
            image_MCHW: M = B * N views, sample-major.
            metas: with ground truth, ``lidar2img``, ``pad_shape`` and optionally ``sensor_state``.
        """
        device = self.bev.weight.device
        boxes, labels = ground_truth(metas, device)
        states = sensor_states(metas, device)
        samples = list(enumerate(zip(boxes, labels, strict=True)))
        losses = {}
        if bev_BCHW is not None:
            target = torch.stack([self.bev_target(b, l, bev_BCHW.shape[-2:]) for _, (b, l) in samples])
            present_B = states != SensorState.NO_LIDAR
            losses["loss_bev_heatmap"] = self._focal(self.bev(bev_BCHW), target, present_B)
            if self.bev_codes is not None:
                losses["loss_bev_codes"] = self._code_loss(self.bev_codes(bev_BCHW), boxes, present_B)
        if image_MCHW is not None:
            cameras, size = CameraGeometry.from_metas(metas, device), image_MCHW.shape[-2:]
            target = torch.stack([self.image_target(b, l, cameras, i, size) for i, (b, l) in samples])
            logits = self.image(image_MCHW).unflatten(0, target.shape[:2])
            present_B = states != SensorState.NO_CAMERAS
            losses["loss_image_heatmap"] = self._focal(logits, target, present_B)
        return losses

    def bev_target(self, boxes_n9: Tensor, labels_n: Tensor, size: Sequence[int]) -> Tensor:
        """[C, H, W] with 1 in the cell of every centre; the Gaussian's width is a quarter of the box's."""
        rows, cols = size
        x0, y0, _, x1, y1, _ = self.pc_range
        scale = boxes_n9.new_tensor([cols / (x1 - x0), rows / (y1 - y0)])
        centre = (boxes_n9[:, :2] - boxes_n9.new_tensor([x0, y0])) * scale
        sigma = boxes_n9[:, 3:5].amin(-1) / 4 * scale.min()
        return self._gaussians(centre, sigma, labels_n, rows, cols)

    def image_target(
        self, boxes_n9: Tensor, labels_n: Tensor, cameras: CameraGeometry, sample: int, size: Sequence[int]
    ) -> Tensor:
        """[N, C, h, w], the same for every view, at the projected centres of the boxes that the view sees."""
        rows, cols = size
        matrices, shapes = cameras.lidar2img_BN44[sample : sample + 1], cameras.key_BN2[sample : sample + 1]
        top = boxes_n9[:, :3].clone()
        top[:, 2] += boxes_n9[:, 5] / 2
        pixel, seen = project_to_cameras(boxes_n9[None, :, :3], matrices, shapes)
        pixel_top, _ = project_to_cameras(top[None], matrices, shapes)
        half_height = (pixel_top - pixel).norm(dim=-1)[0]  # [n, N] pixels
        targets = []
        for view in range(cameras.num_views):
            visible_n = seen[0, :, view]
            height, width = shapes[0, view].tolist()
            scale = boxes_n9.new_tensor([cols / width, rows / height])
            centre = pixel[0, visible_n, view] * scale
            sigma = half_height[visible_n, view] / 2 * scale.min()
            targets.append(self._gaussians(centre, sigma, labels_n[visible_n], rows, cols))
        return torch.stack(targets)

    def code_target(self, boxes_n9: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cells [k] (row-major) around the centres, and the box [k, 9] of the nearest one, x and y from the cell."""
        rows, cols = size
        x0, y0, _, x1, y1, _ = self.pc_range
        cell = boxes_n9.new_tensor([(x1 - x0) / cols, (y1 - y0) / rows])
        y, x = torch.meshgrid(torch.arange(rows).to(cell) + 0.5, torch.arange(cols).to(cell) + 0.5, indexing="ij")
        position_K2 = torch.stack([x, y], -1).flatten(0, 1) * cell + boxes_n9.new_tensor([x0, y0])
        if not len(boxes_n9):
            return torch.zeros(0, dtype=torch.long, device=cell.device), boxes_n9
        offset_Kn2 = boxes_n9[None, :, :2] - position_K2[:, None]
        outside_Kn = (offset_Kn2 / cell).abs().amax(-1) > CODE_REACH
        distance_K, nearest_K = offset_Kn2.norm(dim=-1).masked_fill(outside_Kn, torch.inf).min(1)
        cells_k = distance_K.isfinite().nonzero()[:, 0]
        nearest_k = nearest_K[cells_k]
        return cells_k, torch.cat([offset_Kn2[cells_k, nearest_k], boxes_n9[nearest_k, 2:]], 1)

    def _code_loss(self, codes_BDHW: Tensor, boxes: Sequence[Tensor], present_B: Tensor) -> Tensor:
        targets = [self.code_target(box, codes_BDHW.shape[-2:]) for box in _of_present(boxes, present_B)]
        codes_BKD = codes_BDHW.flatten(2).transpose(1, 2)
        codes_kD = torch.cat([codes_BKD[sample, cells] for sample, (cells, _) in enumerate(targets)]).float()
        count = process_mean(len(codes_kD), codes_kD) if self.sync_factors else float(len(codes_kD))
        # Squared errors: half of the objects stand still, so the median velocity, which an absolute error asks for, is
        # 0 until a feature is sure that something moves.
        codes_kD = torch.cat([codes_kD[:, :8], VELOCITY_UNIT * codes_kD[:, 8:]], 1)
        return self.code_losses.boxes(codes_kD, torch.cat([target for _, target in targets]), count)

    def _gaussians(self, centre_n2: Tensor, sigma_n: Tensor, labels_n: Tensor, rows: int, cols: int) -> Tensor:
        """Maximum per class of Gaussians around the cells that hold the centres (x, y in cells)."""
        heat = centre_n2.new_zeros(self.num_classes, rows, cols)
        cell = centre_n2.floor()
        inside = (cell >= 0).all(-1) & (cell[:, 0] < cols) & (cell[:, 1] < rows)
        if not inside.any():
            return heat
        cell, sigma = cell[inside], sigma_n[inside].clamp(min=MIN_SIGMA)
        dx = torch.arange(cols, device=heat.device) - cell[:, :1]
        dy = torch.arange(rows, device=heat.device) - cell[:, 1:]
        distance = dy.square()[:, :, None] + dx.square()[:, None, :]
        blobs = torch.exp(-distance / (2 * sigma.square()[:, None, None]))
        return heat.index_reduce_(0, labels_n[inside], blobs, "amax")

    def _focal(self, logits: Tensor, target: Tensor, present_B: Tensor) -> Tensor:
        positives = target[present_B].eq(1).sum().item()
        positives = max(process_mean(positives, logits) if self.sync_factors else positives, 1)
        if not present_B.any():
            return logits.float().sum() * 0  # a sum in half precision may be infinite, and infinity * 0 is NaN
        logits, target = logits[present_B], target[present_B]
        # Half precision rounds 1 - 1e-4 to 1, and log(0) * 0 is NaN.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.focal(logits.sigmoid().clamp(1e-4, 1 - 1e-4), target, avg_factor=positives)


def _of_present(boxes: Sequence[Tensor], present_B: Tensor) -> list[Tensor]:
    """The boxes of every sample; none where the sensor is missing."""
    return [box if present else box[:0] for box, present in zip(boxes, present_B.tolist(), strict=True)]
