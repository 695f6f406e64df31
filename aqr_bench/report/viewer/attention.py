"""The attention of a few queries for the page: a character for each cell of a map, and what is drawn beside it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aqr_bench.report.figures.attention import attention_caption, window_rectangle

if TYPE_CHECKING:
    from aqr_bench.engine.attention_maps import QueryAttention

# The digits of base64: 64 levels of the square root of a weight, so that small ones stay visible.
DIGITS = np.frombuffer((string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/").encode(), np.uint8)
MAX_SIDE = 48  # cells of a map in the page; of larger maps the cells of a block are summed


def encode_attention(attention: Mapping[str, QueryAttention]) -> dict[str, Any]:
    """What the page's script draws of queries of one sample and one model, by the reason for their choice.

    Returns:
        bev: [rows, columns, x0, y0, x1, y1] of the map (m, LiDAR frame); None without LiDAR.
        camera: [cameras, rows, columns]; None without cameras.
        queries: of each ``query``, ``reasons`` for its choice, ``caption``, ``bias`` (whether there is one), ``at``
            (x, y of the reference point, m), ``pixels`` (that point in each image), ``bev_window`` (x0, y0, x1, y1, m),
            ``camera_windows``, and ``layers``: of each the maps without and with the bias (of a model without one
            alone), see :func:`encode_maps`. What is in an image is in shares of the network's input, None where it is
            not in it.
            A query that was chosen for several reasons is one entry.
    """
    reasons: dict[int, list[str]] = {}
    for reason, of_query in attention.items():
        reasons.setdefault(of_query.query, []).append(reason)
    layout = next(iter(attention.values())).layout
    x0, y0, _, x1, y1, _ = layout.pc_range
    bev, camera = layout.bev_shape, layout.camera_shape
    return {
        "bev": None if bev is None else [*_pooled_shape(bev), x0, y0, x1, y1],
        "camera": None if camera is None else [camera[0], *_pooled_shape(camera[1:])],
        "queries": [_query_entry(", ".join(names), attention[names[0]]) for names in reasons.values()],
    }


def _query_entry(reasons: str, attention: QueryAttention) -> dict[str, Any]:
    window_K = attention.window_K
    bev, cameras = (None, None) if window_K is None else attention.maps(window_K)
    x0, y0, _, x1, y1, _ = attention.layout.pc_range
    rectangle = None if bev is None else window_rectangle(bev)
    in_metres = None if rectangle is None else rectangle * np.tile([x1 - x0, y1 - y0], 2) + np.tile([x0, y0], 2)
    return {
        "query": attention.query,
        "reasons": reasons,
        "caption": attention_caption(attention),
        "bias": window_K is not None,
        "at": np.asarray(attention.reference_3[:2], float).round(2).tolist(),
        "pixels": [None if np.isnan(p).any() else p.round(4).tolist() for p in np.asarray(attention.pixel_N2, float)],
        "bev_window": _rounded(in_metres),
        "camera_windows": [_rounded(window_rectangle(cells)) for cells in (() if cameras is None else cameras)],
        "layers": [
            encode_maps(attention, [layer.biased_K] if window_K is None else [layer.plain_K, layer.biased_K])
            for layer in attention.layers
        ],
    }


def _rounded(rectangle_4: np.ndarray | None) -> list[float] | None:
    return None if rectangle_4 is None else rectangle_4.round(4).tolist()


def encode_maps(attention: QueryAttention, weights: Sequence[np.ndarray]) -> dict[str, Any]:
    """Weights [K] of a layer, on one scale.

    Returns:
        largest: weight of the highest level in BEV and in the images. maps: of each of ``weights`` a text with a digit
        of base64 for every cell, the level 63 * sqrt(weight / largest): the BEV map by rows, then camera by camera.
    """
    pooled = [[_pooled(part) for part in attention.maps(weights_K) if part is not None] for weights_K in weights]
    largest = [max(float(part.max()) for part in parts) for parts in zip(*pooled, strict=True)]
    maps = []
    for parts in pooled:
        levels = [np.sqrt(part / (top or 1.0)) * (len(DIGITS) - 1) for part, top in zip(parts, largest, strict=True)]
        digits = [DIGITS[level.round().astype(int)].ravel() for level in levels]
        maps.append(np.concatenate(digits).tobytes().decode())
    return {"largest": largest, "maps": maps}


def _block(rows: int, cols: int) -> int:
    """Side of the blocks that leave at most MAX_SIDE cells to a side; 1 where none divides both sides."""
    sides = range(-(-max(rows, cols) // MAX_SIDE), min(rows, cols) + 1)
    return next((side for side in sides if rows % side == cols % side == 0), 1)


def _pooled_shape(shape: Sequence[int]) -> list[int]:
    return [side // _block(*shape) for side in shape]


def _pooled(values: np.ndarray) -> np.ndarray:
    """Sums over the blocks of the last two axes."""
    rows, cols = _pooled_shape(values.shape[-2:])
    block = _block(*values.shape[-2:])
    return values.reshape(*values.shape[:-2], rows, block, cols, block).sum((-3, -1))
