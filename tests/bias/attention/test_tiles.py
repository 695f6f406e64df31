"""Keys in patches, queries on a curve, and the tiles that hold a window cell: against all cells."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from bias_cases import closed_form_inputs, grid_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from aqr_bench.bias import grid_windows, window_bias
from aqr_bench.bias.attention.tile_order import CAMERA_PATCH, TILE, PatchedMaps, key_order, query_order
from aqr_bench.bias.attention.tiled_flex import block_mask
from aqr_bench.bias.attention.tiles import TileGeometry, tile_geometry
from aqr_bench.bias.windows import GridWindow
from aqr_bench.cost.gpu_check.attention_cases import SIZES, layout_of, random_points

few = settings(max_examples=25, deadline=None)
maps = st.tuples(st.integers(1, 3), st.integers(1, 21), st.integers(1, 37))


@few
@given(shape=maps, patch=st.sampled_from([(8, 8), (4, 16), (1, 64), (3, 5)]), first=st.integers(0, 9))
def test_a_patch_is_stored_in_one_piece_row_by_row(shape, patch, first):
    part = PatchedMaps(first, shape, patch, False)
    number, row, col = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    by_patch = sorted(
        ((n, r // patch[0], c // patch[1], r, c) for n, r, c in zip(number.flatten().tolist(), row.flatten().tolist(),
                                                                    col.flatten().tolist(), strict=True))
    )  # fmt: skip
    expected = torch.tensor([(n, r, c) for n, _, _, r, c in by_patch])
    position = part.positions(number, row, col).flatten() - first
    stored = torch.empty(len(expected), 3, dtype=torch.long)
    stored[position] = torch.stack([number, row, col], -1).flatten(0, 2)
    assert torch.equal(stored, expected)


def test_the_key_order_is_a_permutation_that_knows_every_cell():
    parts = (PatchedMaps(3, (1, 9, 10), (8, 8), False), PatchedMaps(93, (2, 5, 17), CAMERA_PATCH, True))
    order = key_order(parts, 93 + 170 + 4, torch.device("cpu"))
    assert torch.equal(order.key_K[order.position_K], torch.arange(267))
    assert torch.equal(order.key_K[:3], torch.arange(3)) and torch.equal(order.key_K[-4:], torch.arange(263, 267))
    cell = order.row_K * 10 + order.col_K
    assert torch.equal(3 + cell[3:93], order.key_K[3:93].int()) and not order.map_K[:93].any()
    cell = (order.map_K - 1) * 85 + order.row_K * 17 + order.col_K
    assert torch.equal(93 + cell[93:263], order.key_K[93:263].int())
    assert order.is_camera_K[93:263].all() and order.is_camera_K.sum() == 170


def test_neighbours_on_the_curve_are_neighbours_on_the_map():
    row, col = (x.flatten() for x in torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij"))
    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    centre = torch.stack([torch.zeros_like(row), row, col], -1)[shuffled][None]
    window = GridWindow(0, (1, 16, 16), 3, centre, torch.ones(1, 256, dtype=torch.bool))
    blocks = centre[0, query_order([window])[0], 1:].view(4, TILE, 2)
    assert all((block.amax(0) - block.amin(0)).max() == 7 for block in blocks)  # squares of 8 x 8
    # Queries without a window come last, those of a camera are sorted by camera first.
    unseen = replace(window, seen_BQ=centre[..., 1] > 2, is_camera=True)
    order = query_order([unseen])[0]
    assert (centre[0, order[-48:], 1] <= 2).all() and (centre[0, order[:-48], 1] > 2).all()


def random_windows(seed: int, shapes: list[tuple[int, int, int]], sizes: tuple[int, int], queries: int):
    """Centres anywhere on the maps and a little beyond, some queries without a window."""
    g, first, windows = torch.Generator().manual_seed(seed), 0, []
    for is_camera, (shape, size) in enumerate(zip(shapes, sizes, strict=True)):
        if size:
            low, high = torch.tensor([0, -4, -4]), torch.tensor([shape[0] - 1, shape[1] + 4, shape[2] + 4])
            centre = (torch.rand(2, queries, 3, generator=g) * (high - low + 1)).floor().long() + low
            seen = torch.rand(2, queries, generator=g) > 0.2
            windows.append(GridWindow(first, shape, size, centre, seen, bool(is_camera)))
        first += math.prod(shape)
    return tuple(windows), first


def table_by_cells(geometry: TileGeometry) -> torch.Tensor:
    """The definition: every cell of every window."""
    table = torch.zeros_like(geometry.table_BTS)
    for window in geometry.windows:
        index, valid = window.cells()
        b, q, cell = valid.nonzero(as_tuple=True)
        table[b, geometry.rank_BQ[b, q] // TILE, geometry.keys.position_K[index[b, q, cell]] // TILE] = True
    return table


@few
@given(
    seed=st.integers(0, 10_000),
    bev=st.tuples(st.just(1), st.integers(1, 40), st.integers(1, 40)),
    cameras=maps,
    sizes=st.sampled_from([(5, 5), (1, 15), (15, 3), (0, 5), (7, 0)]),
    queries=st.sampled_from([1, 64, 100]),
)
def test_the_table_flags_exactly_the_tiles_with_a_window_cell(seed, bev, cameras, sizes, queries):
    windows, keys = random_windows(seed, [bev, cameras], sizes, queries)
    geometry = TileGeometry(windows, keys, "uniform")
    assert geometry.table_BTS.shape == (2, -(-queries // TILE), -(-keys // TILE))
    assert torch.equal(geometry.table_BTS, table_by_cells(geometry))


@few
@given(seed=st.integers(0, 10_000), focal=st.sampled_from([8.0, 20.0]), sizes=st.sampled_from([(3, 3), (5, 0), (0, 3)]))
def test_true_windows(seed, focal, sizes):
    """Over borders, outside the map, in no camera and in two; the closed form is the bias at every key."""
    inputs = grid_inputs(seed, sizes, focal)
    if not inputs.bias.grids:  # no camera sees any of them
        return
    geometry = TileGeometry(inputs.bias.grids, inputs.bias.num_keys, "uniform")
    assert torch.equal(geometry.table_BTS, table_by_cells(geometry))
    inside = window_bias(inputs.bias.grids, torch.ones_like(inputs.bias.value_BQW), inputs.bias.num_keys).dense() > 0
    b, k = torch.arange(inside.shape[0]), torch.arange(inside.shape[2])
    stored = geometry.slope(b[:, None, None], geometry.rank_BQ[:, :, None], geometry.keys.position_K[k])[1]
    assert torch.equal(stored, inside)


@few
@given(
    seed=st.integers(0, 10_000), profile=st.sampled_from(["uniform", "gaussian"]), scale=st.sampled_from([0.7, 40.0])
)
def test_the_closed_form_is_the_bias(seed, profile, scale):
    """Also where it is clamped, which a Gaussian is in its middle alone."""
    inputs = closed_form_inputs(seed, profile=profile, scale=scale)
    bias, geometry = inputs.bias, tile_geometry(inputs.bias)
    b, q, k = torch.arange(2)[:, None, None], geometry.rank_BQ[:, :, None], geometry.keys.position_K
    slope, _ = geometry.slope(b, q, k)
    sensor = geometry.keys.is_camera_K[k].long()
    limit = bias.closed_form.limit
    value = (geometry.strengths(bias.closed_form)[b, sensor, q] * slope).clamp(-limit, limit)
    torch.testing.assert_close(value, bias.dense(), atol=1e-6, rtol=1e-6)


def test_shapes_do_not_depend_on_how_many_cameras_see_a_query():
    """A kernel is compiled once per shape."""
    shapes = set()
    for focal, queries in ((8.0, 6), (20.0, 50)):
        bias = closed_form_inputs(0, focal=focal, Q=queries).bias
        geometry = tile_geometry(bias)
        shapes.add((geometry.centre_B2MQ.shape, geometry.table_BTS.shape, geometry.strengths(bias.closed_form).shape))
        assert tile_geometry(bias) is geometry
    assert len(shapes) == 1


def test_nothing_waits_for_the_device():
    """On the meta device there is nothing to wait for: an operator that needs a value on the host raises."""
    bias = closed_form_inputs(0, profile="gaussian").bias
    grids = tuple(replace(w, centre_BQ3=w.centre_BQ3.to("meta"), seen_BQ=w.seen_BQ.to("meta")) for w in bias.grids)
    geometry = TileGeometry(grids, bias.num_keys, "gaussian")
    form = replace(bias.closed_form, **{
        name: getattr(bias.closed_form, name).to("meta") for name in ("lidar_weight_BQ", "camera_weight_BQ", "scale")
    })  # fmt: skip
    index = torch.zeros(3, dtype=torch.long, device="meta")
    made = [geometry.table_BTS, geometry.strengths(form), *geometry.slope(index, index, index)]
    for with_cells in (False, True):
        tiles, coarse = (block_mask(geometry, with_cells, size) for size in (TILE, 2 * TILE))
        made += [tiles.kv_indices, tiles.full_q_indices, coarse.full_kv_num_blocks]
    assert all(x.is_meta for x in made)


@pytest.mark.parametrize(
    ("size", "windows", "share"), [("note", (5, 5), 0.15), ("note", (15, 15), 0.21), ("vov", (5, 5), 0.11)]
)
def test_few_tiles_are_flagged_at_full_size(size, windows, share):
    """What predicts the cost of the bias on a GPU; in the order that queries and keys come in it is over a third."""
    layout = layout_of(SIZES[size])
    grids = grid_windows(*random_points(SIZES[size], torch.Generator().manual_seed(0)), layout, *windows)
    geometry = TileGeometry(grids, layout.num_keys, "uniform")
    assert 0.02 < geometry.table_BTS.float().mean() < share
