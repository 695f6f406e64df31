"""Router, scale and clamp, sites, layers, supervision, locality prior."""

from __future__ import annotations

import math

import bias_reference as reference
import pytest
import torch

from aqr_bench.bias import AttentionBias, LocalityPrior, MemoryLayout, grid_windows, project_to_cameras
from aqr_bench.bias.layout import pool_cells
from aqr_bench.bias.locality_prior import image_rays
from aqr_bench.bias.router import router_loss, sensor_weights

RANGE = (-10.0, -10.0, -3.0, 10.0, 10.0, 3.0)
LAYOUT = MemoryLayout((8, 8), (4, 3, 4), RANGE)


def forward(aqr, state=None, seed=0, batch=2, queries=6):
    g = torch.Generator().manual_seed(seed)
    dims = 8
    tensors = [torch.randn(batch, n, dims, generator=g) for n in (queries, queries, LAYOUT.num_keys, LAYOUT.num_keys)]
    points = (torch.rand(batch, queries, 3, generator=g) - 0.5) * torch.tensor([18.0, 18.0, 2.0])
    lidar2img = reference.ring_of_cameras(4, 32, 24, 20.0).expand(batch, -1, -1, -1)
    shapes = torch.tensor([24.0, 32.0]).expand(batch, 4, 2)
    return aqr(*tensors, points, lidar2img, shapes, LAYOUT, state)


def test_a_new_learned_router_leaves_attention_unbiased():
    out = forward(AttentionBias(8, num_heads=2, ffn_dims=16))
    assert torch.stack(out.weights).abs().max() == 0
    assert out.cross_bias.dense().abs().max() == 0


def test_a_learned_router_starts_at_its_initial_weights():
    out = forward(AttentionBias(8, num_heads=2, ffn_dims=16, initial_weights=(0.9, -0.5), scale=2.0))
    for weight_BQ, expected in zip(out.weights, (0.9, -0.5), strict=True):
        torch.testing.assert_close(weight_BQ, torch.full_like(weight_BQ, expected))
    assert torch.stack(out.cross_bias.dense().detach().aminmax()).tolist() == pytest.approx([-1.0, 1.8])


def test_gradients_reach_router_and_scale():
    aqr = AttentionBias(8, num_heads=2, ffn_dims=16)
    torch.nn.init.normal_(aqr.router.output.weight)
    out = forward(aqr)
    (out.cross_bias.dense() ** 2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aqr.router.output.parameters())
    assert aqr.scale.grad.abs() > 0


@pytest.mark.parametrize(
    ("scale", "low", "high", "expected"), [(1, 0.1, 5, 1), (9, 0.1, 3, 3), (0, 0.5, 5, 0.5), (9, 0, 20, 5)]
)
def test_scale_and_bias_are_clamped(scale, low, high, expected):
    aqr = AttentionBias(8, router="constant", scale=scale, min_scale=low, max_scale=high)
    assert forward(aqr).cross_bias.dense().max().item() == pytest.approx(expected)


@pytest.mark.parametrize(("site", "cross", "self_"), [("none", 0, 0), ("cross", 1, 0), ("self", 0, 1), ("both", 1, 1)])
def test_sites(site, cross, self_):
    out = forward(AttentionBias(8, site=site, router="constant"))
    assert (out.cross_bias is not None, out.self_bias is not None) == (bool(cross), bool(self_))


@pytest.mark.parametrize(("layers", "seen"), [("all", [1, 1, 1]), ("first", [1, 0, 0]), ("last", [0, 0, 1])])
def test_layers(layers, seen):
    aqr = AttentionBias(8, site="both", router="constant", layers=layers)
    out = forward(aqr)
    assert [aqr.for_layer(out, i, 3)[0] is not None for i in range(3)] == [bool(s) for s in seen]
    assert [aqr.for_layer(out, i, 3)[1] is not None for i in range(3)] == [bool(s) for s in seen]


