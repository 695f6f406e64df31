"""CMT's transformer: the fused memory and a decoder of self-attention, cross-attention and FFN layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aqr_bench.cmt.attention import DecoderAttention
from aqr_bench.cmt.layer_bias import NO_BIAS, PLAIN_CMT, BiasOfLayer, LayerBias, stored_in_patches
from aqr_bench.errors import UserError, nearest

OPERATIONS = ("self_attn", "cross_attn", "norm", "ffn")


class DecoderOutput(NamedTuple):
    """Normed outputs of all layers [layers, B, Q, C], and their references [layers, B, Q, 3] if the biases have any."""

    states_LBQC: Tensor
    reference_LBQ3: Tensor | None


@MODELS.register_module()
class PETRTransformerDecoderLayer(BaseModule):
    """One decoder layer; parameters are named ``attentions.i.attn.*``, ``ffns.i.*`` and ``norms.i.*``.

    Args:
        attn_cfgs: one config per attention in ``operation_order``.
        ffn_cfgs: config of mmcv's FFN.
        operation_order: e.g. self_attn, norm, cross_attn, norm, ffn, norm (norms after the residual sums).
        with_cp: recompute the layer in the backward pass to save memory.
    """

    def __init__(
        self,
        attn_cfgs: Sequence[dict] | dict,
        ffn_cfgs: dict | None = None,
        operation_order: Sequence[str] = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
        with_cp: bool = False,
        feedforward_channels: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        for name in operation_order:
            if name not in OPERATIONS:
                raise UserError(f"transformer operation_order: unknown '{name}'{nearest(name, OPERATIONS)}")
        roles = [name.removesuffix("_attn") for name in operation_order if name.endswith("_attn")]
        if isinstance(attn_cfgs, dict):
            attn_cfgs = [attn_cfgs] * len(roles)
        if len(attn_cfgs) != len(roles):
            raise UserError(f"transformer: {len(attn_cfgs)} attn_cfgs for {len(roles)} attentions in operation_order")
        self.operation_order = tuple(operation_order)
        self.with_cp = with_cp
        self.attentions = ModuleList(
            DecoderAttention.from_config(role, cfg) for role, cfg in zip(roles, attn_cfgs, strict=True)
        )
        self.embed_dims = int(attn_cfgs[0]["embed_dims"])
        ffn = dict(ffn_cfgs or dict(feedforward_channels=feedforward_channels or 4 * self.embed_dims))
        ffn.pop("type", None)
        ffn.setdefault("embed_dims", self.embed_dims)
        self.ffns = ModuleList(FFN(**ffn) for name in operation_order if name == "ffn")
        self.norms = ModuleList(nn.LayerNorm(self.embed_dims) for name in operation_order if name == "norm")

    def forward(
        self,
        x_BQC: Tensor,
        query_pos_BQC: Tensor,
        memory_BKC: Tensor,
        memory_pos_BKC: Tensor,
        self_mask: Tensor | None = None,
        bias: LayerBias = NO_BIAS,
        values_BKC: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, C] -> [B, Q, C]. ``self_mask`` is boolean [Q, Q], True: may not attend. Values: default the memory."""
        args = (x_BQC, query_pos_BQC, memory_BKC, memory_pos_BKC, self_mask, bias, values_BKC)
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(self._run, *args, use_reentrant=False)
        return self._run(*args)

    def _run(
        self,
        x: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        mask: Tensor | None,
        bias: LayerBias,
        values: Tensor | None,
    ) -> Tensor:
        attentions, norms, ffns = iter(self.attentions), iter(self.norms), iter(self.ffns)
        for name in self.operation_order:
            if name == "self_attn":
                x = next(attentions)(x, query_pos, mask=mask, bias=bias.self_bias)
            elif name == "cross_attn":
                x = next(attentions)(x, query_pos, memory, memory_pos, None, bias.cross_bias, bias.prior, values)
            elif name == "norm":
                x = next(norms)(x)
            else:
                x = next(ffns)(x)
        return x


