"""CmtDetector: points and images of a batch to BEV and image features, and to the head."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from mmdet3d.models.detectors import MVXTwoStageDetector
from mmdet3d.models.middle_encoders import SparseEncoder
from mmdet3d.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor

from aqr_bench.cmt.build import scoped
from aqr_bench.cmt.feature_cache import FeatureCache
from aqr_bench.cmt.geometry import metas_of
from aqr_bench.cmt.grid_mask import GridMask
from aqr_bench.cmt.sparse_kernels import accept_both_layouts
from aqr_bench.cmt.voxelize import HardVoxelizer
from aqr_bench.errors import UserError, nearest

_PARTS = ("pts_voxel_encoder", "pts_middle_encoder", "pts_backbone", "pts_neck", "img_backbone", "img_neck")
_CONVOLUTIONAL = ("pts_backbone", "pts_neck", "img_backbone", "img_neck")
# Cells of the voxel grid per side: the sparse encoder divides by 8, the pyramid behind it once more by 2.
_GRID_MULTIPLE = 16


@MODELS.register_module()
class CmtDetector(MVXTwoStageDetector):
    """Cross Modal Transformer: LiDAR only, cameras only, or both, by which parts the config has.

    Inputs are those of mmdet3d 1.4: ``points`` (list of [P_i, C]) and ``imgs`` [B, N, 3, H, W]. The submodules carry
    the official names (``pts_backbone``, ``img_backbone``, ``pts_bbox_head``, ...).

    Args:
        use_grid_mask: GridMask on the images in training.
        channels_last: keep convolution weights and maps channels-last, which is a third faster on CPUs. Numbers
            change by rounding only, names and shapes not at all.
        auxiliary: config of :class:`AuxiliaryHeatmaps`, for training of the small tiers; None in CMT.
        consistent_grid: make the sparse grid cover the whole point cloud range and place the BEV keys where they are.
            The published r50 config has 1024 cells of 0.1 m for 108 m, which cuts off all beyond 48.4 m and stretches
            the keys' positions by 5.5 %. Parameters keep their names and shapes; configs whose grid fits stay as is.
        features_only: ``lidar`` or ``cameras``: train that branch alone, by the auxiliary losses and that of the image
            points; nothing else changes. Published CMT models start from an image backbone that was trained for
            monocular detection; the small tiers get theirs in this way.
        sync_factors: where several processes train, divide losses by counts of objects averaged over all of them, as a
            single process with all samples would; CMT counts in each process (but for boxes of denoising queries).
        frozen: names of submodules (``pts_middle_encoder``, ``img_backbone``, ...) that are not trained. They stay in
            eval mode, so that their batch statistics do not change. On a CPU the sparse encoder has to be among them:
            spconv has no backward there.
        pts_voxel_layer: arguments of :class:`HardVoxelizer`; None without a LiDAR branch.
        train_cfg, test_cfg: with a key ``pts`` that is handed to the head.
    """

    def __init__(
        self,
        use_grid_mask: bool = False,
        channels_last: bool = False,
        pts_voxel_layer: dict | None = None,
        auxiliary: dict | None = None,
        consistent_grid: bool = False,
        features_only: str | None = None,
        sync_factors: bool = False,
        frozen: Sequence[str] = (),
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **parts,
    ) -> None:
        resolved = {k: scoped(v) if k in _PARTS and v is not None else v for k, v in parts.items()}
        if resolved.get("pts_bbox_head") is not None:
            resolved["pts_bbox_head"] = ConfigDict(resolved["pts_bbox_head"])  # the parent writes into it
        if consistent_grid and pts_voxel_layer is not None:
            resolved = _consistent(resolved, pts_voxel_layer)
        if isinstance(resolved.get("data_preprocessor"), dict):
            # Built here, so that the name resolves also without mmengine's default scope.
            resolved["data_preprocessor"] = MODELS.build(resolved["data_preprocessor"])
        super().__init__(
            train_cfg=None if train_cfg is None else ConfigDict(train_cfg),
            test_cfg=None if test_cfg is None else ConfigDict(test_cfg),
            **resolved,
        )
        if not self.with_pts_bbox:
            raise UserError("model.pts_bbox_head is missing: CmtDetector needs a head")
        head = self.pts_bbox_head
        if head.uses_lidar and (pts_voxel_layer is None or not self.with_pts_backbone):
            raise UserError(f"{type(head).__name__} needs model.pts_voxel_layer and model.pts_backbone")
        if head.uses_cameras and not self.with_img_backbone:
            raise UserError(f"{type(head).__name__} needs model.img_backbone")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        for module in (*(getattr(self, name, None) for name in _CONVOLUTIONAL), getattr(head, "shared_conv", None)):
            if module is not None:
                module.to(memory_format=self.memory_format)
        self.grid_mask = GridMask() if use_grid_mask else None
        self.auxiliary = None if auxiliary is None else MODELS.build(auxiliary)
        self.pts_voxel_layer = None if pts_voxel_layer is None else HardVoxelizer(**pts_voxel_layer)
        self.sparse_encoder = isinstance(getattr(self, "pts_middle_encoder", None), SparseEncoder)
        if self.sparse_encoder:
            accept_both_layouts(self.pts_middle_encoder)
        if features_only not in (None, "lidar", "cameras"):
            raise UserError(f"model.features_only is '{features_only}'; known: lidar, cameras, or None")
        if features_only and self.auxiliary is None:
            raise UserError("model.features_only needs model.auxiliary: there is no other loss on features alone")
        self.features_only = features_only
        for part in (head, self.auxiliary, getattr(head, "image_points", None)):
            if part is not None:
                part.sync_factors = sync_factors
        self.feature_cache: FeatureCache | None = None  # of frozen branches; whoever runs the model may set one
        settings = {"pts_voxel_layer": pts_voxel_layer, **{name: resolved.get(name) for name in _PARTS}}
        self._branch_settings = {
            prefix: repr((channels_last, [(k, v) for k, v in settings.items() if k.startswith(prefix)]))
            for prefix in ("pts_", "img_")
        }
        self._branch_digests: dict[str, bytes] = {}
        self.frozen = tuple(frozen)
        for name in self.frozen:
            if getattr(self, name, None) is None:
                names = [child for child, _ in self.named_children()]
                raise UserError(f"model.frozen: this model has no part '{name}'{nearest(name, names)}")
        self._freeze()

    def train(self, mode: bool = True) -> CmtDetector:
        super().train(mode)
        self._freeze()
        self._branch_digests.clear()
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._branch_digests.clear()

    def _freeze(self) -> None:
        for name in self.frozen:
            part = getattr(self, name)
            part.eval()  # mmdet's ResNet returns None
            part.requires_grad_(False)

    # ------------------------------------------------------------------ features

    def extract_feat(
        self, batch_inputs_dict: dict, batch_input_metas: Sequence[dict] | None = None
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Image features [B * N, C, h, w] and BEV features [B, C, H, W] per level; ``[None]`` for an absent sensor.

        A sensor is absent where the batch has no ``points`` or no ``imgs`` (or images of zero cameras): its tokens are
        then left out of the memory. That is not CMT's missing-sensor test, which keeps the sensor and blanks its data.

        Raises:
            UserError: nothing that the head could use is there.
        """
        head = self.pts_bbox_head
        points = batch_inputs_dict.get("points") if head.uses_lidar else None
        images = batch_inputs_dict.get("imgs") if head.uses_cameras else None
        if images is not None and images.numel() == 0:
            images = None
        if points is None and images is None:
            needed = [name for name, used in (("points", head.uses_lidar), ("images", head.uses_cameras)) if used]
            raise UserError(f"{type(head).__name__} needs {' or '.join(needed)}, but the batch has none")
        img_feats = [None] if images is None else self._features("img_", self.extract_img_feat, images)
        pts_feats = [None] if points is None else self._features("pts_", self.extract_pts_feat, points)
        return img_feats, pts_feats

    def _features(
        self, prefix: str, extract: Callable[..., list[Tensor]], inputs: Tensor | Sequence[Tensor]
    ) -> list[Tensor]:
        """``extract(inputs)``, from the cache where there is one and all of the branch is frozen.

        With a cache each sample is computed by itself, so that its features cannot depend on which others are stored.
        They are those of a batch bit for bit, as far as torch's kernels treat each sample alike; the tests check it.
        """
        names = [name for name in _PARTS if name.startswith(prefix) and getattr(self, name, None) is not None]
        parts, device, cache = [getattr(self, name) for name in names], inputs[0].device.type, self.feature_cache
        masked = prefix == "img_" and self.grid_mask is not None and self.training
        if cache is None or masked or device != "cpu" or torch.is_autocast_enabled(device) or not self._is_fixed(names):
            return extract(inputs)
        if prefix not in self._branch_digests:
            self._branch_digests[prefix] = cache.branch_digest(self._branch_settings[prefix], parts, self.training)
        branch = self._branch_digests[prefix]
        samples = [cache.levels(branch, inputs[i], lambda i=i: extract(inputs[i : i + 1])) for i in range(len(inputs))]
        return [torch.cat(levels) for levels in zip(*samples, strict=True)]

    def _is_fixed(self, names: Sequence[str]) -> bool:
        """Whether parts always give the same output for the same input: those with weights are frozen, in eval mode."""
        for name in names:
            part = getattr(self, name)
            if next(chain(part.parameters(), part.buffers()), None) is None:
                continue  # pillars are scattered without any
            learns = any(p.requires_grad for p in part.parameters())
            if name not in self.frozen or learns or any(module.training for module in part.modules()):
                return False
        return True

    def extract_img_feat(self, img: Tensor, input_metas: Sequence[dict] | None = None) -> list[Tensor]:
        """[B, N, 3, H, W] (or [B, 3, H, W] with one camera) -> levels of [B * N, C, h, w]."""
        img = img.flatten(0, 1) if img.dim() == 5 else img
        if self.grid_mask is not None:
            img = self.grid_mask(img)
        feats = self.img_backbone(img.contiguous(memory_format=self.memory_format))
        feats = list(feats.values()) if isinstance(feats, dict) else feats
        return list(self.img_neck(feats)) if self.with_img_neck else list(feats)

    def extract_pts_feat(self, points: Sequence[Tensor]) -> list[Tensor]:
        """Clouds [P_i, C] -> levels of BEV maps [B, C, H, W], rows along y. The voxel part runs in float32."""
        with torch.autocast(device_type=points[0].device.type, enabled=False):
            voxels, counts, coors = self.pts_voxel_layer(points)
            x = self.pts_voxel_encoder(voxels, counts, coors)
            if self.sparse_encoder and x.device.type == "cpu" and _learns(self.pts_middle_encoder):
                raise UserError(
                    "the sparse encoder cannot learn on a CPU: spconv has no backward there. "
                    "Train on a GPU, or freeze it: model.frozen = ['pts_middle_encoder']"
                )
            x = self.pts_middle_encoder(x, coors, len(points))
        x = self.pts_backbone(x.contiguous(memory_format=self.memory_format))
        return list(self.pts_neck(x)) if self.with_pts_neck else list(x)

    # ------------------------------------------------------------------ mmengine's three modes

    def loss(self, batch_inputs_dict: dict, batch_data_samples: Sequence, **kwargs) -> dict[str, Tensor]:
        """Losses of a batch; see :meth:`CmtHead.loss_by_feat` for the keys."""
        if self.features_only:
            return self._feature_losses(batch_inputs_dict, metas_of(batch_data_samples, with_truth=True))
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict)
        losses = self.pts_bbox_head.loss(pts_feats, img_feats, batch_data_samples)
        # Where the branches and the heat maps are frozen, nothing would learn from their loss.
        if self.auxiliary is not None and (_learns(self.auxiliary) or _have_gradients(pts_feats[0], img_feats[0])):
            metas = metas_of(batch_data_samples, with_truth=True)
            losses.update(self.auxiliary.loss(pts_feats[0], img_feats[0], metas))
        return losses

    def _feature_losses(self, batch_inputs_dict: dict, metas: Sequence[dict]) -> dict[str, Tensor]:
        if self.features_only == "lidar":
            return self.auxiliary.loss(self.extract_pts_feat(batch_inputs_dict["points"])[0], None, metas)
        images = self.extract_img_feat(batch_inputs_dict["imgs"])[0]
        losses = self.auxiliary.loss(None, images, metas)
        image_points = self.pts_bbox_head.image_points
        if image_points is not None:
            losses["loss_image_points"] = image_points.loss_of_features(images, metas)
        return losses

    def predict(self, batch_inputs_dict: dict, batch_data_samples: Sequence, **kwargs) -> Sequence:
        """The data samples with ``pred_instances_3d`` filled in."""
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict)
        detections = self.pts_bbox_head.predict(pts_feats, img_feats, batch_data_samples)
        return self.add_pred_to_datasample(batch_data_samples, detections)

    def _forward(self, batch_inputs_dict: dict, batch_data_samples: Sequence, **kwargs) -> tuple:
        """Raw outputs of the head, without post-processing."""
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict)
        return self.pts_bbox_head(pts_feats, img_feats, metas_of(batch_data_samples, with_truth=self.training))