def test_oracle_knows_the_sensor_state():
    out = forward(AttentionBias(8, router="oracle"), torch.tensor([1, 2]))
    assert [w[0, 0].item() for w in out.weights] == [-1, 1]
    assert [w[1, 0].item() for w in out.weights] == [1, -1]
    with pytest.raises(ValueError, match="needs the sensor state"):
        forward(AttentionBias(8, router="oracle"))


def test_supervision_pulls_the_weights_to_the_true_state():
    aqr = AttentionBias(8, num_heads=2, ffn_dims=16, supervision="modality")
    state = torch.tensor([1, 2])
    optimiser = torch.optim.Adam(aqr.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        out = forward(aqr, state)
        aqr.loss(out, state)["loss_router"].backward()
        optimiser.step()
    assert (out.weights.lidar_weight_BQ[0] < -0.5).all() and (out.weights.camera_weight_BQ[1] < -0.5).all()
    assert AttentionBias(8, num_heads=2, ffn_dims=16).loss(out, state) == {}


def test_a_local_router_sees_its_windows_and_nothing_else():
    aqr = AttentionBias(8, num_heads=2, ffn_dims=16, router_bev_window=3, router_camera_window=3)
    torch.nn.init.normal_(aqr.router.output.weight)
    seen = {}

    def forward_with(change):
        g = torch.Generator().manual_seed(0)
        query, query_pos = (torch.randn(1, 1, 8, generator=g) for _ in range(2))
        memory, memory_pos = (torch.randn(1, LAYOUT.num_keys, 8, generator=g) for _ in range(2))
        memory[0, change] += 3.0
        points = torch.tensor([[[6.0, 0.5, 0.0]]])
        lidar2img = reference.ring_of_cameras(4, 32, 24, 20.0)[None].float()
        seen["windows"] = grid_windows(points, lidar2img, torch.tensor([24.0, 32.0]).expand(1, 4, 2), LAYOUT, 3, 3)
        shapes = torch.tensor([24.0, 32.0]).expand(1, 4, 2)
        return aqr(query, query_pos, memory, memory_pos, points, lidar2img, shapes, LAYOUT).logits_BQO

    plain = forward_with(slice(0, 0))
    inside = torch.zeros(LAYOUT.num_keys, dtype=torch.bool)
    for window in seen["windows"]:
        index, valid = window.cells()
        inside[index[valid]] = True
    assert 9 < inside.sum() < LAYOUT.num_keys
    torch.testing.assert_close(forward_with(~inside), plain)
    assert (forward_with(inside) - plain).abs().max() > 1e-3


def test_a_pooled_router_attends_to_blocks_of_cells_with_the_same_parameters():
    pooled, plain = (AttentionBias(8, num_heads=2, ffn_dims=16, router_pool=size) for size in (3, 1))
    torch.nn.init.normal_(pooled.router.output.weight)
    plain.load_state_dict(pooled.state_dict())
    g = torch.Generator().manual_seed(0)
    query, query_pos = (torch.randn(2, 3, 8, generator=g) for _ in range(2))
    memory = [torch.randn(2, LAYOUT.num_keys, 8, generator=g) for _ in range(2)]
    points, lidar2img = torch.rand(2, 3, 3, generator=g), reference.ring_of_cameras(4, 32, 24, 20.0).float()
    rest = (points, lidar2img.expand(2, -1, -1, -1), torch.tensor([24.0, 32.0]).expand(2, 4, 2), LAYOUT)
    logits = pooled(query, query_pos, *memory, *rest).logits_BQO
    blocks = (pool_cells(x, LAYOUT, 3) for x in memory)
    torch.testing.assert_close(logits, pooled.router(query, query_pos, *blocks))
    assert (logits - plain(query, query_pos, *memory, *rest).logits_BQO).abs().max() > 1e-3


def test_router_loss_is_zero_at_certainty_and_log2_at_zero():
    state = torch.tensor([0, 1])
    sure = torch.stack(sensor_weights(state), -1)[:, None].expand(2, 3, 2) * 20
    assert router_loss(sure, state) < 1e-6
    assert router_loss(torch.zeros(2, 3, 2), state) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"site": "crss"}, "aqr.site 'crss'"),
        ({"bev_window": 4}, "aqr.bev_window must be 0 or odd"),
        ({"min_scale": 3, "max_scale": 1}, "min_scale <= max_scale"),
        ({"router": "constant", "supervision": "modality"}, "needs router 'learned'"),
        ({"router_bev_window": 2}, "aqr.router_bev_window must be 0 or odd"),
        ({"router": "oracle", "router_camera_window": 15}, "need router 'learned'"),
        ({"router_pool": 0}, "aqr.router_pool must be a positive number of cells, 1 for none, not 0"),
        ({"router_pool": 1.5}, "aqr.router_pool must be a positive number"),
        ({"router": "oracle", "router_pool": 2}, "aqr.router_pool averages .* needs router 'learned'"),
        ({"router_pool": 2, "router_bev_window": 5}, "and no router_bev_window or router_camera_window"),
    ],
)
def test_wrong_options_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AttentionBias(8, **kwargs)


