"""What cross-attention does: the weights of one query over all BEV and image tokens, with and without the bias.

Both are of one forward pass of the model with its bias. "Without" leaves the bias of a layer out of that layer's scores
alone: queries, keys and the locality prior are the same, so that what differs is what the bias does there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aqr_bench.bias import MemoryLayout, Prior, WindowBias
from aqr_bench.bias.attention.tiles import tile_geometry
from aqr_bench.bias.layout import project_to_cameras
from aqr_bench.cmt.encoding import clamp_reference, to_metres
from aqr_bench.cmt.geometry import CameraGeometry
from aqr_bench.cmt.head import CmtHead
from aqr_bench.cmt.multi_expert import MODALITIES
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.errors import UserError


@dataclass(frozen=True)
class LayerAttention:
    """Attention weights of a query in one decoder layer, mean over heads, [K]; each sums to 1.

    ``biased_K``: as the model attends, ``plain_K``: without the bias; the same array where the layer has no bias.
    """

    biased_K: np.ndarray
    plain_K: np.ndarray

    @property
    def bias_effect(self) -> float:
        """The share of the attention that the bias moves to other keys, 0 .. 1 (total variation distance)."""
        return float(np.abs(self.biased_K - self.plain_K).sum()) / 2


@dataclass(frozen=True)
class QueryAttention:
    """Attention of one query on one sample.

    query, score: its index and largest class score. reference_3: reference point (m, LiDAR frame).
    pixel_N2: that point in each image, as shares of width and height; NaN where the camera does not see it.
    weights: LiDAR and camera weight of the router; None without one.
    layout: which key is which BEV cell or camera feature cell.
    window_K: keys that the bias acts on; None: there is no bias in cross-attention. region: what these are.
    expert: of MoME's experts the one that decodes the query; the keys of a sensor that it does not use have weight 0.
    """

    query: int
    score: float
    reference_3: np.ndarray
    pixel_N2: np.ndarray
    weights: tuple[float, float] | None
    layout: MemoryLayout
    layers: tuple[LayerAttention, ...]
    window_K: np.ndarray | None
    region: str = "in the window"
    expert: str | None = None

    @property
    def bias_effect(self) -> float:
        """The share of the attention that the bias moves to other keys, 0 .. 1, in the layer where it is largest."""
        return max(layer.bias_effect for layer in self.layers)

    def maps(self, values_K: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Values of all keys on the BEV map [rows, columns] and the images [cameras, rows, columns]; None without."""
        bev, cameras = np.split(values_K, [self.layout.num_bev])
        shapes = (self.layout.bev_shape, self.layout.camera_shape)
        return tuple(None if s is None else part.reshape(s) for part, s in zip((bev, cameras), shapes, strict=True))


def has_attention(head: Any) -> bool:
    """Whether :class:`AttentionRecorder` can record what a detector's head attends to."""
    return isinstance(head, CmtHead)


def query_attention(evaluator: Evaluator, batch: dict, query: int | None = None) -> QueryAttention:
    """Run a batch of one sample and compute the attention of a query (None: the one with the highest score).

    Raises:
        UserError: the detector has no decoder like CMT's; there is no such query.
    """
    head = getattr(evaluator.model, "pts_bbox_head", None)
    with AttentionRecorder(head) as recorder:
        evaluator.predict(batch)
    return recorder.attention_of(query)


@dataclass(frozen=True, eq=False)
class _DecoderPass:
    """A pass of the decoder: its number, what the cross-attention of each layer got, and where a query is in that.

    expert: of MoME's experts the one whose pass it is.
    """

    number: int
    calls: tuple[Sequence[Any], ...]
    sample: int
    row: int
    expert: str | None = None


