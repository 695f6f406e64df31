"""MoME's transformer: one decoder for three experts (both sensors, LiDAR, cameras), and a router that chooses one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from aqr_bench.bias.layout import MemoryLayout
from aqr_bench.bias.windows import WindowBias
from aqr_bench.cmt.layer_bias import PLAIN_CMT, BiasOfLayer, FixedBiases, LayerBias, Memory
from aqr_bench.cmt.transformer import DecoderOutput, build_decoder, init_matrices
from aqr_bench.errors import UserError

MODALITIES = ("fused", "bev", "img")  # the official names of bias.expert_routing.EXPERTS, in the same order


@dataclass(frozen=True, eq=False)
class ExpertInput:
    """What the decoder gets as one expert.

    Args:
        query_pos_BQC: position embeddings of the queries.
        memory: the keys of the expert's sensors.
        values_BKC: values of cross-attention; None: the memory's tokens.
    """

    query_pos_BQC: Tensor
    memory: Memory
    values_BKC: Tensor | None

    def of_queries(self, sample: int, query: Tensor) -> ExpertInput:
        """Some queries of one sample, as a batch of one."""
        values = None if self.values_BKC is None else self.values_BKC[sample : sample + 1]
        return ExpertInput(self.query_pos_BQC[sample, query][None], self.memory.of_sample(sample), values)


# The second name is that of the first stage in the authors' code, which has no router.
@MODELS.register_module(name=["MultiExpert", "MOADTransformer"])
class MultiExpert(BaseModule):
    """Decoder of three experts, with its router (``encoder`` and ``selected_cls``) in the second stage.

    Args:
        decoder: as of :class:`CmtTransformer`.
        encoder: the router's layer, a decoder of cross-attention alone; None: no router.
        use_type_embed: add a learnt vector of each sensor to the queries' embeddings.
        use_cam_embed: multiply the values of the camera expert by an embedding of each camera's matrix.
        window_sizes: of the router's attention, in cells: (camera, BEV); 0 for both: it sees the whole memory.
    """

    def __init__(
        self,
        decoder: dict,
        encoder: dict | None = None,
        use_type_embed: bool = True,
        use_cam_embed: bool = False,
        window_sizes: Sequence[int] = (15, 5),
        cross: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if len(window_sizes) != 2 or any(size < 0 or (size and size % 2 == 0) for size in window_sizes):
            raise UserError(f"transformer.window_sizes must be two numbers, each 0 or odd, not {list(window_sizes)}")
        self.camera_window, self.bev_window = window_sizes
        self.encoder = self.selected_cls = self.cam_embed = self.bev_type_embed = self.rv_type_embed = None
        if encoder is not None:  # before the decoder, as in the official state dict
            self.encoder = build_decoder(encoder, "encoder")
            self.selected_cls = nn.Linear(self.encoder.embed_dims, len(MODALITIES))
        self.decoder = build_decoder(decoder, "decoder")
        self.embed_dims = self.decoder.embed_dims
        if self.encoder is not None and self.encoder.embed_dims != self.embed_dims:
            raise UserError(
                f"transformer.encoder has embed_dims {self.encoder.embed_dims}, the decoder {self.embed_dims}; "
                "they have to be equal"
            )
        if use_type_embed:
            self.bev_type_embed = nn.Parameter(torch.randn(self.embed_dims))
            self.rv_type_embed = nn.Parameter(torch.randn(self.embed_dims))
        if use_cam_embed:
            widths = (16, self.embed_dims, self.embed_dims, self.embed_dims)
            self.cam_embed = nn.Sequential(
                *(
                    part
                    for before, after in itertools.pairwise(widths)
                    for part in (nn.Conv1d(before, after, kernel_size=1), nn.BatchNorm1d(after))
                )
            )

    @property
    def routes(self) -> bool:
        """Whether it has a router."""
        return self.encoder is not None

    def init_weights(self) -> None:
        """Xavier-uniform for every matrix, as CMT's transformer."""
        init_matrices(self)
        self._is_init = True

    def expert_inputs(
        self, memory: Memory, bev_query_BQC: Tensor, ray_query_BQC: Tensor | None
    ) -> dict[str, ExpertInput]:
        """What each expert gets, by its name; without an expert whose sensor the memory has no key of.

        Args:
            bev_query_BQC, ray_query_BQC: embeddings of the queries' BEV positions and of their rays; without cameras
                there are no rays.
        """
        bev, rays = bev_query_BQC, ray_query_BQC
        if self.bev_type_embed is not None:
            bev = bev + self.bev_type_embed
            rays = None if rays is None else rays + self.rv_type_embed
        inputs = {"fused": ExpertInput(bev if rays is None else bev + rays, memory, None)}
        if memory.layout.num_bev:
            inputs["bev"] = ExpertInput(bev, _lidar_part(memory), None)
        if memory.layout.num_camera:
            cameras = _camera_part(memory)
            inputs["img"] = ExpertInput(rays, cameras, self._camera_values(cameras))
        return inputs

    def _camera_values(self, memory: Memory) -> Tensor | None:
        if self.cam_embed is None:
            return None
        matrices_BCN = memory.cameras.img2lidar_BN44.flatten(2).transpose(1, 2)
        embedding_BNC = self.cam_embed(matrices_BCN).transpose(1, 2)
        _, rows, cols = memory.layout.camera_shape
        return memory.tokens_BKC * embedding_BNC.repeat_interleave(rows * cols, dim=1)

    def forward(
        self, inputs: ExpertInput, self_mask: Tensor | None = None, bias_of: BiasOfLayer = PLAIN_CMT
    ) -> DecoderOutput:
        """The decoder as one expert."""
        memory = inputs.memory
        return self.decoder(
            inputs.query_pos_BQC, memory.tokens_BKC, memory.positions_BKC, self_mask, bias_of, inputs.values_BKC
        )

    def route(self, inputs: ExpertInput, local: WindowBias | None) -> Tensor:
        """Logits [B, Q, 3] of the experts, from what the fused one gets; ``local``: hard windows of zeros."""
        bias = FixedBiases((LayerBias(cross_bias=local),) * self.encoder.num_layers)
        memory = inputs.memory
        states = self.encoder(inputs.query_pos_BQC, memory.tokens_BKC, memory.positions_BKC, None, bias).states_LBQC
        return self.selected_cls(states[-1])


def _lidar_part(memory: Memory) -> Memory:
    count, layout = memory.layout.num_bev, memory.layout
    tokens, positions = (x[:, :count] for x in (memory.tokens_BKC, memory.positions_BKC))
    return Memory(tokens, positions, MemoryLayout(layout.bev_shape, None, layout.pc_range), None, None)


def _camera_part(memory: Memory) -> Memory:
    count, layout = memory.layout.num_bev, memory.layout
    tokens, positions = (x[:, count:] for x in (memory.tokens_BKC, memory.positions_BKC))
    layout = MemoryLayout(None, layout.camera_shape, layout.pc_range)
    return replace(memory, tokens_BKC=tokens, positions_BKC=positions, layout=layout)