def test_locality_prior_is_the_gaussian_it_says():
    prior = LocalityPrior(2, bev_sigma=[1.0, 4.0], angle_sigma=[0.1, 0.5]).double()
    lidar2img = reference.ring_of_cameras(4, 32, 24, 20.0)[None]
    shapes = torch.tensor([24.0, 32.0], dtype=torch.float64).expand(1, 4, 2)
    points = torch.tensor([[[3.0, -2.0, 0.5], [-7.0, 6.0, -1.0]]], dtype=torch.float64)
    pq, pk = prior(points, lidar2img, shapes, LAYOUT).dims
    assert pq.shape[-1] == pk.shape[-1] == 12
    scores = pq @ pk.transpose(-1, -2)
    centres = LAYOUT.bev_centres(points)
    rays, origin = image_rays(lidar2img, shapes, LAYOUT)
    torch.testing.assert_close(origin, torch.zeros_like(origin), atol=1e-9, rtol=0)
    direction = torch.nn.functional.normalize(points, dim=-1)
    for h, (bev, angle) in enumerate([(1.0, 0.1), (4.0, 0.5)]):
        distance = (points[0, :, None, :2] - centres).square().sum(-1)
        # Up to a constant of the head and modality. The widths pass through float32 logarithms.
        shape = -distance / (2 * bev**2)
        constant = (scores[0, h, :, :64] - shape).mean()
        torch.testing.assert_close(scores[0, h, :, :64] - constant, shape, rtol=1e-5, atol=1e-5)
        cosine = direction[0] @ rays[0].T
        constant = (scores[0, h, :, 64:] - (cosine - 1) / angle**2).mean()
        torch.testing.assert_close(scores[0, h, :, 64:] - constant, (cosine - 1) / angle**2, rtol=1e-5, atol=1e-5)


def test_image_prior_peaks_on_the_pixel_that_shows_the_point():
    layout = MemoryLayout(None, (4, 60, 80), (-50.0, -50.0, -3.0, 50.0, 50.0, 3.0))
    lidar2img = reference.ring_of_cameras(4, 320, 240, 160.0)[None].clone()
    for n, shift in enumerate([(1.5, 0.0, 0.2), (0.0, 0.8, 0.0), (-1.0, 0.3, 0.0), (0.2, -0.9, 0.1)]):
        lidar2img[0, n, :, 3] -= lidar2img[0, n, :, :3] @ torch.tensor(shift, dtype=torch.float64)
    shapes = torch.tensor([240.0, 320.0], dtype=torch.float64).expand(1, 4, 2)
    g = torch.Generator().manual_seed(0)
    points = (torch.rand(1, 40, 3, generator=g).double() - 0.5) * torch.tensor([60.0, 60.0, 3.0])
    points = points[:, points[0, :, :2].norm(dim=-1) > 5]
    pq, pk = LocalityPrior(1, angle_sigma=0.05).double()(points, lidar2img, shapes, layout).dims
    scores = (pq @ pk.transpose(-1, -2))[0, 0].view(-1, 4, 60, 80)
    pixel, seen = project_to_cameras(points, lidar2img, shapes)
    checked = 0
    for q, n in seen[0].nonzero().tolist():
        peak = scores[q, n].argmax().item()
        row, col = divmod(peak, 80)
        u, v = pixel[0, q, n].tolist()
        # Nearest in angle, not in pixels: off by a little more than half a cell towards the corners.
        assert abs((col + 0.5) * 4 - u) < 3 and abs((row + 0.5) * 4 - v) < 3
        # The level at the peak is nearly the same in every camera: the offset of the cameras costs nothing.
        assert abs(scores[q, n].max() - scores[q].max()) < 1.5**2 / (2 * 4**2 * 0.05**2)
        checked += 1
    assert checked > 20


