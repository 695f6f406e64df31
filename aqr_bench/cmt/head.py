"""The CMT heads: queries over a memory of BEV and image tokens, with attention bias and locality prior on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from aqr_bench.bias import LocalityPrior, MemoryLayout
from aqr_bench.bias.arguments import attention_bias, from_kwargs
from aqr_bench.cmt.attention import set_attention_dtype, set_backend
from aqr_bench.cmt.build import bev_range_3d, build_model, build_task_util
from aqr_bench.cmt.coder import add_logit_offsets, add_metre_offsets, clamped_centres
from aqr_bench.cmt.denoising import DenoisingQueries, make_denoising_queries
from aqr_bench.cmt.embedding import PositionEmbeddings, grid_references, mlp
from aqr_bench.cmt.encoding import clamp_reference, to_metres
from aqr_bench.cmt.geometry import CameraGeometry, gravity_boxes, ground_truth, label_tensor, metas_of, sensor_states
from aqr_bench.cmt.head_losses import HeadLosses
from aqr_bench.cmt.image_points import ImagePoints
from aqr_bench.cmt.layer_bias import PLAIN_CMT, BiasOfLayer, Memory, make_biases
from aqr_bench.cmt.losses import LossFunctions, TaskSlice
from aqr_bench.cmt.task_head import task_heads
from aqr_bench.cmt.transformer import DecoderOutput, fuse_memory
from aqr_bench.errors import UserError

Outputs = tuple[list[dict[str, Any]], ...]  # [task][level] -> name: [layers, B, Q, C]


@MODELS.register_module()
class CmtHead(BaseModule):
    """Fusion head of the Cross Modal Transformer (Yan et al., ICCV 2023).

    Parameter names, shapes and numbers are those of the official code. Different on purpose: every sample uses its
    own ``pad_shape`` and cameras (the official code takes sample 0's), maps need not be square, batches without
    objects and with more objects than queries train, and a NaN is passed on instead of being turned into 0, so
    that a diverged run is recognised.

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
        aqr: keyword arguments of :class:`aqr_bench.bias.AttentionBias` (less ``embed_dims``); None or {} = plain CMT.
        locality: keyword arguments of :class:`aqr_bench.bias.LocalityPrior` (less ``num_heads``); None or {} = none.
        image_points: keyword arguments of :class:`ImagePoints` (less ``channels``): image keys become points, with the
            position embedding of a BEV key there beside that of their ray; None or {} = rays, as CMT.
        attention_backend: see :func:`aqr_bench.bias.biased_attention`.
        attention_dtype: precision of cross-attention (float32, float16, bfloat16), see ``set_attention_dtype``.
        reference_init: ``random`` (uniform in the range, as CMT) or ``grid`` (even in x and y, mid-height).
        bev_range: (x0, y0, x1, y1) in metres that the BEV map really covers, where it is not the whole
            point cloud range. Windows and the locality prior use it.
        stretch_bev_keys: place BEV keys as if the map covered the point cloud range, as the official code does even
            where it does not (voxel 0.1 m, 1024 of 1080 cells). False places them by ``bev_range``.
        centre_offset: ``logit``: the centre is the reference plus an offset in logit space, as CMT; an offset then
            means 19 m in the middle of the range and next to nothing at its rim. ``metres``: an offset in units of
            4 m, and the third code (``height``) as it comes: small models learn this sooner.
        refine_reference: centre the locality prior and the offsets of each layer on the boxes that the layer before
            predicted. In CMT all layers share one reference; a coarse grid of few queries then never attends to the
            right pixels.
        downsample_scale, norm_bbox, loss_heatmap, test_cfg: part of the official configs, which do not use them either.

    ``sync_factors``: losses are divided by counts of objects averaged over processes, see :class:`CmtDetector`.
    """

    uses_lidar = True
    uses_cameras = True
    sync_factors = False

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
        attention_dtype: str = "float32",
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
        if centre_offset not in ("logit", "metres"):
            raise UserError(f"pts_bbox_head.centre_offset is '{centre_offset}'; known: logit, metres")
        if refine_reference and (centre_offset != "metres" or not locality or len(tasks) != 1):
            raise UserError(
                "pts_bbox_head.refine_reference needs centre_offset 'metres', a locality prior and exactly one task"
            )
        counts = [len(task["class_names"]) for task in tasks]
        self.num_query, self.hidden_dim, self.denoises = num_query, hidden_dim, bool(scalar)
        self.refine_reference, self.reference_init = refine_reference, reference_init
        self.add_offsets = add_metre_offsets if centre_offset == "metres" else add_logit_offsets
        self.bbox_coder = build_task_util(bbox_coder)
        self.pc_range = [float(v) for v in self.bbox_coder.pc_range]
        self.bev_range = bev_range_3d(bev_range, self.pc_range)
        queries = dict(num_query=num_query, num_classes=sum(counts), pc_range=self.pc_range)
        noise = dict(scalar=scalar, noise_scale=noise_scale, noise_trans=noise_trans, split=split)
        self.make_denoising_queries = partial(make_denoising_queries, **queries, **noise)
        self.loss_cls = build_model(loss_cls or dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25))
        self.loss_bbox = build_model(loss_bbox or dict(type="L1Loss", loss_weight=0.25))
        self.losses = None
        if train_cfg:
            assigner = build_task_util(train_cfg["assigner"])
            functions = LossFunctions(self.loss_cls, self.loss_bbox, train_cfg["code_weights"])
            slices = [TaskSlice(sum(counts[:i]), n) for i, n in enumerate(counts)]
            self.losses = HeadLosses(assigner, functions, slices, self.denoises, dn_weight, split)
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
        self.rv_embedding = mlp(depth_num * 3, hidden_dim * 4, hidden_dim) if self.uses_cameras else None
        key_range = None if stretch_bev_keys else self.bev_range
        self.embeddings = PositionEmbeddings(
            self.bev_embedding, self.rv_embedding, hidden_dim, depth_num, self.pc_range, key_range
        )
        self.task_heads = task_heads(
            separate_head, common_heads, counts, hidden_dim, self.transformer.decoder.num_layers
        )
        self.locality = self.image_points = self.aqr = None
        if locality:
            heads = self.transformer.decoder.layers[0].attentions[-1].num_heads
            self.locality = from_kwargs(LocalityPrior, "locality", locality, num_heads=heads)
        if image_points and self.uses_cameras:
            self.image_points = from_kwargs(ImagePoints, "image_points", image_points, channels=hidden_dim)
        if aqr:  # an empty dict is what overrides of single keys are merged into
            self.aqr = attention_bias(aqr, hidden_dim)
        set_backend(self.transformer, attention_backend)
        set_attention_dtype(self.transformer, attention_dtype, local=self.locality is not None)
        self._init_references()

    @property
    def has_router(self) -> bool:
        """Whether its output has what a router chose, as ``aqr``."""
        return self.aqr is not None

    def init_weights(self) -> None:
        """Initialise the children, then the reference points."""
        super().init_weights()
        self._init_references()

    @torch.no_grad()
    def _init_references(self) -> None:
        weight = self.reference_points.weight
        if self.reference_init == "random":
            nn.init.uniform_(weight, 0, 1)
        else:
            aspect = (self.pc_range[3] - self.pc_range[0]) / (self.pc_range[4] - self.pc_range[1])
            weight.copy_(grid_references(self.num_query, aspect))

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
                the memory has no BEV tokens. (CMT's missing-LiDAR test differs: a cloud of zeros.)
            img_feats: image maps [B * N, hidden_dim, H, W], sample-major; the first is used. ``[None]`` likewise.
            img_metas: per sample ``lidar2img`` (N x 4 x 4) and ``pad_shape`` (per view); in training also
                ``gt_bboxes_3d`` and ``gt_labels_3d``; optionally ``sensor_state`` and ``batch_input_shape``.

        Returns:
            [task][0] -> dict of center, height, dim, rot, vel, cls_logits, each [layers, B, Q, C]. In training with
            objects also ``dn_*`` and ``dn_queries``; with a router also ``aqr`` (BiasOutput, sensor states).
        """
        bev = pts_feats[0] if self.uses_lidar and pts_feats else None
        images = img_feats[0] if self.uses_cameras and img_feats else None
        if images is not None and len(images) == 0:  # a rig of zero cameras
            images = None
        if bev is None and images is None:
            raise ValueError(f"{type(self).__name__} got no features: neither a BEV map nor image maps")
        device = (bev if bev is not None else images).device
        with torch.autocast(device_type=device.type, enabled=False):  # CMT keeps its head in float32
            return self._forward(
                None if bev is None else bev.float(), None if images is None else images.float(), list(img_metas)
            )

    def _forward(self, bev: Tensor | None, images: Tensor | None, metas: list[dict]) -> Outputs:
        memory, image_points = self._memory(bev, images, metas)
        reference, denoising = self._references(metas)
        query_pos = self.embeddings.queries(reference, memory.cameras)
        bias_of, extra = self._biases(reference, query_pos, memory, metas)
        if image_points is not None and self.training:
            extra["image_points"] = (image_points, memory.cameras, metas, memory.layout.camera_shape[1:])
        mask = None if denoising is None else denoising.attn_mask
        decoded = self.transformer(query_pos, memory.tokens_BKC, memory.positions_BKC, mask, bias_of)
        return self._predictions(decoded, reference, denoising, extra)

    def _memory(self, bev: Tensor | None, images: Tensor | None, metas: list[dict]) -> tuple[Memory, Tensor | None]:
        """The fused memory, and the image points, with their gradient, where the head has any."""
        bev_pos = image_pos = cameras = camera_shape = image_points = None
        if bev is not None:
            if bev.shape[0] != len(metas):
                raise ValueError(f"{bev.shape[0]} BEV maps for {len(metas)} samples")
            bev = self.shared_conv(bev)
            bev_pos = self.embeddings.bev_keys(*bev.shape[-2:])
        if images is not None:
            cameras = CameraGeometry.from_metas(metas, self.reference_points.weight.device)
            if images.shape[0] != len(metas) * cameras.num_views:
                raise ValueError(
                    f"{images.shape[0]} image maps for {len(metas)} samples of {cameras.num_views} cameras each"
                )
            images = images.unflatten(0, (len(metas), cameras.num_views))
            image_pos = self.embeddings.image_keys(cameras, *images.shape[-2:])
            camera_shape = (cameras.num_views, *images.shape[-2:])
            if self.image_points is not None:
                image_points = self.image_points(images, cameras)
                image_pos = image_pos + self.embeddings.bev_at(image_points.detach()).view_as(image_pos)
        memory = Memory(
            *fuse_memory(bev, bev_pos, images, image_pos),
            MemoryLayout(None if bev is None else tuple(bev.shape[-2:]), camera_shape, tuple(self.bev_range)),
            cameras,
            # They learn from a separate loss: the decoder has no gradient to them.
            None if image_points is None else image_points.detach(),
        )
        return memory, image_points

    def _biases(
        self, reference_BQ3: Tensor, query_pos_BQC: Tensor, memory: Memory, metas: Sequence[dict]
    ) -> tuple[BiasOfLayer, dict[str, Any]]:
        """The bias of each decoder layer, and with a router what it chose as output ``aqr``."""
        if self.aqr is None and self.locality is None:
            return PLAIN_CMT, {}
        sensor_state = None if self.aqr is None else sensor_states(metas, reference_BQ3.device)
        bias_of, output = make_biases(
            self.aqr,
            self.locality,
            to_metres(clamp_reference(reference_BQ3), self.pc_range),
            query_pos_BQC,
            memory,
            sensor_state,
            self.transformer.decoder.num_layers,
            self._predicted_centres if self.refine_reference else None,
        )
        return bias_of, {} if output is None else {"aqr": (output, sensor_state)}

    def _predictions(
        self,
        decoded: DecoderOutput,
        reference_BQ3: Tensor,
        denoising: DenoisingQueries | None,
        extra: Mapping[str, Any],
    ) -> Outputs:
        """Task heads on the states of all layers; denoising queries apart, ``extra`` added to every task."""
        results = []
        for task_head in self.task_heads:
            raw = task_head(decoded.states_LBQC)
            outputs = self.add_offsets(raw, reference_BQ3, self.pc_range, decoded.reference_LBQ3)
            results.append([{**(outputs if denoising is None else denoising.split(outputs)), **extra}])
        return tuple(results)

    def _references(self, metas: Sequence[dict]) -> tuple[Tensor, DenoisingQueries | None]:
        """Normalised reference points [B, P + Q, 3], denoising queries (training only) first."""
        matching = self.reference_points.weight.expand(len(metas), -1, -1)
        denoising = None
        if self.training and self.denoises:
            denoising = self.make_denoising_queries(*ground_truth(metas, matching.device))
        if denoising is None:
            return matching, None
        return torch.cat((denoising.reference_BP3.to(matching), matching), dim=1), denoising

    def _predicted_centres(self, state_BQC: Tensor, layer: int, before_BQ3: Tensor) -> Tensor:
        """Gravity centres [B, Q, 3] (metres) that ``layer`` predicts, clamped to the range, without gradient."""
        outputs = self.task_heads[0].one_layer(state_BQC, layer, ("center", "dim"))
        return clamped_centres(outputs, before_BQ3, self.pc_range).detach()

    # ------------------------------------------------------------------ training

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Losses, from features or from predictions.

        ``loss(pts_feats, img_feats, batch_data_samples)`` runs the head on features (mmdet3d 1.4's way);
        ``loss(gt_bboxes_3d, gt_labels_3d, outputs)`` is the official CMT call on the head's output.
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
        """Losses of all decoder layers, see :class:`HeadLosses`; also of image points and of a supervised router.

        Args:
            gt_bboxes_3d: per sample LiDARInstance3DBoxes (bottom centres, as mmdet3d stores them).
            gt_labels_3d: per sample [n].
            preds_dicts: output of :meth:`forward` in training.
        """
        if self.losses is None:
            raise UserError("pts_bbox_head.train_cfg is missing: the head was built for inference only")
        outputs = [task[0] for task in preds_dicts]
        device = outputs[0]["center"].device
        boxes = [gravity_boxes(b, device) for b in gt_bboxes_3d]
        labels = [label_tensor(l, device) for l in gt_labels_3d]
        losses = self.losses(outputs, boxes, labels, self.sync_factors)
        if "image_points" in outputs[0]:
            losses["loss_image_points"] = self.image_points.loss(*outputs[0]["image_points"])
        if "aqr" in outputs[0]:
            losses.update(self.aqr.loss(*outputs[0]["aqr"]))
        return losses

    # ------------------------------------------------------------------ inference

    def predict(self, pts_feats: Sequence, img_feats: Sequence, batch_data_samples: Sequence) -> list[InstanceData]:
        """Boxes of every sample as InstanceData: ``bboxes_3d``, ``scores_3d``, ``labels_3d``."""
        metas = metas_of(batch_data_samples, with_truth=False)
        detections = self.get_bboxes(self(pts_feats, img_feats, metas), metas)
        return [InstanceData(bboxes_3d=b, scores_3d=s, labels_3d=l) for b, s, l in detections]

    def get_bboxes(self, preds_dicts: Outputs, img_metas: Sequence[dict], rescale: bool = False) -> list[list]:
        """[boxes, scores, labels] per sample; boxes have bottom centres, as mmdet3d stores them."""
        results = []
        for meta, decoded in zip(img_metas, self.bbox_coder.decode(preds_dicts), strict=True):
            boxes = decoded["bboxes"].clone()
            boxes[:, 2] -= boxes[:, 5] * 0.5
            box_type = meta.get("box_type_3d", LiDARInstance3DBoxes)
            results.append([box_type(boxes, boxes.shape[-1]), decoded["scores"], decoded["labels"]])
        return results


@MODELS.register_module()
class CmtLidarHead(CmtHead):
    """CMT on LiDAR alone. ``img_feats`` is ignored; metadata needs no cameras."""

    uses_cameras = False


@MODELS.register_module()
class CmtImageHead(CmtHead):
    """CMT on cameras alone. ``pts_feats`` is ignored."""

    uses_lidar = False
