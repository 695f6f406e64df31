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
from aqr_bench.bias.layout import project_to_cameras
from aqr_bench.cmt.encoding import clamp_reference, to_metres
from aqr_bench.cmt.geometry import CameraGeometry
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.errors import UserError


@dataclass(frozen=True)
class LayerAttention:
    """Attention weights of a query in one decoder layer, mean over heads, [K]; each sums to 1.

    ``biased_K``: as the model attends, ``plain_K``: without the bias; the same array where the layer has no bias.
    """

    biased_K: np.ndarray
    plain_K: np.ndarray


@dataclass(frozen=True)
class QueryAttention:
    """Attention of one query on one sample.

    query, score: its index and largest class score. reference_3: reference point (m, LiDAR frame).
    pixel_N2: that point in each image, as shares of width and height; NaN where the camera does not see it.
    weights: LiDAR and camera weight of the router; None without one.
    layout: which key is which BEV cell or camera feature cell.
    window_K: keys that the bias acts on; None: there is no bias in cross-attention. region: what these are.
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


def query_attention(evaluator: Evaluator, batch: dict, query: int | None = None) -> QueryAttention:
    """Run a batch of one sample and compute the attention of a query (None: the one with the highest score).

    Raises:
        UserError: the detector has no decoder like CMT's; there is no such query.
    """
    head = getattr(evaluator.model, "pts_bbox_head", None)
    with AttentionRecorder(head) as recorder:
        evaluator.predict(batch)
    with torch.no_grad():
        return recorder.attention_of(query)


class AttentionRecorder:
    """Records what the cross-attentions of a CMT head get in a forward pass, as a context manager around it."""

    def __init__(self, head: Any) -> None:
        decoder = getattr(getattr(head, "transformer", None), "decoder", None)
        if decoder is None or hasattr(head.transformer, "routes"):
            raise UserError(
                "the attention of this detector cannot be drawn",
                "It is drawn of detectors with CMT's head and one decoder; experts as in MoME have several.",
            )
        self.head = head
        self.modules = [a for layer in decoder.layers for a in layer.attentions if a.role == "cross"]

    def __enter__(self) -> AttentionRecorder:
        self.calls: list[Sequence[Any]] = []
        self._hooks = [m.register_forward_pre_hook(lambda _, args: self.calls.append(args)) for m in self.modules]
        self._hooks.append(self.head.register_forward_hook(self._record))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, head: Any, inputs: Sequence[Any], outputs: Sequence[Sequence[dict]]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def attention_of(self, query: int | None, sample: int = 0) -> QueryAttention:
        """See :func:`query_attention`; after the forward pass."""
        scores_Q = torch.cat([task[0]["cls_logits"][-1][sample] for task in self.outputs], -1).sigmoid().amax(-1)
        if query is not None and query >= len(scores_Q):
            raise UserError(f"query {query}: the model has {len(scores_Q)} queries", f"Give 0 to {len(scores_Q) - 1}.")
        query = int(scores_Q.argmax()) if query is None else query
        layers, window_K, region = [], None, "in the window"
        for module, (x, query_pos, memory, memory_pos, _, bias, prior, _) in zip(self.modules, self.calls, strict=True):
            q, k = _projected(module, (x + query_pos)[sample, query], (memory + memory_pos)[sample])
            added = None if prior is None else _prior_scores(prior, sample, query)
            plain = attention_weights(q, k, added)
            if bias is None:
                layers.append(LayerAttention(*[plain.mean(0).cpu().numpy()] * 2))
                continue
            bias_K, inside_K = _bias_of_query(bias, sample, query)
            window_K = inside_K.cpu().numpy()
            region = "on keys that the mask leaves" if isinstance(bias, Tensor) else region
            biased = attention_weights(q, k, bias_K if added is None else added + bias_K)
            layers.append(LayerAttention(*(w.mean(0).cpu().numpy() for w in (biased, plain))))
        router = self.outputs[0][0].get("aqr")
        reference_Q3 = to_metres(clamp_reference(self.head.reference_points.weight), self.head.pc_range)
        return QueryAttention(
            query,
            float(scores_Q[query]),
            reference_Q3[query].cpu().numpy(),
            self._pixel(reference_Q3[query], sample),
            None if router is None else tuple(float(weight[sample, query]) for weight in router[0].weights),
            self._layout(),
            tuple(layers),
            window_K,
            region,
        )

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


def _projected(module: Any, query_C: Tensor, key_KC: Tensor) -> tuple[Tensor, Tensor]:
    """The query [H, d] and the keys [H, K, d] of a cross-attention, projected to its heads."""
    (wq, wk, _), (bq, bk, _) = module.attn.in_proj_weight.chunk(3), module.attn.in_proj_bias.chunk(3)
    q = F.linear(query_C, wq, bq).unflatten(-1, (module.num_heads, -1))
    return q, F.linear(key_KC, wk, bk).unflatten(-1, (module.num_heads, -1)).transpose(0, 1)


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
