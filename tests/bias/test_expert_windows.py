"""The windows of MoME's router: the official defects, and what takes their place without them."""

from __future__ import annotations

import numpy as np
import torch
from cmt_small import ring

from aqr_bench.bias.expert_windows import official_windows
from aqr_bench.bias.layout import MemoryLayout, project_to_cameras
from aqr_bench.bias.windows import grid_windows

LAYOUT = MemoryLayout((10, 12), (3, 6, 10), (-24.0, -20.0, -5.0, 24.0, 20.0, 3.0))  # BEV cells of 4 m
CAMERAS, SHAPE = torch.tensor(ring(3, 48, 80))[None].float(), torch.tensor([[[48.0, 80.0]] * 3])


def keys(make_windows, point, sizes=(3, 3)) -> set[int]:
    """The keys in the windows of one point."""
    windows = make_windows(torch.tensor([[point]]), CAMERAS, SHAPE, LAYOUT, *sizes)
    cells = [window.cells() for window in windows]
    return {key for index, valid in cells for key in index[valid].tolist()}


def bev(rows, cols) -> set[int]:
    return {12 * row + col for row in rows for col in cols}


def camera(view, rows, cols) -> set[int]:
    return {120 + 60 * view + 10 * row + col for row in rows for col in cols}


def test_inside_the_map_both_are_the_cells_around_the_point():
    for make_windows in (official_windows, grid_windows):
        assert keys(make_windows, [2.0, -6.0, 0.0], (3, 0)) == bev((2, 3, 4), (5, 6, 7))
        assert keys(make_windows, [-23.0, -19.0, 0.0], (3, 0)) == bev((0, 1), (0, 1))


def test_the_official_far_edge_wraps():
    edge = [24.0, -6.0, 0.0]
    assert keys(official_windows, edge, (3, 0)) == bev((3, 4, 5), (0, 1))
    assert keys(grid_windows, edge, (3, 0)) == bev((2, 3, 4), (11,))


def test_a_point_that_no_camera_sees_has_the_official_corner_of_view_0():
    above = [0.0, 0.0, 3.0]
    _, seen = project_to_cameras(torch.tensor([[above]]), CAMERAS, SHAPE)
    assert not seen.any()
    assert keys(official_windows, above, (0, 5)) == camera(0, range(3), range(3))
    assert keys(grid_windows, above, (0, 5)) == set()


def test_a_point_that_two_cameras_see_has_the_official_window_in_the_first_alone():
    wide = torch.tensor(np.concatenate([ring(3, 48, 80)[:1], ring(3, 48, 80)[:1], ring(3, 48, 80)[2:]]))[None].float()
    point = torch.tensor([[[10.0, 0.5, 0.0]]])
    official, corrected = (f(point, wide, SHAPE, LAYOUT, 0, 3) for f in (official_windows, grid_windows))
    assert [w.centre_BQ3[0, 0, 0].item() for w in official] == [0]
    assert [w.centre_BQ3[0, 0, 0].item() for w in corrected] == [0, 1]
    assert torch.equal(official[0].centre_BQ3, corrected[0].centre_BQ3)


def test_a_point_behind_a_camera_may_count_as_seen_officially():
    matrix = torch.eye(4).repeat(1, 3, 1, 1)  # looks along z
    behind = torch.tensor([[[1e-4, 2e-4, -3.0]]])
    official, corrected = (f(behind, matrix, SHAPE, LAYOUT, 0, 3) for f in (official_windows, grid_windows))
    assert official[0].centre_BQ3[0, 0].tolist() == [0, 2, 1] and corrected == ()


def test_a_reference_that_is_not_finite_has_no_cell_that_breaks_indexing():
    for value in (float("nan"), float("inf"), 1e30):
        windows = official_windows(torch.full((1, 1, 3), value), CAMERAS, SHAPE, LAYOUT, 3, 3)
        for window in windows:
            index, _ = window.cells()
            assert ((index >= 0) & (index < LAYOUT.num_keys)).all()