class AttentionRecorder:
    """Records what the cross-attentions of a CMT head get in a forward pass, as a context manager around it.

    UserError: the head is none of CMT's or MoME's.
    """

    def __init__(self, head: Any) -> None:
        if not has_attention(head):
            raise UserError(
                "the attention of this detector cannot be drawn",
                "Leave --attention out: it is drawn of detectors with the head of CMT or MoME.",
            )
        self.head = head
        self.modules = [a for layer in head.transformer.decoder.layers for a in layer.attentions if a.role == "cross"]

    def __enter__(self) -> AttentionRecorder:
        self.calls: list[Sequence[Any]] = []  # layer by layer, of one pass of the decoder after the other
        self._keys: dict[tuple[int, int, int], Tensor] = {}
        self._hooks = [m.register_forward_pre_hook(lambda _, args: self.calls.append(args)) for m in self.modules]
        self._hooks.append(self.head.register_forward_hook(self._record))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, head: Any, inputs: Sequence[Any], outputs: Sequence[Sequence[dict]]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def scores(self, sample: int = 0) -> np.ndarray:
        """The largest class score of every query after the last layer, [Q]."""
        return self._scores(sample).cpu().numpy()

    def nearest_query(self, xy_2: np.ndarray, sample: int = 0) -> int:
        """The query whose predicted centre is nearest to a point (m, LiDAR frame): that of a detection there."""
        centre_TQ2 = torch.stack([task[0]["center"][-1][sample] for task in self.outputs])
        distance_TQ = (centre_TQ2 - centre_TQ2.new_tensor(xy_2)).norm(dim=-1)
        return int(distance_TQ.amin(0).argmin())

    @torch.no_grad()
    def attention_of(self, query: int | None, sample: int = 0) -> QueryAttention:
        """See :func:`query_attention`; after the forward pass."""
        scores_Q = self._scores(sample)
        if query is not None and query >= len(scores_Q):
            raise UserError(f"query {query}: the model has {len(scores_Q)} queries", f"Give 0 to {len(scores_Q) - 1}.")
        query = int(scores_Q.argmax()) if query is None else query
        decoded = self._decoder_pass(sample, query)
        layout = self._layout()
        layers, window_K = [], None
        for number in range(len(self.modules)):
            layer, inside_K = self._layer(number, decoded, layout.num_keys)
            layers.append(layer)
            window_K = window_K if inside_K is None else inside_K
        masked = any(isinstance(args[5], Tensor) for args in decoded.calls)
        router = self.outputs[0][0].get("aqr")
        reference_Q3 = to_metres(clamp_reference(self.head.reference_points.weight), self.head.pc_range)
        return QueryAttention(
            query,
            float(scores_Q[query]),
            reference_Q3[query].cpu().numpy(),
            self._pixel(reference_Q3[query], sample),
            None if router is None else tuple(float(weight[sample, query]) for weight in router[0].weights),
            layout,
            tuple(layers),
            window_K,
            "on keys that the mask leaves" if masked else "in the window",
            decoded.expert,
        )

    def _scores(self, sample: int) -> Tensor:
        return torch.cat([task[0]["cls_logits"][-1][sample] for task in self.outputs], -1).sigmoid().amax(-1)

    def _decoder_pass(self, sample: int, query: int) -> _DecoderPass:
        """The pass that decoded a query. MoME's experts decode their queries of each sample one after the other."""
        layers, expert_BQ = len(self.modules), self.outputs[0][0].get("expert")
        if expert_BQ is None:
            return _DecoderPass(0, tuple(self.calls[:layers]), sample, query)
        expert = int(expert_BQ[sample, query])
        used_EB = torch.stack([(expert_BQ == index).any(-1) for index in range(len(MODALITIES))])
        number = int(used_EB[:expert].sum() + used_EB[expert, :sample].sum())
        row = int((expert_BQ[sample, :query] == expert).sum())
        calls = tuple(self.calls[number * layers : (number + 1) * layers])
        return _DecoderPass(number, calls, 0, row, MODALITIES[expert])

    def _layer(self, number: int, decoded: _DecoderPass, num_keys: int) -> tuple[LayerAttention, np.ndarray | None]:
        """The attention of a layer, and on which keys [K] its bias acts; None: it has no bias."""
        module, (x, query_pos, memory, memory_pos, _, bias, prior, _) = self.modules[number], decoded.calls[number]
        sample, row = decoded.sample, decoded.row
        index = (decoded.number, number, sample)
        if index not in self._keys:
            self._keys[index] = _projected_keys(module, (memory + memory_pos)[sample])
        q, k = _projected_query(module, (x + query_pos)[sample, row]), self._keys[index]
        added = None if prior is None else _prior_scores(prior, sample, row)
        plain, inside_K = attention_weights(q, k, added), None
        biased = plain
        if bias is not None:
            bias_K, inside_K = _bias_of_query(bias, sample, row)
            biased = attention_weights(q, k, bias_K if added is None else added + bias_K)
        key_K = self._stored_keys(decoded, num_keys)

        def in_layout(values_K: Tensor) -> np.ndarray:
            return values_K.new_zeros(num_keys).index_copy(0, key_K, values_K).cpu().numpy()

        biased_K, plain_K = (in_layout(weights.mean(0)) for weights in (biased, plain))
        layer = LayerAttention(biased_K, biased_K if bias is None else plain_K)
        return layer, None if inside_K is None else in_layout(inside_K)

    def _stored_keys(self, decoded: _DecoderPass, num_keys: int) -> Tensor:
        """Which key of the layout each key of the decoder's memory is: an expert has some, ``tiled`` reorders them."""
        stored, device = decoded.calls[0][2].shape[1], decoded.calls[0][2].device
        first = num_keys - stored if decoded.expert == "img" else 0
        key_K = torch.arange(first, first + stored, device=device)
        biases = [args[5] for args in decoded.calls if isinstance(args[5], WindowBias) and args[5].in_patches]
        return key_K[tile_geometry(biases[0]).keys.key_K] if biases else key_K

    def _pixel(self, point_3: Tensor, sample: int) -> np.ndarray:
        if not self.head.uses_cameras:
            return np.zeros((0, 2))
        cameras = CameraGeometry.from_metas(self.inputs[2], point_3.device).of_sample(sample)
        pixel_BQN2, seen_BQN = project_to_cameras(point_3[None, None], cameras.lidar2img_BN44, cameras.key_BN2)
        share_N2 = pixel_BQN2[0, 0] / cameras.key_BN2[0].flip(-1)
        return share_N2.masked_fill(~seen_BQN[0, 0, :, None], float("nan")).cpu().numpy()

    def _layout(self) -> MemoryLayout:
        pts_feats, img_feats, metas = self.inputs[:3]
        bev = pts_feats[0] if self.head.uses_lidar and pts_feats else None
        images = img_feats[0] if self.head.uses_cameras and img_feats else None
        camera_shape = None if images is None or not len(images) else (len(images) // len(metas), *images.shape[-2:])
        return MemoryLayout(None if bev is None else tuple(bev.shape[-2:]), camera_shape, tuple(self.head.bev_range))


def attention_weights(q_Hd: Tensor, k_HKd: Tensor, added: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + added) of one query, [H, K]. ``added``: [K] or [H, K]; all -inf gives zeros."""
    scores_HK = torch.einsum("hd,hkd->hk", q_Hd, k_HKd) / math.sqrt(q_Hd.shape[-1])
    if added is not None:
        scores_HK = scores_HK + added
    masked_H1 = (scores_HK == float("-inf")).all(-1, keepdim=True)  # and no other cause of NaN is hidden
    return scores_HK.softmax(-1).masked_fill(masked_H1, 0.0)


def _projected_query(module: Any, query_C: Tensor) -> Tensor:
    """The query of a cross-attention, projected to its heads, [H, d]."""
    weight, bias = (part.chunk(3)[0] for part in (module.attn.in_proj_weight, module.attn.in_proj_bias))
    return F.linear(query_C, weight, bias).unflatten(-1, (module.num_heads, -1))


def _projected_keys(module: Any, key_KC: Tensor) -> Tensor:
    """The keys of a cross-attention, projected to its heads, [H, K, d]."""
    weight, bias = (part.chunk(3)[1] for part in (module.attn.in_proj_weight, module.attn.in_proj_bias))
    return F.linear(key_KC, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(0, 1)


def _prior_scores(prior: Prior, sample: int, query: int) -> Tensor:
    """What the locality prior adds to the scores of the query, [H, K]."""
    query_BHQE, key_B1KE = prior.dims
    return torch.einsum("he,ke->hk", query_BHQE[sample, :, query], key_B1KE[sample, 0])


def _bias_of_query(bias: WindowBias | Tensor, sample: int, query: int) -> tuple[Tensor, Tensor]:
    """The bias [K] on the scores of the query, and on which keys it acts, bool [K] (a mask: those it leaves open)."""
    if isinstance(bias, torch.Tensor):
        return bias[sample, query], bias[sample, query] > float("-inf")
    row = bias.rows(sample, torch.tensor([query], device=bias.index_BQW.device))
    inside_K = torch.zeros(bias.num_keys, dtype=torch.bool, device=bias.index_BQW.device)
    inside_K[row.index_BQW[row.valid_BQW]] = True
    return row.dense()[0, 0], inside_K
