"""The CMT heads: queries over a memory of BEV and image tokens, with attention bias and locality prior on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.model import BaseModule, ModuleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from aqr_bench.bias import AttentionBias, LocalityPrior, MemoryLayout
from aqr_bench.cmt.attention import set_backend
from aqr_bench.cmt.build import build_model, build_task_util, configured
from aqr_bench.cmt.denoising import DenoisingQueries, make_denoising_queries
from aqr_bench.cmt.embedding import PositionEmbeddings, inner, mlp
from aqr_bench.cmt.encoding import inverse_sigmoid, to_metres
from aqr_bench.cmt.geometry import CameraGeometry, ground_truth, metas_of, sensor_states
from aqr_bench.cmt.head_losses import HeadLosses, Outputs
from aqr_bench.cmt.image_points import ImagePoints
from aqr_bench.cmt.losses import TaskSlice
from aqr_bench.cmt.transformer import Biases, LayerBias, fuse_memory
from aqr_bench.errors import UserError

OFFSET_UNIT_M = 4.0
COMMON_HEADS = dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2))


@MODELS.register_module()
class CmtHead(PositionEmbeddings, HeadLosses, BaseModule):
    """Fusion head of the Cross Modal Transformer (Yan et al., ICCV 2023).

    Parameter names, shapes and numbers are those of the official code. Different on purpose: every sample uses its
    own ``pad_shape`` and cameras (the official code takes sample 0's), maps need not be square, batches without
    objects and with more objects than queries train, and a NaN is let through instead of being turned into 0, so
    that a diverged run can be told.

    Args:
        in_channels: channels of the BEV map.
        num_query: matching queries, Q.
        hidden_dim: width C of queries and memory.
        depth_num: samples along a camera ray.
        scalar, noise_scale, noise_trans, split: denoising queries, see ``make_denoising_queries``; scalar 0 = none.
        dn_weight: weight of the denoising losses.
        train_cfg: ``assigner`` and ``code_weights``; None for inference only.
        tasks: one dict with ``class_names`` per task.
        common_heads: regression outputs, name -> (channels, convolutions).
        aqr: keyword arguments of :class:`aqr_bench.bias.AttentionBias` (less
            ``embed_dims``); None or {} = plain CMT.
        locality: keyword arguments of :class:`aqr_bench.bias.LocalityPrior` (less ``num_heads``);
            None or {} = none.
        image_points: keyword arguments of :class:`ImagePoints` (less ``channels``): image keys become points, with the
            position embedding of a BEV key there beside that of their ray; None or {} = rays, as CMT.
        attention_backend: see :func:`aqr_bench.bias.biased_attention`.
        reference_init: ``random`` (uniform in the range, as CMT) or ``grid`` (even in x and y, mid-height).
        bev_range: (x0, y0, x1, y1) in metres that the BEV map really covers, where it is not the whole
            point cloud range. Windows and the locality prior use it.
        stretch_bev_keys: place BEV keys as if the map covered the point cloud range, as the official code does even
            where it does not (voxel 0.1 m, 1024 of 1080 cells). False places them by ``bev_range``.
        centre_offset: ``logit``: the centre is the reference plus an offset in logit space, as CMT; an offset then
            means 19 m in the middle of the range and next to nothing at its rim. ``metres``: an offset in units of
            4 m, and the third code (``height``) as it comes: small models learn this sooner.
        refine_reference: centre the locality prior and the offsets of each layer on what the layer before predicted. In
            CMT all layers share one reference; a coarse grid of few queries then never looks at the right pixels.
        downsample_scale, norm_bbox, loss_heatmap, test_cfg: part of the official configs, which do not use them either.
    """

    uses_lidar = True
    uses_cameras = True

    def __init__(
        self,
        in_channels: int,
        num_query: int = 900,
        hidden_dim: int = 128,
        depth_num: int = 64,
        norm_bbox: bool = True,
        downsample_scale: int = 8,
        scalar: int = 10,
        noise_scale: float = 1.0,
        noise_trans: float = 0.0,
        dn_weight: float = 1.0,
        split: float = 0.75,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        common_heads: dict | None = None,
        tasks: Sequence[dict] = (),
        transformer: dict | None = None,
        bbox_coder: dict | None = None,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        loss_heatmap: dict | None = None,
        separate_head: dict | None = None,
        init_cfg: dict | None = None,
        aqr: dict | None = None,
        locality: dict | None = None,
        image_points: dict | None = None,
        attention_backend: str = "auto",
        reference_init: str = "random",
        bev_range: Sequence[float] | None = None,
        stretch_bev_keys: bool = True,
        centre_offset: str = "logit",
        refine_reference: bool = False,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if transformer is None or bbox_coder is None or not tasks:
            raise UserError("pts_bbox_head needs 'transformer', 'bbox_coder' and 'tasks'")
        if reference_init not in ("random", "grid"):
            raise UserError(f"pts_bbox_head.reference_init is '{reference_init}'; known: random, grid")
        self.class_names = [list(task["class_names"]) for task in tasks]
        counts = [len(names) for names in self.class_names]
        self.num_classes = counts
        self.task_slices = [TaskSlice(sum(counts[:i]), n) for i, n in enumerate(counts)]
        self.num_query, self.hidden_dim, self.depth_num = num_query, hidden_dim, depth_num
        self.scalar, self.noise_scale, self.noise_trans = scalar, noise_scale, noise_trans
        self.dn_weight, self.split = dn_weight, split
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        if centre_offset not in ("logit", "metres"):
            raise UserError(f"pts_bbox_head.centre_offset is '{centre_offset}'; known: logit, metres")
        if refine_reference and (centre_offset != "metres" or not locality or len(tasks) != 1):
            raise UserError(
                "pts_bbox_head.refine_reference needs centre_offset 'metres', a locality prior and exactly one task"
            )
        self.centre_offset, self.refine_reference = centre_offset, refine_reference
        self.reference_init, self.stretch_bev_keys = reference_init, stretch_bev_keys

        self.loss_cls = build_model(loss_cls or dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25))
        self.loss_bbox = build_model(loss_bbox or dict(type="L1Loss", loss_weight=0.25))
        self.bbox_coder = build_task_util(bbox_coder)
        self.pc_range = [float(v) for v in self.bbox_coder.pc_range]
        self.bev_range = self._check_bev_range(bev_range)
        self.assigner = build_task_util(train_cfg["assigner"]) if train_cfg else None

        if self.uses_lidar:
            self.shared_conv = ConvModule(
                in_channels, hidden_dim, 3, padding=1, conv_cfg=dict(type="Conv2d"), norm_cfg=dict(type="BN2d")
            )
        self.transformer = build_model(transformer)
        if self.transformer.embed_dims != hidden_dim:
            raise UserError(
                f"pts_bbox_head.hidden_dim is {hidden_dim}, but the transformer's embed_dims is "
                f"{self.transformer.embed_dims}; they have to be equal"
            )
        self.reference_points = nn.Embedding(num_query, 3)
        self.bev_embedding = mlp(hidden_dim * 2, hidden_dim, hidden_dim)
        if self.uses_cameras:
            self.rv_embedding = mlp(depth_num * 3, hidden_dim * 4, hidden_dim)
        # mmengine's list passes init_weights on; torch's, which the official code uses, leaves the -2.19 unset.
        self.task_heads = ModuleList(
            build_model(
                {
                    **(separate_head or dict(type="SeparateTaskHead")),
                    "in_channels": hidden_dim,
                    "heads": {**(common_heads or COMMON_HEADS), "cls_logits": (n, 2)},
                    "groups": self.transformer.decoder.num_layers,
                }
            )
            for n in counts
        )
        self.locality = self.aqr = None
        if locality:
            heads = self.transformer.decoder.layers[0].attentions[-1].num_heads
            self.locality = configured(LocalityPrior, "locality", dict(locality), num_heads=heads)
        self.image_points = None
        if image_points and self.uses_cameras:
            self.image_points = configured(ImagePoints, "image_points", dict(image_points), channels=hidden_dim)
        if aqr:  # an empty dict is what overrides of single keys are merged into
            self.aqr = configured(AttentionBias, "aqr", dict(aqr), embed_dims=hidden_dim)
            if (self.aqr.site, self.aqr.layers) == ("self", "first"):
                raise UserError(
                    "pts_bbox_head.aqr: site 'self' with layers 'first' changes nothing: queries start at zero, so the "
                    "values of the first self-attention are all equal; use layers 'all' or 'last'"
                )
        set_backend(self.transformer, attention_backend)
        self._place_references()

    def init_weights(self) -> None:
        """Initialise the children, then the reference points."""
        super().init_weights()
        self._place_references()

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        pts_feats: Sequence[Tensor | None] | None,
        img_feats: Sequence[Tensor | None] | None = None,
        img_metas: Sequence[dict] | None = None,
    ) -> Outputs:
        """Predictions of every decoder layer.

        Args:
            pts_feats: BEV maps [B, in_channels, H, W] (rows = y); the first is used. ``[None]``: there is no LiDAR, and
                the memory has no BEV tokens. (CMT's missing-LiDAR test is another thing: a cloud of zeros.)
            img_feats: image maps [B * N, hidden_dim, H, W], sample-major; the first is used. ``[None]`` likewise.
            img_metas: per sample ``lidar2img`` (N x 4 x 4) and ``pad_shape`` (per view); in training also
                ``gt_bboxes_3d`` and ``gt_labels_3d``; optionally ``sensor_state`` and ``batch_input_shape``.

        Returns:
            [task][0] -> dict of center, height, dim, rot, vel, cls_logits, each [layers, B, Q, C]. In training with
            objects also ``dn_*`` and ``dn_queries``; with a router also ``aqr`` (its output, the sensor states).
        """
        bev = pts_feats[0] if self.uses_lidar and pts_feats else None
        images = img_feats[0] if self.uses_cameras and img_feats else None
        if images is not None and len(images) == 0:  # a rig of zero cameras
            images = None
        if bev is None and images is None:
            raise ValueError(f"{type(self).__name__} got no features at all")
        device = (bev if bev is not None else images).device
        with torch.autocast(device_type=device.type, enabled=False):  # CMT keeps its head in float32
            return self._forward(
                None if bev is None else bev.float(), None if images is None else images.float(), list(img_metas)
            )

    def _forward(self, bev: Tensor | None, images: Tensor | None, metas: list[dict]) -> Outputs:
        device = self.reference_points.weight.device
        cameras = bev_pos = image_pos = camera_shape = None
        if bev is not None:
            if bev.shape[0] != len(metas):
                raise ValueError(f"{bev.shape[0]} BEV maps for {len(metas)} samples")
            bev = self.shared_conv(bev)
            bev_pos = self.bev_pos_embed(*bev.shape[-2:])
        if images is not None:
            cameras = CameraGeometry.from_metas(metas, device)
            if images.shape[0] != len(metas) * cameras.num_views:
                raise ValueError(
                    f"{images.shape[0]} image maps for {len(metas)} samples of {cameras.num_views} cameras each"
                )
            images = images.unflatten(0, (len(metas), cameras.num_views))
            image_pos = self.rv_pos_embed(cameras, *images.shape[-2:])
            camera_shape = (cameras.num_views, *images.shape[-2:])
        layout = MemoryLayout(None if bev is None else tuple(bev.shape[-2:]), camera_shape, tuple(self.bev_range))
        spots = None
        if images is not None and self.image_points is not None:
            found = self.image_points(images, cameras)
            spots = found.detach()  # they learn from their own loss: the decoder takes them as given
            image_pos = image_pos + self.spot_embed(spots).view_as(image_pos)

        reference, denoising = self.references(metas)
        query_pos = self.query_embed(reference, cameras)
        memory, memory_pos = fuse_memory(bev, bev_pos, images, image_pos)
        centres: list[Tensor] = []  # per layer, what its offsets start from: filled while the decoder runs
        biases, aqr_out = self._biases(reference, query_pos, memory, memory_pos, cameras, layout, metas, centres, spots)
        mask = None if denoising is None else denoising.attn_mask
        decoded = self.transformer(query_pos, memory, memory_pos, mask, biases)

        results = []
        for task_head in self.task_heads:
            outputs: dict[str, Any] = self._locate(task_head(decoded), reference, centres)
            if denoising is not None:
                pad = denoising.pad_size
                for key, value in list(outputs.items()):
                    outputs[f"dn_{key}"], outputs[key] = value[:, :, :pad], value[:, :, pad:]
                outputs["dn_queries"] = denoising
            if aqr_out is not None:
                outputs["aqr"] = (aqr_out, sensor_states(metas, device))
            if spots is not None and self.training:
                outputs["image_points"] = (found, cameras, metas, images.shape[-2:])
            results.append([outputs])
        return tuple(results)

    def image_points_loss(self, images: Tensor, metas: Sequence[dict]) -> Tensor:
        """Loss of the image points alone, of an image map [B * N, C, h, w]; in float32, as all of the head."""
        cameras = CameraGeometry.from_metas(metas, images.device)
        with torch.autocast(device_type=images.device.type, enabled=False):
            images = images.float().unflatten(0, (len(metas), cameras.num_views))
            return self.image_points.loss(self.image_points(images, cameras), cameras, metas, images.shape[-2:])

    def references(self, metas: Sequence[dict]) -> tuple[Tensor, DenoisingQueries | None]:
        """Normalised reference points [B, P + Q, 3], denoising queries (training only) first."""
        matching = self.reference_points.weight.expand(len(metas), -1, -1)
        if not self.training or self.scalar == 0:
            return matching, None
        boxes, labels = ground_truth(metas, matching.device)
        denoising = make_denoising_queries(
            boxes,
            labels,
            num_query=self.num_query,
            num_classes=sum(self.num_classes),
            pc_range=self.pc_range,
            scalar=self.scalar,
            noise_scale=self.noise_scale,
            noise_trans=self.noise_trans,
            split=self.split,
        )
        if denoising is None:
            return matching, None
        return torch.cat((denoising.reference_BP3.to(matching), matching), dim=1), denoising

    def _biases(
        self,
        reference: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        cameras: CameraGeometry | None,
        layout: MemoryLayout,
        metas: Sequence[dict],
        centres: list[Tensor],
        spots: Tensor | None,
    ) -> tuple[Biases, Any]:
        """What every decoder layer adds to its scores, and the router's output (None without a router).

        With ``refine_reference`` it is a function that follows the decoder and notes in ``centres`` the points
        (metres) that the prior of each layer was centred on.
        """
        if self.aqr is None and self.locality is None:
            return None, None
        points = to_metres(inner(reference), self.pc_range)
        matrices = None if cameras is None else cameras.lidar2img_BN44
        sizes = None if cameras is None else cameras.key_BN2
        count = self.transformer.decoder.num_layers
        pairs, out = [(None, None)] * count, None
        if self.aqr is not None:
            states = sensor_states(metas, memory.device)
            target = torch.zeros_like(query_pos)
            out = self.aqr(target, query_pos, memory, memory_pos, points, matrices, sizes, layout, states)
            pairs = [self.aqr.for_layer(out, i, count) for i in range(count)]
        if not self.refine_reference:
            prior = None if self.locality is None else self.locality(points, matrices, sizes, layout, spots)
            return [LayerBias(cross, own, prior) for cross, own in pairs], out

        def follow(index: int, x: Tensor | None) -> LayerBias:
            centres.append(points if x is None else self._predicted_centres(x, index - 1, centres[-1]))
            return LayerBias(*pairs[index], self.locality(centres[-1], matrices, sizes, layout, spots))

        return follow, out

    def _predicted_centres(self, x_BQC: Tensor, layer: int, before_BQ3: Tensor) -> Tensor:
        """Gravity centres [B, Q, 3] (metres) that ``layer`` predicts, kept in the range, without gradient."""
        found = self.task_heads[0].one_layer(x_BQC, layer, ("center", "dim"))
        # The second number of ``dim`` is z: see the order of the codes in MultiTaskBBoxCoder.
        xy = OFFSET_UNIT_M * found["center"] + before_BQ3[..., :2]
        centre = torch.cat([xy, found["dim"][..., 1:2]], -1).detach()
        low, high = centre.new_tensor(self.pc_range[:3]), centre.new_tensor(self.pc_range[3:])
        return centre.clamp(low, high)

    def _locate(
        self, outputs: dict[str, Tensor], reference_BQ3: Tensor, centres: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        """Offsets around the reference points to values in the point cloud range: center in metres, height likewise."""
        if self.centre_offset == "metres":
            outputs = dict(outputs)
            points = torch.stack(list(centres)) if centres else to_metres(inner(reference_BQ3), self.pc_range)
            outputs["center"] = OFFSET_UNIT_M * outputs["center"] + points[..., :2]
            return outputs
        logits = inverse_sigmoid(reference_BQ3)
        low, high = logits.new_tensor(self.pc_range[:3]), logits.new_tensor(self.pc_range[3:])
        outputs = dict(outputs)
        outputs["center"] = (outputs["center"] + logits[..., :2]).sigmoid() * (high - low)[:2] + low[:2]
        outputs["height"] = (outputs["height"] + logits[..., 2:]).sigmoid() * (high - low)[2:] + low[2:]
        return outputs

    # ------------------------------------------------------------------ inference

    def predict(self, pts_feats: Sequence, img_feats: Sequence, batch_data_samples: Sequence) -> list[InstanceData]:
        """Boxes of every sample as InstanceData: ``bboxes_3d``, ``scores_3d``, ``labels_3d``."""
        metas = metas_of(batch_data_samples, with_truth=False)
        found = self.get_bboxes(self(pts_feats, img_feats, metas), metas)
        return [InstanceData(bboxes_3d=b, scores_3d=s, labels_3d=l) for b, s, l in found]

    def get_bboxes(self, preds_dicts: Outputs, img_metas: Sequence[dict], rescale: bool = False) -> list[list]:
        """[boxes, scores, labels] per sample; boxes have bottom centres, as mmdet3d stores them."""
        results = []
        for meta, found in zip(img_metas, self.bbox_coder.decode(preds_dicts), strict=True):
            boxes = found["bboxes"].clone()
            boxes[:, 2] -= boxes[:, 5] * 0.5
            kind = meta.get("box_type_3d", LiDARInstance3DBoxes)
            results.append([kind(boxes, boxes.shape[-1]), found["scores"], found["labels"]])
        return results

    # ------------------------------------------------------------------ details

    def _check_bev_range(self, bev_range: Sequence[float] | None) -> list[float]:
        if bev_range is None:
            return list(self.pc_range)
        if len(bev_range) != 4 or bev_range[0] >= bev_range[2] or bev_range[1] >= bev_range[3]:
            raise UserError(
                f"pts_bbox_head.bev_range is {list(bev_range)}; expected x0, y0, x1, y1 with x0 < x1, y0 < y1"
            )
        x0, y0, x1, y1 = (float(v) for v in bev_range)
        return [x0, y0, self.pc_range[2], x1, y1, self.pc_range[5]]


@MODELS.register_module()
class CmtLidarHead(CmtHead):
    """CMT on LiDAR alone. ``img_feats`` is not looked at; metadata needs no cameras."""

    uses_cameras = False


@MODELS.register_module()
class CmtImageHead(CmtHead):
    """CMT on cameras alone. ``pts_feats`` is not looked at."""

    uses_lidar = False
