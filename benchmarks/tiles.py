"""Share of the scores' tiles that hold a window cell: what backend `tiled` costs over attention without a bias.

python benchmarks/tiles.py

Counts, not times. Queries are those of a training step: denoising queries around objects, and 900 anywhere. `In first
order` are queries as they come and keys row by row; else keys are in patches and queries on a Z-order curve.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aqr_bench.bias import grid_windows
from aqr_bench.bias.attention.tile_order import TILE
from aqr_bench.bias.attention.tiles import TileGeometry
from aqr_bench.cost.gpu_check.attention_cases import SIZES, layout_of, random_points

WINDOWS = ((5, 5), (5, 15), (15, 15))  # cells a side, BEV and camera
GROUPS, OBJECTS, NOISE_M = 10, 40, 1.5  # of denoising queries


def main() -> None:
    """Print a line per size and windows."""
    for size in ("note", "vov"):
        for windows in WINDOWS:
            geometry = make_geometry(size, *windows)
            tiles = geometry.table_BTS[0].numel()
            tiled, first = (100 * x.float().mean() for x in (geometry.table_BTS, table_in_first_order(geometry)))
            print(f"{size}, {windows[0]}/{windows[1]}: {tiled:.1f} % of {tiles} tiles; in first order {first:.1f} %")


def make_geometry(size: str, bev_window: int, camera_window: int) -> TileGeometry:
    """Windows of denoising and other queries, one sample."""
    generator = torch.Generator().manual_seed(0)
    small = replace(SIZES[size], batch=1)
    points, *cameras = random_points(small, generator)
    objects = (torch.rand(OBJECTS, 3, generator=generator) - 0.5) * torch.tensor([100.0, 100.0, 3.0])
    noisy = objects + torch.randn(GROUPS, OBJECTS, 3, generator=generator) * NOISE_M
    points, layout = torch.cat([noisy.flatten(0, 1)[None], points], 1), layout_of(small)
    windows = grid_windows(points, *cameras, layout, bev_window, camera_window)
    return TileGeometry(windows, layout.num_keys, "uniform")


def table_in_first_order(geometry: TileGeometry) -> Tensor:
    """The tiles of row-major keys and unsorted queries that hold a window cell, [B, T, S]."""
    table = torch.zeros_like(geometry.table_BTS)
    for window in geometry.windows:
        index, valid = window.cells()
        sample, query, cell = valid.nonzero(as_tuple=True)
        table[sample, query // TILE, index[sample, query, cell] // TILE] = True
    return table


if __name__ == "__main__":
    main()
