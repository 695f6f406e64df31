"""Sums over the window cells of every query, in chunks that stay in the cache: scores, outputs and gradients.

A chunk gathers the keys of a few queries as whole rows of all heads. Scores of all heads then come from one matrix
product per query: its heads' vectors on the diagonal of an [H, H * E] matrix. That is H times the necessary
FLOPs, and still far faster than H small products, for few and narrow keys. Where all heads share keys and values, the
matrix holds their vectors unchanged, [H, E], without overhead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from aqr_bench.bias.windows import WindowBias

# Bytes of gathered keys per chunk. On a CPU they have to stay in the cache between write and read.
CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**27}


@dataclass(frozen=True)
class Cells:
    """The cells of one window (or of some other W columns of a bias) for those of the B * Q rows that have any.

    Args:
        columns: which columns of the bias they are.
        row_N: which of the B * Q rows, in order of computation.
        key_NW: row of the [B * K, ...] keys of each cell (some valid row where the cell is not valid).
        added_NW: added to the scores (-inf where not valid), or None.
        factor_NW: factor on a cell's probability (0 where not valid), or None for 1.
        slope_NW: derivative of that product by the bias, over the probability, or None for 1.
        count_N: cells to compute in each row, in falling order.
    """

    columns: slice
    row_N: Tensor
    key_NW: Tensor
    added_NW: Tensor | None
    factor_NW: Tensor | None
    slope_NW: Tensor | None
    count_N: tuple[int, ...]

    def chunks(self, row_bytes: int, device: str) -> Iterator[tuple[slice, int]]:
        """(rows, cells) that fit the budget: a chunk is [rows, :cells]."""
        start = 0
        while start < len(self.count_N):
            width = self.count_N[start]
            rows = max(1, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (width * row_bytes))
            end = min(start + rows, len(self.count_N))
            yield slice(start, end), width
            start = end


@dataclass(frozen=True)
class CellOrder:
    """The part of :class:`Cells` that does not depend on values and mask; ``index_BQW``: keys of the columns' cells."""

    columns: slice
    index_BQW: Tensor
    valid_BQW: Tensor
    row_N: Tensor
    key_NW: Tensor
    count_N: tuple[int, ...]


