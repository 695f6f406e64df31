"""A batch's metadata as tensors: camera matrices, image sizes, sensor states and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aqr_bench.cmt.encoding import projections, view_shapes
from aqr_bench.sensor_state import SensorState


@dataclass(frozen=True)
class CameraGeometry:
    """Cameras of a batch; samples may differ in image size.

    lidar2img_BN44, img2lidar_BN44: between the LiDAR frame (metres) and pixels of the padded image.
    view_BN2: (h, w) of each padded image: what counts as "inside the image".
    key_BN2: (h, w) in pixels that the feature map covers: the padded image again, or the batch's common size
        where samples of different sizes were padded to one.
    """

    lidar2img_BN44: Tensor
    img2lidar_BN44: Tensor
    view_BN2: Tensor
    key_BN2: Tensor

    @property
    def num_views(self) -> int:
        return self.lidar2img_BN44.shape[1]

    def of_sample(self, sample: int) -> CameraGeometry:
        """The cameras of one sample, as a batch of one."""
        tensors = (self.lidar2img_BN44, self.img2lidar_BN44, self.view_BN2, self.key_BN2)
        return CameraGeometry(*(tensor[sample : sample + 1] for tensor in tensors))

    @classmethod
    def from_metas(cls, metas: Sequence[dict], device: torch.device) -> CameraGeometry:
        """Needs ``lidar2img`` and ``pad_shape``; ``batch_input_shape`` is used where all samples have it."""
        forward, inverse = projections(metas)
        views = view_shapes(metas, forward.shape[1])
        padded_to_one = all("batch_input_shape" in meta for meta in metas)
        keys = view_shapes(metas, forward.shape[1], "batch_input_shape") if padded_to_one else views
        return cls(*(torch.as_tensor(a, dtype=torch.float32).to(device) for a in (forward, inverse, views, keys)))


def ground_truth(metas: Sequence[dict], device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes [n, 9] (gravity centre, l, w, h, yaw, vx, vy; metres) and labels [n] of every sample.

    Raises:
        KeyError: a sample lacks ``gt_bboxes_3d`` or ``gt_labels_3d``; training needs both for its denoising queries.
    """
    for index, meta in enumerate(metas):
        for key in ("gt_bboxes_3d", "gt_labels_3d"):
            if key not in meta:
                raise KeyError(f"training needs '{key}' in the metadata of sample {index} of the batch")
    boxes = [gravity_boxes(meta["gt_bboxes_3d"], device) for meta in metas]
    return boxes, [label_tensor(meta["gt_labels_3d"], device) for meta in metas]


def gravity_boxes(boxes, device: torch.device) -> Tensor:
    """LiDARInstance3DBoxes (or a container of them) to [n, 7 or 9] with gravity centres."""
    boxes = getattr(boxes, "_data", boxes)
    return torch.cat((boxes.gravity_center, boxes.tensor[:, 3:]), dim=1).to(device)


def label_tensor(labels, device: torch.device) -> Tensor:
    """Labels (or a container of them) as a long tensor [n]."""
    return torch.as_tensor(getattr(labels, "_data", labels), device=device).long()


def sensor_states(metas: Sequence[dict], device: torch.device) -> Tensor:
    """``sensor_state`` (:class:`SensorState`) of every sample, [B] long; clean by default."""
    states = [int(meta.get("sensor_state", SensorState.CLEAN)) for meta in metas]
    return torch.tensor(states, dtype=torch.long).to(device, non_blocking=True)


def metas_of(batch_data_samples: Sequence, with_truth: bool) -> list[dict]:
    """Metadata of Det3DDataSamples, with the ground truth added for training."""
    metas = [dict(sample.metainfo) for sample in batch_data_samples]
    if with_truth:
        for meta, sample in zip(metas, batch_data_samples, strict=True):
            meta["gt_bboxes_3d"] = sample.gt_instances_3d.bboxes_3d
            meta["gt_labels_3d"] = sample.gt_instances_3d.labels_3d
    return metas
