"""The terms that AQR and the locality prior add to the attention scores of each decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aqr_bench.bias import AttentionBias, BiasOutput, LocalityPrior, MemoryLayout, Prior, WindowBias
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
