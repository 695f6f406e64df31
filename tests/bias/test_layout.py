"""Blocks of cells of the memory, averaged as loops do it."""

from __future__ import annotations

import pytest
import torch

from aqr_bench.bias.layout import MemoryLayout, pool_cells

RANGE = (-10.0, -8.0, -3.0, 10.0, 8.0, 3.0)
LAYOUTS = [
    MemoryLayout((5, 7), (3, 4, 6), RANGE),
    MemoryLayout((4, 4), None, RANGE),
    MemoryLayout(None, (2, 3, 5), RANGE),
]


def pooled_by_loops(x_BKC: torch.Tensor, layout: MemoryLayout, size: int) -> torch.Tensor:
    """Block by block of every map."""
    blocks, first = [], 0
    for maps, rows, cols in [(1, *(layout.bev_shape or (0, 0))), layout.camera_shape or (0, 0, 0)]:
        for _ in range(maps):
            grid = x_BKC[:, first : first + rows * cols].unflatten(1, (rows, cols)) if rows else None
            first += rows * cols
            for row in range(0, rows, size):
                for col in range(0, cols, size):
                    blocks.append(grid[:, row : row + size, col : col + size].flatten(1, 2).mean(1))
    assert first == x_BKC.shape[1]
    return torch.stack(blocks, 1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["both", "lidar", "cameras"])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_blocks_are_averaged_map_by_map(layout, size):
    x = torch.randn(2, layout.num_keys, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_cells(x, layout, size), pooled_by_loops(x, layout, size))