@dataclass(frozen=True)
class CellGeometry:
    """Where the cells of a :class:`WindowBias` are, without its values.

    Use :func:`cell_geometry`, so that all layers and both passes share what is computed from it.
    """

    index_BQW: Tensor
    valid_BQW: Tensor
    num_keys: int
    parts: tuple[slice, ...]

    @cached_property
    def orders(self) -> list[CellOrder]:
        """Window by window. Computing them waits for a GPU, once."""
        ordered = [self._order(columns) for columns in self.parts if columns.stop > columns.start]
        counts = torch.stack([count[row] for count, row, _ in ordered]).tolist() if ordered else []
        orders = []
        for (_, row, order), count in zip(ordered, counts, strict=True):
            rows = sum(n > 0 for n in count)
            key = order.key_NW.index_select(0, row[:rows])
            orders.append(replace(order, row_N=row[:rows], key_NW=key, count_N=tuple(count[:rows])))
        return orders

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor]:
        """Key and column of the cells with the first valid one of the row in place of those that are not, [B, Q, W].

        So all can be written at once, in any order. In a row without a valid cell all are the first column, with key 0.
        """
        valid = self.valid_BQW
        column = torch.arange(valid.shape[-1], device=valid.device).expand_as(valid)
        column = torch.where(valid, column, valid.to(torch.uint8).argmax(-1, keepdim=True))
        return self.index_BQW.masked_fill(~valid, 0).gather(-1, column), column

    def _order(self, columns: slice) -> tuple[Tensor, Tensor, CellOrder]:
        """Cells to compute in each row of B * Q, all rows in order, and the unfinished order of all rows."""
        index, valid = self.index_BQW[..., columns], self.valid_BQW[..., columns]
        batch, _, width = index.shape
        index = index.masked_fill(~valid, 0)
        key = index + torch.arange(batch, device=index.device)[:, None, None] * self.num_keys
        if len(self.parts) > 1:
            # Few cells are invalid here: keep the order by position.
            count = valid.any(-1).flatten() * width
        else:
            count = (valid * torch.arange(1, width + 1, device=valid.device)).amax(-1).flatten()
        # Most cells first, so that a chunk pads little; then neighbours merged, whose keys are in the cache already.
        order = (width - count) * (batch * self.num_keys) + key[..., width // 2].flatten()
        row = order.argsort(stable=True)
        return count, row, CellOrder(columns, index, valid, row, key.flatten(0, 1), ())


def cell_geometry(bias: WindowBias) -> CellGeometry:
    """The cells of a bias: the same object for the same bias."""
    if "cells" not in bias.shared:
        bias.shared["cells"] = CellGeometry(bias.index_BQW, bias.valid_BQW, bias.num_keys, bias.parts)
    return bias.shared["cells"]


def make_cells(bias: WindowBias, mask: Tensor | None, correction: bool) -> list[Cells]:
    """The cells of a window bias, window by window.

    Args:
        bias: the bias; its values are detached.
        mask: added scores [B or 1, Q, K], read at the cells, or None.
        correction: the bias as a factor e^b - 1 on probabilities without bias, instead of as a term of the scores.
    """
    geometry, value = cell_geometry(bias), bias.value_BQW.detach()
    return [_with_values(order, value[..., order.columns], mask, correction) for order in geometry.orders]


def _with_values(order: CellOrder, value: Tensor, mask: Tensor | None, correction: bool) -> Cells:
    valid = order.valid_BQW
    added = None if mask is None else mask.expand(len(valid), -1, -1).gather(-1, order.index_BQW)
    factor = slope = None
    if correction:
        factor = value.expm1().masked_fill(~valid, 0)
        slope = factor + valid
    else:
        value = value.masked_fill(~valid, float("-inf"))
        added = value if added is None else added + value
    ordered = (None if x is None else x.flatten(0, 1)[order.row_N] for x in (added, factor, slope))
    return Cells(order.columns, order.row_N, order.key_NW, *ordered, order.count_N)


@dataclass(frozen=True)
class Correction:
    """Changes of each row's sums by the bias.

    Args:
        out_BHQD: sum over the cells of (e^b - 1) p v.
        gained_BHQ: sum of (e^b - 1) p over cells with b > 0.
        lost_BHQ: sum of (1 - e^b) p over cells with b < 0.
    """

    out_BHQD: Tensor
    gained_BHQ: Tensor
    lost_BHQ: Tensor


def correction(q: Tensor, k: Tensor, v: Tensor, lse: Tensor, cells: Sequence[Cells], scale: float) -> Correction:
    """The change that a bias, given as factors e^b - 1, makes to attention with log-sum-exp ``lse`` [B, H, Q]."""
    batch, heads, queries, _ = q.shape
    rows = _Rows(q, k, v, scale)
    out = q.new_zeros(batch * queries, heads, v.shape[-1])
    sums = q.new_zeros(batch * queries, heads, 2)
    lse_rows = lse.transpose(1, 2).flatten(0, 1)
    for part, at, width in _chunks(cells, rows):
        row = part.row_N[at]
        rows.gather(part.key_NW[at, :width])
        p = rows.scores(row, part, at, width).sub_(lse_rows[row][..., None]).exp_()
        factor = part.factor_NW[at, :width]
        sums[row] += torch.bmm(p, torch.stack([factor.clamp(min=0), factor.clamp(max=0)], -1))
        out[row] += rows.on_diagonal(torch.bmm(p.mul_(factor[:, None]), rows.values))
    out, sums = (x.unflatten(0, (batch, queries)).transpose(1, 2) for x in (out, sums))
    return Correction(out, sums[..., 0], -sums[..., 1])


def cell_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    grad_BHQD: Tensor,
    delta_BHQ: Tensor,
    cells: Sequence[Cells],
    num_columns: int,
    scale: float,
    onto: tuple[Tensor, Tensor, Tensor] | None,
) -> Tensor:
    """Gradients that go through the cells, with P = exp(score - lse) and t = dO . v - delta, delta = dO . O.

    Of the bias: the sum over heads of slope P t. Of the scores: factor P t, from which those of q and k follow.
    Of v: factor P dO. (Derivation: softmax with a factor e^b on some keys is softmax with b added to their scores.)

    Args:
        onto: gradients of q, k and v, laid out as :func:`like_heads` does, to add to; None leaves them out.
    Returns:
        gradient of the bias, [B, Q, num_columns].
    """
    heads, grads = _Rows(q, k, v, scale), _Rows(grad_BHQD, v, v, 1.0)
    lse_rows, delta_rows = (x.transpose(1, 2).flatten(0, 1) for x in (lse, delta_BHQ))
    bias = q.new_zeros(len(heads.q_rows), num_columns)
    if onto is not None:
        dq, dk, dv = (x.transpose(1, 2).view(-1, *x.shape[1::2]) for x in onto)
        dk, dv = dk.flatten(1), dv.flatten(1)
    for part, rows, width in _chunks(cells, heads):
        row, key = part.row_N[rows], part.key_NW[rows, :width]
        heads.gather(key)
        p = heads.scores(row, part, rows, width).sub_(lse_rows[row][..., None]).exp_()
        diagonal = grads.diagonal(row)
        pt = torch.bmm(diagonal, heads.values.transpose(1, 2)).sub_(delta_rows[row][..., None]).mul_(p)
        through = pt.sum(1)
        if part.slope_NW is not None:
            through *= part.slope_NW[rows, :width]
        first = part.columns.start
        bias[row, first : first + width] = through
        if onto is None:
            continue
        if part.factor_NW is not None:
            factor = part.factor_NW[rows, None, :width]
            p, pt = p.mul_(factor), pt.mul_(factor)
        dq[row] += heads.on_diagonal(torch.bmm(pt, heads.keys)) * scale
        dk.index_add_(0, key.flatten(), torch.bmm(pt.transpose(1, 2), heads.diagonal(row)).flatten(0, 1))
        dv.index_add_(0, key.flatten(), torch.bmm(p.transpose(1, 2), diagonal).flatten(0, 1))
    return bias.unflatten(0, (q.shape[0], q.shape[2]))