def test_prior_mass_is_split_evenly_whatever_the_width():
    layout = MemoryLayout((100, 100), (8, 40, 60), (-50.0, -50.0, -3.0, 50.0, 50.0, 3.0))
    lidar2img = reference.ring_of_cameras(8, 600, 400, 700.0)[None]  # 46 degrees each: no gap, no overlap
    shapes = torch.tensor([400.0, 600.0], dtype=torch.float64).expand(1, 8, 2)
    points = torch.tensor([[[12.0, 3.0, 0.1], [-9.0, 14.0, 0.2]]], dtype=torch.float64)
    prior = LocalityPrior(3, bev_sigma=[2.0, 4.0, 7.0], angle_sigma=[0.02, 0.04, 0.07]).double()
    pq, pk = prior(points, lidar2img, shapes, layout).dims
    mass = (pq @ pk.transpose(-1, -2)).exp()
    torch.testing.assert_close(mass[..., : 100 * 100].sum(-1), torch.ones(1, 3, 2).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(mass[..., 100 * 100 :].sum(-1), torch.ones(1, 3, 2).double(), atol=0.15, rtol=0)
    with torch.no_grad():
        prior.balance.fill_(2.0)
    pq, pk = prior(points, lidar2img, shapes, layout).dims
    moved = (pq @ pk.transpose(-1, -2)).softmax(-1)[..., : 100 * 100].sum(-1)
    torch.testing.assert_close(moved, torch.full((1, 3, 2), 2.0).double().sigmoid(), atol=0.04, rtol=0)


def test_image_rays_hit_the_pixel_they_came_from():
    lidar2img = reference.ring_of_cameras(4, 32, 24, 20.0)[None]
    shapes = torch.tensor([24.0, 32.0], dtype=torch.float64).expand(1, 4, 2)
    rays, _ = image_rays(lidar2img, shapes, LAYOUT)
    for camera in range(4):
        for row in range(3):
            for col in range(4):
                point = torch.cat([5 * rays[0, (camera * 3 + row) * 4 + col], torch.ones(1)])
                u, v, depth = (lidar2img[0, camera] @ point)[:3]
                assert depth > 0
                assert (u / depth).item() == pytest.approx((col + 0.5) * 8)
                assert (v / depth).item() == pytest.approx((row + 0.5) * 8)


def test_prior_offsets_tell_where_a_head_looked():
    prior = LocalityPrior(1).double()
    lidar2img = reference.ring_of_cameras(4, 32, 24, 20.0)[None]
    shapes = torch.tensor([24.0, 32.0], dtype=torch.float64).expand(1, 4, 2)
    points = torch.tensor([[[3.0, -2.0, 0.5]]], dtype=torch.float64)
    made = prior(points, lidar2img, shapes, LAYOUT)
    attention = torch.zeros(1, 1, 1, LAYOUT.num_keys, dtype=torch.float64)
    attention[..., 11], attention[..., 70] = 0.25, 0.75
    offsets = made.offsets(attention @ made.key_B1KE)[0, 0, 0]
    cell, ray = LAYOUT.bev_centres(points)[11], image_rays(lidar2img, shapes, LAYOUT)[0][0, 70 - 64]
    torch.testing.assert_close(offsets[:2], 0.25 * (cell - points[0, 0, :2]) / 4)
    direction = torch.nn.functional.normalize(points[0, 0], dim=0)
    torch.testing.assert_close(offsets[3:6], 0.75 * (ray - direction) * 4)
    assert offsets[2].item() == pytest.approx(0.25) and offsets[6].item() == pytest.approx(0.75)
