"""MoME's head: CMT's with three experts, trained alone in the first stage, and a router between them in the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet3d.registry import MODELS
from torch import Tensor, nn

from aqr_bench.bias import BiasOutput
from aqr_bench.bias.expert_routing import choose_experts, expert_loss, expert_weights
from aqr_bench.bias.expert_windows import official_windows
from aqr_bench.bias.windows import WindowBias, grid_windows, hard_windows, has_windows
from aqr_bench.cmt import two_stages as two_stages  # registers its hook
from aqr_bench.cmt.encoding import clamp_reference, to_metres
from aqr_bench.cmt.geometry import sensor_states
from aqr_bench.cmt.head import CmtHead, Outputs
from aqr_bench.cmt.layer_bias import Memory
from aqr_bench.cmt.multi_expert import MODALITIES, ExpertInput, MultiExpert
from aqr_bench.cmt.transformer import DecoderOutput
from aqr_bench.errors import UserError

STAGES = ("experts", "router")
NEVER = -1e4  # class logits of a query that is left out: its scores are 0


# The second name is that of the first stage in the authors' code.
@MODELS.register_module(name=["MultiExpertDecoding", "MEFormerHead"])
class MultiExpertHead(CmtHead):
    """Head of MoME (Park et al., CVPR 2025), with the parameter names and numbers of the official code.

    One decoder is shared by three experts: ``fused`` attends to all keys, ``bev`` to those of the LiDAR, ``img`` to
    those of the cameras. At inference the router chooses an expert for every query, which decodes it together with its
    other queries; without a router ``fused`` decodes all. The bias and the locality prior of CmtHead act inside every
    expert.

    Args:
        stage: what training trains. ``experts``: all of them on all queries, and no router. ``router``: the router
            alone (transformer.encoder and selected_cls), by the true sensor state; all else of the head is frozen and
            in eval mode. None: ``router`` where there is one.
        official_quirks: the router's windows as of :func:`official_windows`, and a query is left out where the sum of
            its decoded features is exactly 0. False: windows of :func:`grid_windows`, in every camera that sees a
            query; every query is used.
        modalities: ``train`` and ``test``, lists of experts, as the official configs have them and not otherwise.
        pc_range: part of the official configs; equal to that of ``bbox_coder``.
        config: all else as of :class:`CmtHead`.
    """

    transformer: MultiExpert

    def __init__(
        self,
        in_channels: int,
        stage: str | None = None,
        official_quirks: bool = False,
        modalities: Mapping[str, Sequence[str]] | None = None,
        pc_range: Sequence[float] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(in_channels, **config)
        if not isinstance(self.transformer, MultiExpert):
            raise UserError("pts_bbox_head: MultiExpertDecoding needs transformer.type 'MultiExpert'")
        if self.refine_reference:
            raise UserError("pts_bbox_head.refine_reference is not for MultiExpertDecoding; set it to False")
        if pc_range is not None and list(pc_range) != self.pc_range:
            raise UserError(f"pts_bbox_head.pc_range is {list(pc_range)}, that of bbox_coder {self.pc_range}")
        test = MODALITIES if self.transformer.routes else MODALITIES[:1]
        for mode, names in (modalities or {}).items():
            if list(names) != list({"train": MODALITIES, "test": test}.get(mode, ())):
                raise UserError(
                    f"pts_bbox_head.modalities.{mode} is {list(names)}; known: train with {', '.join(MODALITIES)}, "
                    f"test with {', '.join(test)}"
                )
        self.official_quirks = official_quirks
        self.set_stage(stage or ("router" if self.transformer.routes else "experts"))

    @property
    def has_router(self) -> bool:
        """See :class:`CmtHead`; the router of the experts is reported, not that of a bias inside them."""
        return self.transformer.routes or super().has_router

    # ------------------------------------------------------------------ stages

    def set_stage(self, stage: str) -> None:
        """What training trains from now on, see the class."""
        if stage not in STAGES or (stage == "router" and not self.transformer.routes):
            known = STAGES if self.transformer.routes else STAGES[:1]
            raise UserError(f"pts_bbox_head.stage is '{stage}'; known for this transformer: {', '.join(known)}")
        self.stage = stage
        self.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> MultiExpertHead:
        super().train(mode)
        self._freeze_experts()
        return self

    def _freeze_experts(self) -> None:
        if self.stage != "router":
            return
        router: tuple[nn.Module, ...] = (self.transformer.encoder, self.transformer.selected_cls)
        for child in self.children():
            child.eval()
        self.requires_grad_(False)
        for part in router:
            part.train(self.training).requires_grad_(True)

    # ------------------------------------------------------------------ forward

    def _forward(self, bev: Tensor | None, images: Tensor | None, metas: list[dict]) -> Outputs:
        memory, image_points = self._memory(bev, images, metas)
        reference, denoising = self._references(metas)
        rays = None if memory.cameras is None else self.embeddings.ray_queries(reference, memory.cameras)
        experts = self.transformer.expert_inputs(memory, self.embeddings.bev_queries(reference), rays)
        if self.training and self.stage == "experts":
            mask = None if denoising is None else denoising.attn_mask
            outputs: list[dict[str, Any]] = [{} for _ in self.task_heads]
            for name, inputs in experts.items():
                bias_of, extra = self._biases(reference, inputs.query_pos_BQC, inputs.memory, metas)
                if image_points is not None and name == "fused":
                    extra["image_points"] = (image_points, memory.cameras, metas, memory.layout.camera_shape[1:])
                decoded = self.transformer(inputs, mask, bias_of)
                for task, predictions in zip(
                    outputs, self._predictions(decoded, reference, denoising, extra), strict=True
                ):
                    task[name] = predictions[0]
            return tuple([{"experts": task}] for task in outputs)
        if not self.transformer.routes:
            bias_of, extra = self._biases(reference, experts["fused"].query_pos_BQC, memory, metas)
            return self._predictions(self.transformer(experts["fused"], None, bias_of), reference, None, extra)
        logits = self.transformer.route(experts["fused"], self._router_windows(reference, memory))
        if self.training:
            return tuple([{"routing": (logits, sensor_states(metas, logits.device))}] for _ in self.task_heads)
        expert_BQ = choose_experts(logits, memory.layout)
        decoded = self._decode_routed(experts, expert_BQ, reference, metas)
        routing = BiasOutput(None, None, expert_weights(expert_BQ, logits), logits)
        extra = {"aqr": (routing, sensor_states(metas, logits.device)), "expert": expert_BQ}
        outputs = self._predictions(decoded, reference, None, extra)
        if self.official_quirks:
            left_out_BQ1 = (decoded.states_LBQC[-1].sum(-1) == 0)[..., None]
            for task in outputs:
                task[0]["cls_logits"] = task[0]["cls_logits"].masked_fill(left_out_BQ1, NEVER)
        return outputs

    def _router_windows(self, reference_BQ3: Tensor, memory: Memory) -> WindowBias | None:
        """Hard windows of zeros for the router's attention; None: it sees the whole memory."""
        sizes = (self.transformer.bev_window, self.transformer.camera_window)
        if not has_windows(memory.layout, *sizes):
            return None
        normalised = reference_BQ3 if self.official_quirks else clamp_reference(reference_BQ3)
        points = to_metres(normalised, self.pc_range).detach()
        cameras = memory.cameras
        projection = (None, None) if cameras is None else (cameras.lidar2img_BN44, cameras.key_BN2)
        make_windows = official_windows if self.official_quirks else grid_windows
        windows = make_windows(points, *projection, memory.layout, *sizes)
        return hard_windows(windows, points, memory.layout.num_keys)

    def _decode_routed(
        self, experts: Mapping[str, ExpertInput], expert_BQ: Tensor, reference_BQ3: Tensor, metas: Sequence[dict]
    ) -> DecoderOutput:
        """Every query decoded by its own expert only; queries of different experts do not attend to each other."""
        layers, fused = self.transformer.decoder.num_layers, experts["fused"].query_pos_BQC
        states_LBQC = fused.new_zeros(layers, *fused.shape)
        for index, name in enumerate(MODALITIES):
            for sample, meta in enumerate(metas):
                query = (expert_BQ[sample] == index).nonzero().flatten()
                if not len(query):
                    continue
                inputs = experts[name].of_queries(sample, query)
                bias_of, _ = self._biases(
                    reference_BQ3[sample, query][None], inputs.query_pos_BQC, inputs.memory, [meta]
                )
                states_LBQC[:, sample, query] = self.transformer(inputs, None, bias_of).states_LBQC[:, 0]
        return DecoderOutput(states_LBQC, None)

    # ------------------------------------------------------------------ training

    def loss_by_feat(self, gt_bboxes_3d: Sequence, gt_labels_3d: Sequence, preds_dicts: Outputs) -> dict[str, Tensor]:
        """``loss_router``; or CMT's losses of every expert, with its name behind (``loss_cls_bev``)."""
        first = preds_dicts[0][0]
        if "routing" in first:
            return {"loss_router": expert_loss(*first["routing"])}
        if "experts" not in first:
            return super().loss_by_feat(gt_bboxes_3d, gt_labels_3d, preds_dicts)
        losses = {}
        for name in first["experts"]:
            outputs = tuple([task[0]["experts"][name]] for task in preds_dicts)
            expert = super().loss_by_feat(gt_bboxes_3d, gt_labels_3d, outputs)
            losses.update({f"{key}_{name}": value for key, value in expert.items()})
        return losses
