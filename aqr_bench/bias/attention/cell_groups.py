"""Attention to the cells of hard windows alone, in groups of neighbouring queries that share their keys.

Windows of neighbours overlap, so a group of queries has far fewer keys than cells. Its scores are computed for all its
keys, with -inf where a key is in no window of the query: more FLOPs than cells need, in few and large products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aqr_bench.bias.attention.tile_order import query_order
from aqr_bench.bias.windows import WindowBias

GROUP = 16  # queries
# Bytes of gathered keys per product. On a CPU they have to stay in the cache between write and read.
CHUNK_BYTES = {"cpu": 2**18, "cuda": 2**27}


@dataclass(frozen=True)
class CellGroups:
    """Rows (of B * Q) in groups of ``GROUP``; the last group of a sample is filled with its last query.

    Args:
        row_N: row of each member, N = groups * GROUP.
        member_BQ: a member that is this query.
        key_GU: keys of each group, rows of [B * K, ...]; 0 beyond its number of keys.
        count_G: number of keys of each group, at least 1.
        slot_NW: which of its group's keys each cell is; U where the cell is not valid.
    """

    row_N: Tensor
    member_BQ: Tensor
    key_GU: Tensor
    count_G: tuple[int, ...]
    slot_NW: Tensor

    def chunks(self, row_bytes: int, device: str) -> Iterator[tuple[slice, int]]:
        """(groups, keys) that fit the budget: a chunk is [groups, :keys]."""
        budget = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // row_bytes
        start = 0
        while start < len(self.count_G):
            end, width = start + 1, self.count_G[start]
            while end < len(self.count_G) and max(width, self.count_G[end]) * (end + 1 - start) <= budget:
                width, end = max(width, self.count_G[end]), end + 1
            yield slice(start, end), width
            start = end


def cell_groups(bias: WindowBias) -> CellGroups:
    """The groups of a bias: the same object for the same bias. The first call waits for a GPU."""
    if "groups" not in bias.shared:
        bias.shared["groups"] = _make_groups(bias)
    return bias.shared["groups"]


def attend_cells(
    q: Tensor, k: Tensor, v: Tensor, bias: WindowBias, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention to each row's cells alone.

    Args:
        q, k, v: [B, H, Q, E] and [B, H or 1, K, E].
        mask: added scores [B or 1, Q, K], read at the cells, or None.
    Returns:
        output [B, H, Q, E] and log-sum-exp [B, H, Q], both 0 for rows without cells.
    """
    groups, valid = cell_groups(bias), bias.valid_BQW
    added = bias.value_BQW.detach()
    if mask is not None:
        added = added + mask.expand(len(q), -1, -1).gather(-1, bias.index_BQW.masked_fill(~valid, 0))
    added = added.flatten(0, 1)[groups.row_N].to(q.dtype)
    per_key_head = q.shape[1] // k.shape[1]
    q_rows = (q.transpose(1, 2).flatten(0, 1)[groups.row_N] * scale).unflatten(1, (k.shape[1], per_key_head))
    q_rows = q_rows.unflatten(0, (-1, GROUP)).transpose(1, 2)  # [G, heads of k, GROUP, heads of q per head of k, E]
    k_rows, v_rows = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))
    outs, sums = [], []
    for at, width in groups.chunks(k_rows[0].numel() * k_rows.element_size(), q.device.type):
        members = slice(at.start * GROUP, at.stop * GROUP)
        key = groups.key_GU[at, :width]
        keys, values = (x.index_select(0, key.flatten()).unflatten(0, key.shape) for x in (k_rows, v_rows))
        # One column more takes the cells that are not valid.
        slot = groups.slot_NW[members].clamp(max=width)
        inside = added.new_full((len(slot), width + 1), float("-inf")).scatter_(1, slot, added[members])[:, :width]
        scores = q_rows[at].flatten(2, 3) @ keys.permute(0, 2, 3, 1)
        scores.unflatten(2, (GROUP, -1)).add_(inside.view(-1, 1, GROUP, 1, width))
        out, lse = _softmax_sums(scores, values.transpose(1, 2))
        outs.append(out), sums.append(lse)
    out, lse = (
        torch.cat(x).unflatten(2, (GROUP, -1)).transpose(1, 2).flatten(0, 1).flatten(1, 2) for x in (outs, sums)
    )
    return out[groups.member_BQ].transpose(1, 2), lse[groups.member_BQ].squeeze(-1).transpose(1, 2)


def _softmax_sums(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(scores) values and the log-sum-exp [..., 1]; both 0 where all scores are -inf."""
    probabilities, largest = scores.softmax(-1), scores.amax(-1, keepdim=True)
    without_cells = largest == float("-inf")
    # exp(largest - lse) is the largest probability.
    lse = (largest - probabilities.amax(-1, keepdim=True).log()).masked_fill(without_cells, 0)
    return (probabilities @ values).masked_fill(without_cells, 0), lse


def _make_groups(bias: WindowBias) -> CellGroups:
    index, valid, keys = bias.index_BQW, bias.valid_BQW, bias.num_keys
    batch, queries, width = index.shape
    query_BQ = _neighbours(bias)
    padding = -queries % GROUP
    query_BP = torch.cat([query_BQ, query_BQ[:, -1:].expand(-1, padding)], 1)
    sample_B1 = torch.arange(batch, device=index.device)[:, None]
    row_N = (query_BP + sample_B1 * queries).flatten()
    per_sample = query_BP.shape[1] // GROUP
    # A group's keys, each once and in order: those marked in its copy of the memory.
    key = torch.where(valid, index, keys).flatten(0, 1)[row_N].view(-1, GROUP * width)
    marked = torch.zeros(len(key), keys + 1, dtype=torch.bool, device=key.device).scatter_(1, key, True)[:, :keys]
    group, cell = marked.nonzero().unbind(-1)
    count = marked.sum(-1)
    counts = tuple(count.clamp(min=1).tolist())  # no product is empty
    slot = torch.arange(len(group), device=key.device) - (count.cumsum(0) - count)[group]
    most = max(counts)
    key_GU = key.new_zeros(len(key), most)
    key_GU[group, slot] = cell + group // per_sample * keys
    slots = key.new_empty((len(key), keys + 1), dtype=torch.int32)  # read at the marked cells and at the last one
    slots[:, keys] = most
    slots[group, cell] = slot.int()
    member_BQ = query_BQ.argsort(-1) + sample_B1 * query_BP.shape[1]
    return CellGroups(row_N, member_BQ, key_GU, counts, slots.gather(1, key).long().view(-1, width))


def _neighbours(bias: WindowBias) -> Tensor:
    """[B, Q]: the queries in an order in which neighbours share cells, above all of the largest windows."""
    windows = sorted(bias.grids, key=lambda window: -window.size)
    if not windows:
        return bias.index_BQW.masked_fill(~bias.valid_BQW, bias.num_keys).amin(-1).argsort(dim=-1, stable=True)
    if not windows[0].is_camera:
        return query_order(windows)
    # Camera by camera, column by column: windows cover most rows of an image.
    rank_BQ = torch.full_like(windows[0].centre_BQ3[..., 0], 2**60)
    for window in reversed([w for w in windows if w.is_camera]):
        _, rows, cols = window.shape
        number, row, col = window.centre_BQ3.unbind(-1)
        rank_BQ = torch.where(window.seen_BQ, (number * cols + col) * rows + row, rank_BQ)
    return rank_BQ.argsort(dim=-1, stable=True)
