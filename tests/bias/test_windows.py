"""Windows and compact bias against the definition written out with loops."""

from __future__ import annotations

import bias_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqr_bench.bias import AttentionBias, MemoryLayout, RouterWeights, WindowBias, grid_windows
from aqr_bench.bias.windows import bev_window, camera_windows, self_window

RANGE = (-10.0, -8.0, -3.0, 10.0, 8.0, 3.0)


def make_case(seed, bev=(5, 7), camera=(4, 3, 4), queries=6, focal=20.0):
    generator = torch.Generator().manual_seed(seed)
    layout = MemoryLayout(bev, camera, RANGE)
    points = (torch.rand(2, queries, 3, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor(
        [26.0, 20.0, 4.0], dtype=torch.float64
    )
    points[:, 0] = torch.tensor([RANGE[3], RANGE[4], 0.0])  # exactly on the far corner
    lidar2img = reference.ring_of_cameras(camera[0], 32, 24, focal).expand(2, -1, -1, -1).contiguous()
    shapes = torch.tensor([24.0, 32.0], dtype=torch.float64).expand(2, camera[0], 2)
    weights = torch.rand(2, queries, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return layout, points, lidar2img, shapes, weights


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bev_size=st.sampled_from([0, 1, 3, 5]),
    cam_size=st.sampled_from([0, 1, 3, 7]),
    profile=st.sampled_from(["uniform", "gaussian", "hard"]),
    focal=st.sampled_from([8.0, 20.0]),  # 8: neighbouring cameras overlap, so that two see the same point
)
def test_generated_bias_equals_definition(seed, bev_size, cam_size, profile, focal):
    layout, points, lidar2img, shapes, weights = make_case(seed, focal=focal)
    aqr = AttentionBias(8, bev_window=bev_size, camera_window=cam_size, profile=profile, router="constant", scale=1.5)
    windows = grid_windows(points, lidar2img, shapes, layout, bev_size, cam_size)
    bias = aqr.double()._cross_bias(RouterWeights(*weights.unbind(-1)), windows, layout.num_keys)
    raw, inside = reference.loop_bias(weights, points, lidar2img, shapes, layout, bev_size, cam_size, profile)
    expected = raw * 1.5
    if profile == "hard":
        expected = expected.masked_fill(~inside, float("-inf"))
    # Weights of the Gaussian are computed in float32.
    torch.testing.assert_close(bias.dense(), expected, atol=1e-6, rtol=1e-6)


def test_a_point_seen_by_two_cameras_has_two_windows():
    layout, _, lidar2img, shapes, _ = make_case(0, focal=8.0)
    between = torch.tensor([[[4.0, 4.0, 0.0]]], dtype=torch.float64)
    windows = camera_windows(between, lidar2img[:1], shapes[:1], layout, 1)
    assert [w.seen_BQ.item() for w in windows] == [True, True]
    cells = [w.cells()[0].item() - layout.num_bev for w in windows]
    assert [cell // (3 * 4) for cell in cells] == [0, 1]


def test_a_point_that_no_camera_sees_has_no_window():
    layout, _, lidar2img, shapes, _ = make_case(0)
    above = torch.tensor([[[0.5, 0.5, 50.0]]], dtype=torch.float64)
    assert camera_windows(above, lidar2img[:1], shapes[:1], layout, 5) == ()


def test_windows_never_wrap_to_another_row():
    layout = MemoryLayout((5, 7), None, RANGE)
    edge = torch.tensor([[[RANGE[3] - 1e-6, 0.0, 0.0]]], dtype=torch.float64)
    index, valid = bev_window(edge, layout, 3).cells()
    assert set((index[valid] % 7).tolist()) == {5, 6}


def test_empty_batch_of_queries():
    layout, _, lidar2img, shapes, _ = make_case(0)
    none = torch.zeros(2, 0, 3, dtype=torch.float64)
    assert bev_window(none, layout, 3).cells()[0].shape == (2, 0, 9)
    assert camera_windows(none, lidar2img, shapes, layout, 3) == ()
    assert self_window(none, layout, 3, "uniform")[0].shape == (2, 0, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_diverged_reference_is_outside(bad):
    layout, _, lidar2img, shapes, _ = make_case(0)
    points = torch.full((1, 1, 3), bad, dtype=torch.float64)
    assert not bev_window(points, layout, 5).cells()[1].any()
    assert camera_windows(points, lidar2img[:1], shapes[:1], layout, 5) == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1, 3, 5]))
def test_self_bias_is_the_bev_bias_read_at_the_other_query(seed, size):
    layout, points, lidar2img, shapes, weights = make_case(seed, queries=9)
    aqr = AttentionBias(8, site="self", bev_window=size, camera_window=0, router="constant", profile="gaussian")
    self_bias = aqr.double()._self_bias(RouterWeights(*weights.unbind(-1)), points, layout).dense()
    raw, _ = reference.loop_bias(weights, points, lidar2img, shapes, layout, size, 0, "gaussian")
    cells = layout.bev_cells(points)
    for b in range(2):
        for j, (row, col) in enumerate(cells[b].tolist()):
            outside = not (0 <= row < 5 and 0 <= col < 7)
            expected = torch.zeros(9, dtype=torch.float64) if outside else raw[b, :, row * 7 + col]
            torch.testing.assert_close(self_bias[b, :, j], expected, atol=1e-6, rtol=1e-6)


def test_dense_ignores_invalid_cells():
    bias = WindowBias(
        torch.tensor([[[0, 2, 0]]]), torch.tensor([[[True, True, False]]]), torch.tensor([[[1.0, -2.0, 7.0]]]), 4
    )
    assert bias.dense().tolist() == [[[1.0, 0.0, -2.0, 0.0]]]