@MODELS.register_module()
class PETRTransformerDecoder(BaseModule):
    """A stack of decoder layers; ``post_norm`` is applied to what every layer hands to the task heads."""

    def __init__(
        self,
        num_layers: int,
        transformerlayers: dict,
        return_intermediate: bool = True,
        post_norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_layers < 1:
            raise UserError(f"transformer.decoder.num_layers is {num_layers}; at least 1 is needed")
        if not return_intermediate:
            raise UserError("transformer.decoder.return_intermediate has to be True: every layer is supervised")
        if (post_norm_cfg or {"type": "LN"}).get("type") != "LN":
            raise UserError("transformer.decoder.post_norm_cfg: only type 'LN' is known")
        self.num_layers = num_layers
        cfg = dict(transformerlayers)
        if str(cfg.pop("type", "PETRTransformerDecoderLayer")) != "PETRTransformerDecoderLayer":
            raise UserError("transformer.decoder.transformerlayers.type has to be PETRTransformerDecoderLayer")
        self.layers = ModuleList(PETRTransformerDecoderLayer(**cfg) for _ in range(num_layers))
        self.embed_dims = self.layers[0].embed_dims
        self.post_norm = nn.LayerNorm(self.embed_dims)

    def forward(
        self,
        query_pos_BQC: Tensor,
        memory_BKC: Tensor,
        memory_pos_BKC: Tensor,
        self_mask: Tensor | None = None,
        bias_of: BiasOfLayer = PLAIN_CMT,
        values_BKC: Tensor | None = None,
    ) -> DecoderOutput:
        """Run all layers on queries that start at zero. ``values_BKC``: of cross-attention, default the memory."""
        if any(a.role == "cross" and a.backend == "tiled" for layer in self.layers for a in layer.attentions):
            bias_of, memory = stored_in_patches(bias_of, memory_BKC, memory_pos_BKC, values_BKC)
            memory_BKC, memory_pos_BKC, values_BKC = memory
        x = torch.zeros_like(query_pos_BQC)
        states, references = [], []
        for index, layer in enumerate(self.layers):
            bias = bias_of(index, *((states[-1], references[-1]) if states else (None, None)))
            x = layer(x, query_pos_BQC, memory_BKC, memory_pos_BKC, self_mask, bias, values_BKC)
            states.append(self.post_norm(x))
            references.append(bias.reference_BQ3)
        return DecoderOutput(torch.stack(states), None if references[0] is None else torch.stack(references))


@MODELS.register_module(name=["CmtTransformer", "CmtLidarTransformer", "CmtImageTransformer"])
class CmtTransformer(BaseModule):
    """Decoder over a memory of BEV tokens, image tokens, or both. The three official names are one class here."""

    def __init__(
        self, decoder: dict, encoder: dict | None = None, cross: bool = False, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if encoder is not None:
            raise UserError("transformer.encoder is not part of CMT; leave it out")
        self.decoder = build_decoder(decoder, "decoder")
        self.embed_dims = self.decoder.embed_dims

    def init_weights(self) -> None:
        """Xavier-uniform for every matrix, see :func:`init_matrices`."""
        init_matrices(self)
        self._is_init = True

    def forward(self, *args: Any, **kwargs: Any) -> DecoderOutput:
        """See :meth:`PETRTransformerDecoder.forward`."""
        return self.decoder(*args, **kwargs)


def build_decoder(cfg: dict, key: str) -> PETRTransformerDecoder:
    """The decoder of the config ``transformer.<key>``; UserError: its type is another one."""
    cfg = dict(cfg)
    if str(cfg.pop("type", "PETRTransformerDecoder")) != "PETRTransformerDecoder":
        raise UserError(f"transformer.{key}.type has to be PETRTransformerDecoder")
    return PETRTransformerDecoder(**cfg)


def init_matrices(transformer: nn.Module) -> None:
    """Xavier-uniform for every matrix that is a module's ``weight``; in_proj has it from construction."""
    for module in transformer.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            nn.init.xavier_uniform_(weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def fuse_memory(
    bev_BCHW: Tensor | None, bev_pos_KC: Tensor | None, image_BNCHW: Tensor | None, image_pos_BNHWC: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Flatten the feature maps to one memory and its positions, both [B, K, C].

    BEV cells come first (row-major), then camera by camera (row-major), as ``MemoryLayout`` counts them.
    """
    tokens, positions = [], []
    if bev_BCHW is not None:
        tokens.append(bev_BCHW.flatten(2).transpose(1, 2))
        positions.append(bev_pos_KC.expand(bev_BCHW.shape[0], -1, -1))
    if image_BNCHW is not None:
        tokens.append(image_BNCHW.permute(0, 1, 3, 4, 2).flatten(1, 3))
        positions.append(image_pos_BNHWC.flatten(1, 3))
    if not tokens:
        raise ValueError("the memory is empty: neither LiDAR nor camera features were given")
    return torch.cat(tokens, dim=1), torch.cat(positions, dim=1)