def _learns(module: torch.nn.Module) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())


def _have_gradients(*features: Tensor | None) -> bool:
    return any(feature is not None and feature.requires_grad for feature in features)


def _consistent(parts: dict, voxel_layer: dict) -> dict:
    """Copies of the part configs: a sparse grid over the whole range, and a head with that BEV range."""
    low, high = voxel_layer["point_cloud_range"][:3], voxel_layer["point_cloud_range"][3:]
    size = voxel_layer["voxel_size"]
    cells = [math.ceil(round((high[i] - low[i]) / size[i], 6) / _GRID_MULTIPLE) * _GRID_MULTIPLE for i in (0, 1)]
    encoder, head = dict(parts["pts_middle_encoder"]), copy.deepcopy(parts["pts_bbox_head"])
    if "sparse_shape" not in encoder:
        raise UserError("model.consistent_grid is for models with a sparse encoder (pts_middle_encoder.sparse_shape)")
    encoder["sparse_shape"] = [encoder["sparse_shape"][0], cells[1], cells[0]]
    head["stretch_bev_keys"] = False
    head["bev_range"] = [low[0], low[1], low[0] + cells[0] * size[0], low[1] + cells[1] * size[1]]
    return {**parts, "pts_middle_encoder": encoder, "pts_bbox_head": head}