def in_rows(x_BHSE: Tensor) -> Tensor:
    """The same tensor, laid out as :func:`like_heads` does; a copy only where it is not."""
    return x_BHSE.transpose(1, 2).contiguous().transpose(1, 2)


def like_heads(x_BHSE: Tensor) -> Tensor:
    """An uninitialised tensor of this shape, laid out like projected heads: all heads of a token in one row."""
    batch, heads, tokens, width = x_BHSE.shape
    return x_BHSE.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _chunks(cells: Sequence[Cells], heads: _Rows) -> Iterator[tuple[Cells, slice, int]]:
    for part in cells:
        for rows, width in part.chunks(heads.key_bytes, heads.q_rows.device.type):
            yield part, rows, width


class _Rows:
    """q, k and v as rows of all heads, with the buffers of one chunk; k and v may have one head for all of q's."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        self.scale, self.num_heads = scale, q.shape[1]
        self.shared = k.shape[1] < q.shape[1]
        self.q_rows = q.transpose(1, 2).flatten(0, 1)  # [B * Q, H, E]
        self.k_rows, self.v_rows = (x.transpose(1, 2).flatten(0, 1).flatten(1) for x in (k, v))  # [B * K, H * E]
        self.key_bytes = self.k_rows.shape[1] * self.k_rows.element_size()
        self._buffers: dict[str, Tensor] = {}

    def gather(self, key_nw: Tensor) -> None:
        """Fill ``keys`` and ``values``, [n, w, H * E]."""
        self.keys, self.values = self._gathered("k", self.k_rows, key_nw), self._gathered("v", self.v_rows, key_nw)

    def diagonal(self, row: Tensor) -> Tensor:
        """[n, H, H * E]: the scaled query vectors of each head on the diagonal, zeros elsewhere; shared: [n, H, E]."""
        if self.shared:
            return self.q_rows[row] * self.scale
        n, (_, heads, width) = len(row), self.q_rows.shape
        spread = self._buffers.get("q")
        if spread is None or len(spread) < n:
            self._buffers["q"] = spread = self.q_rows.new_zeros(n, heads, heads, width)
        spread = spread[:n]
        spread.diagonal(dim1=1, dim2=2).copy_((self.q_rows[row] * self.scale).transpose(1, 2))
        return spread.flatten(2)

    def scores(self, row: Tensor, part: Cells, rows: slice, width: int) -> Tensor:
        """Scores of the gathered keys, [n, H, w]."""
        scores = torch.bmm(self.diagonal(row), self.keys.transpose(1, 2))
        return scores if part.added_NW is None else scores.add_(part.added_NW[rows, None, :width])

    def on_diagonal(self, x_nHC: Tensor) -> Tensor:
        """Each head's part of the width: [n, H, H * E] -> [n, H, E]; shared: all of it."""
        if self.shared:
            return x_nHC
        return x_nHC.unflatten(2, (self.num_heads, -1)).diagonal(dim1=1, dim2=2).transpose(1, 2)

    def _gathered(self, name: str, rows: Tensor, key_nw: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < key_nw.numel():
            self._buffers[name] = buffer = rows.new_empty(key_nw.numel(), rows.shape[1])
        out = buffer[: key_nw.numel()]
        return torch.index_select(rows, 0, key_nw.flatten(), out=out).unflatten(0, key_nw.shape)
