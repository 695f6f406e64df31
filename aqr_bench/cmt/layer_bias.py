"""The terms that AQR and the locality prior add to the attention scores of each decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aqr_bench.bias import AttentionBias, BiasOutput, LocalityPrior, MemoryLayout, Prior, WindowBias
from aqr_bench.bias.attention.tiles import in_patches, tile_geometry
from aqr_bench.cmt.geometry import CameraGeometry


@dataclass(frozen=True)
class LayerBias:
    """Optional terms on the attention scores of one decoder layer.

    Args:
        cross_bias, self_bias: generated biases of cross- and self-attention.
        prior: extra query and key dimensions of the locality prior (cross-attention only).
        reference_BQ3: points (metres, LiDAR frame) that the layer's centre offsets start from; None: the same for all
            layers.
    """

    cross_bias: WindowBias | Tensor | None = None
    self_bias: WindowBias | Tensor | None = None
    prior: Prior | None = None
    reference_BQ3: Tensor | None = None


NO_BIAS = LayerBias()
# Arguments: layer index, then of the layer before its normed output [B, Q, C] and its reference; None for the first.
BiasOfLayer = Callable[[int, Tensor | None, Tensor | None], LayerBias]
# Centres [B, Q, 3] (metres) that a layer predicts, from its normed output, its index and its reference.
PredictCentres = Callable[[Tensor, int, Tensor], Tensor]


@dataclass(frozen=True)
class FixedBiases:
    """Biases that do not depend on what earlier layers predict: one per layer, or none at all (plain CMT)."""

    layers: tuple[LayerBias, ...] = ()

    def __call__(self, index: int, state_BQC: Tensor | None, reference_BQ3: Tensor | None) -> LayerBias:
        return self.layers[index] if self.layers else NO_BIAS


PLAIN_CMT = FixedBiases()


@dataclass(frozen=True)
class Memory:
    """Keys of a batch.

    Args:
        tokens_BKC, positions_BKC: features and position embeddings, BEV keys first.
        layout: which key is which cell.
        cameras: None without cameras.
        image_points_BK3: point (metres, LiDAR frame) of each image key, without gradient; None: image keys are rays.
    """

    tokens_BKC: Tensor
    positions_BKC: Tensor
    layout: MemoryLayout
    cameras: CameraGeometry | None
    image_points_BK3: Tensor | None

    def of_sample(self, sample: int) -> Memory:
        """One sample, as a batch of one."""
        i = slice(sample, sample + 1)
        cameras = None if self.cameras is None else self.cameras.of_sample(sample)
        points = None if self.image_points_BK3 is None else self.image_points_BK3[i]
        return Memory(self.tokens_BKC[i], self.positions_BKC[i], self.layout, cameras, points)


def stored_in_patches(
    bias_of: BiasOfLayer, *memory_BKC: Tensor | None
) -> tuple[BiasOfLayer, tuple[Tensor | None, ...]]:
    """The biases and the memory (tokens, positions, values) with keys as attention backend ``tiled`` stores them.

    Once for all layers. Where the biases have no window in closed form, or a prior of keys in their order, all is as it
    was; that backend then stores its keys itself, layer by layer.
    """
    layers = bias_of.layers if isinstance(bias_of, FixedBiases) else ()
    biases = [layer.cross_bias for layer in layers if layer.cross_bias is not None]
    windows = bool(biases) and isinstance(biases[0], WindowBias) and biases[0].closed_form and biases[0].grids
    if not windows or any(layer.prior is not None for layer in layers):
        return bias_of, memory_BKC
    key_K, moved = tile_geometry(biases[0]).keys.key_K, in_patches(biases[0])
    layers = [layer if layer.cross_bias is None else replace(layer, cross_bias=moved) for layer in layers]
    return FixedBiases(tuple(layers)), tuple(None if x is None else x.index_select(1, key_K) for x in memory_BKC)


def make_biases(
    aqr: AttentionBias | None,
    locality: LocalityPrior | None,
    points_BQ3: Tensor,
    query_pos_BQC: Tensor,
    memory: Memory,
    sensor_state_B: Tensor,
    num_layers: int,
    predict_centres: PredictCentres | None = None,
) -> tuple[BiasOfLayer, BiasOutput | None]:
    """The bias of each decoder layer, and the output of ``aqr`` (None without it).

    Args:
        points_BQ3: reference points in metres, LiDAR frame.
        query_pos_BQC: position embeddings of the queries.
        predict_centres: centres the locality prior of each layer on the prediction of the layer before; None: all
            layers have the prior of ``points_BQ3``.
    """
    cameras, layout = memory.cameras, memory.layout
    projection = (None, None) if cameras is None else (cameras.lidar2img_BN44, cameras.key_BN2)
    pairs, output = [(None, None)] * num_layers, None
    if aqr is not None:
        target, keys = torch.zeros_like(query_pos_BQC), (memory.tokens_BKC, memory.positions_BKC)
        output = aqr(target, query_pos_BQC, *keys, points_BQ3, *projection, layout, sensor_state_B)
        pairs = [aqr.for_layer(output, i, num_layers) for i in range(num_layers)]

    def prior_at(centres_BQ3: Tensor) -> Prior | None:
        return None if locality is None else locality(centres_BQ3, *projection, layout, memory.image_points_BK3)

    if predict_centres is None:
        prior = prior_at(points_BQ3)
        return FixedBiases(tuple(LayerBias(*pair, prior) for pair in pairs)), output

    def bias_of(index: int, state_BQC: Tensor | None, reference_BQ3: Tensor | None) -> LayerBias:
        centres = points_BQ3 if index == 0 else predict_centres(state_BQC, index - 1, reference_BQ3)
        return LayerBias(*pairs[index], prior_at(centres), centres)

    return bias_of, output
