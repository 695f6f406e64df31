"""The parts of the model, each against a plain reference: geometry, coder, matcher, denoising, norm, voxels, neck."""

from __future__ import annotations

import copy
import csv
import itertools
import math

import numpy as np
import pytest
import torch
from cmt_official import CODE_WEIGHTS, head_config
from cmt_small import boxes, ring
from mmdet3d.registry import MODELS
from torch.nn import functional as F

from aqr_bench.bias import WindowBias
from aqr_bench.cmt import encoding
from aqr_bench.cmt.assigner import HungarianAssigner3D
from aqr_bench.cmt.attention import DecoderAttention
from aqr_bench.cmt.coder import MultiTaskBBoxCoder, denormalize_bbox, normalize_bbox
from aqr_bench.cmt.denoising import denoising_mask, make_denoising_queries
from aqr_bench.cmt.geometry import gravity_boxes
from aqr_bench.cmt.grid_mask import GridMask
from aqr_bench.cmt.layer_bias import LayerBias
from aqr_bench.cmt.neck import CPFPN
from aqr_bench.cmt.task_head import GroupLayerNorm1d, SeparateTaskHead
from aqr_bench.cmt.transformer import PETRTransformerDecoderLayer
from aqr_bench.cmt.voxelize import HardVoxelizer
from aqr_bench.errors import UserError

RANGE = [-20.0, -10.0, -5.0, 20.0, 10.0, 3.0]

# ---------------------------------------------------------------------- geometry


def test_pos2embed_is_the_written_out_formula():
    x, y, n = 0.3, 0.8, 6
    expected = []
    for value in (y, x):
        for i in range(n):
            angle = value * 2 * math.pi / (2 * (i // 2) / n + 1)
            expected.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    torch.testing.assert_close(encoding.pos2embed(torch.tensor([[x, y]]), n)[0], torch.tensor(expected))


def test_query_rays_pass_through_the_point_and_name_the_views_that_see_it():
    matrices = ring(4, 60, 100)
    forward = torch.tensor(np.stack([matrices] * 2), dtype=torch.float32)
    inverse = torch.tensor(np.linalg.inv(np.stack([matrices] * 2)), dtype=torch.float32)
    g = torch.Generator().manual_seed(0)
    points = encoding.to_metres(torch.rand(2, 50, 3, generator=g), RANGE)
    sizes = torch.tensor([[60.0, 100.0]]).expand(2, 4, 2)
    depths = torch.tensor([1.0, 2.0, 7.0])
    rays, index = encoding.query_rays(points, forward, inverse, sizes, depths, RANGE)
    expected = []
    for b, n, q in itertools.product(range(2), range(4), range(50)):
        u, v, z, _ = matrices[n] @ np.append(points[b, q].numpy(), 1.0)
        if z > 0 and 0 <= u / z < 100 and 0 <= v / z < 60:
            expected.append((b, n, q))
    assert index.tolist() == [list(e) for e in expected] and len(expected) > 20
    metres = encoding.to_metres(rays.view(-1, 3, 3), RANGE).double().numpy()
    for (b, n, q), ray in zip(expected, metres, strict=True):
        camera = np.linalg.inv(matrices[n])[:3, 3]
        towards = points[b, q].numpy() - camera
        for point in ray:  # all samples lie on the line from the camera to the point, in front of it
            along = point - camera
            assert np.linalg.norm(np.cross(along, towards)) < 1e-3 * np.linalg.norm(along) * np.linalg.norm(towards)
            assert along @ towards > 0


def test_camera_keys_project_back_to_their_pixels_at_their_depths():
    matrices = ring(2, 60, 100)
    inverse = torch.tensor(np.linalg.inv(matrices)[None], dtype=torch.float32)
    depths = encoding.depth_samples(5, 20.0)
    torch.testing.assert_close(depths, torch.tensor([1 + k * 19 / 5 for k in range(5)]))
    rays = encoding.camera_key_rays(inverse, torch.tensor([[[60.0, 100.0]] * 2]), 3, 4, depths, RANGE)
    points = encoding.to_metres(rays.view(1, 2, 3, 4, 5, 3), RANGE).double().numpy()
    for n, row, col, k in itertools.product(range(2), range(3), range(4), range(5)):
        u, v, z, _ = matrices[n] @ np.append(points[0, n, row, col, k], 1.0)
        np.testing.assert_allclose([u / z, v / z, z], [col * 100 / 4, row * 60 / 3, depths[k]], atol=2e-3)


def test_range_conversions_are_inverse_and_axis_wise():
    points = torch.tensor([[-20.0, -10.0, -5.0], [20.0, 10.0, 3.0], [0.0, 5.0, -1.0]])
    normalised = encoding.to_normalised(points, RANGE)
    torch.testing.assert_close(normalised, torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.75, 0.5]]))
    torch.testing.assert_close(encoding.to_metres(normalised, RANGE), points)
    torch.testing.assert_close(encoding.inverse_sigmoid(torch.tensor([0.2, 0.7])).sigmoid(), torch.tensor([0.2, 0.7]))
    assert encoding.inverse_sigmoid(torch.tensor([-1.0, 2.0])).abs().max() < 12


# ---------------------------------------------------------------------- boxes and matching


def test_codes_and_boxes_are_inverse():
    box = gravity_boxes(boxes(9, seed=0)[0], torch.device("cpu"))
    torch.testing.assert_close(denormalize_bbox(normalize_bbox(box)), box, atol=1e-5, rtol=1e-5)
    code = normalize_bbox(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 7.0, 8.0]]))[0]
    logs = [math.log(v) for v in (4.0, 5.0, 6.0)]
    expected = [1.0, 2.0, logs[0], logs[1], 3.0, logs[2], math.sin(0.5), math.cos(0.5), 7.0, 8.0]
    torch.testing.assert_close(code, torch.tensor(expected))


def test_threshold_zero_and_range_filter_boxes():
    outputs = dict(
        center=torch.tensor([[0.0, 0.0], [50.0, 0.0]])[None, None],
        height=torch.zeros(1, 1, 2, 1),
        dim=torch.zeros(1, 1, 2, 3),
        rot=torch.ones(1, 1, 2, 2),
        vel=torch.zeros(1, 1, 2, 2),
        cls_logits=torch.tensor([[2.0, -80.0], [1.0, -200.0]])[None, None],
    )
    everything = MultiTaskBBoxCoder(RANGE, num_classes=2, max_num=10)
    assert len(everything.decode([[outputs]])[0]["scores"]) == 4
    inside = MultiTaskBBoxCoder(RANGE, num_classes=2, max_num=10, post_center_range=RANGE)
    assert len(inside.decode([[outputs]])[0]["scores"]) == 2
    positive = MultiTaskBBoxCoder(RANGE, num_classes=2, max_num=10, score_threshold=0.0)
    assert len(positive.decode([[outputs]])[0]["scores"]) == 3  # sigmoid(-200) is 0 in float32


def test_matching_is_the_best_of_all_permutations():
    g = torch.Generator().manual_seed(0)
    assigner = HungarianAssigner3D(
        cls_cost=dict(type="FocalLossCost", weight=2.0),
        reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
        code_weights=CODE_WEIGHTS,
    )
    codes, logits = torch.randn(5, 10, generator=g), torch.randn(5, 4, generator=g)
    truth = gravity_boxes(boxes(3, seed=1)[0], torch.device("cpu"))
    labels = torch.tensor([2, 0, 2])
    query, matched = assigner.match(codes, logits, truth, labels)

    def cost(q: int, k: int) -> float:
        p = float(logits[q, labels[k]].sigmoid())
        focal = -math.log(p) * 0.25 * (1 - p) ** 2 + math.log(1 - p) * 0.75 * p**2
        weights = torch.tensor(CODE_WEIGHTS)
        return 2.0 * focal + 0.25 * float(((codes[q] - normalize_bbox(truth[k])) * weights)[:8].abs().sum())

    best = min(itertools.permutations(range(5), 3), key=lambda p: sum(cost(q, k) for k, q in enumerate(p)))
    assert {int(k): int(q) for q, k in zip(query, matched, strict=True)} == dict(enumerate(best))
    assert [len(indices) for indices in assigner.match(codes, logits, truth[:0], labels[:0])] == [0, 0]


def test_denoising_groups_are_masked_from_each_other_and_from_matching_queries():
    mask = denoising_mask(groups=3, group_size=2, num_query=4)
    allowed = ~mask
    for i, j in itertools.product(range(10), range(10)):
        if i >= 6:
            assert allowed[i, j] == (j >= 6)
        else:
            assert allowed[i, j] == (j >= 6 or i // 2 == j // 2)


def test_denoising_queries_stay_near_their_boxes():
    truth = [gravity_boxes(boxes(n, seed=n)[0], torch.device("cpu")) for n in (3, 0, 5)]
    labels = [torch.arange(n) for n in (3, 0, 5)]
    wide = [-20.0, -20.0, -5.0, 20.0, 20.0, 3.0]
    torch.manual_seed(0)
    queries = make_denoising_queries(
        truth, labels, num_query=12, num_classes=10, pc_range=wide, scalar=10, noise_scale=1.0, split=0.75
    )
    assert queries.pad_size == 2 * 5  # 12 queries // 5 objects
    assert len(queries.sample_K) == 16 and not (queries.sample_K == 1).any()
    points = encoding.to_metres(queries.reference_BP3[queries.sample_K, queries.slot_K], wide)
    moved = (points - queries.boxes_K[:, :3]).abs() / (queries.boxes_K[:, 3:6] / 2)
    assert (moved <= 1 + 1e-4).all() and moved.max() > 0.5
    lost = moved.norm(dim=1) > 0.75
    assert torch.equal(queries.labels_K == 10, lost) and 0 < lost.sum() < 16
    assert torch.equal(queries.raw_labels_K, torch.cat(labels).repeat(2))
    still = make_denoising_queries(truth, labels, num_query=12, num_classes=10, pc_range=wide, noise_scale=0.0)
    centres = still.reference_BP3[still.sample_K, still.slot_K]
    torch.testing.assert_close(encoding.to_metres(centres, wide), still.boxes_K[:, :3], atol=1e-4, rtol=1e-4)
    assert torch.equal(still.labels_K, still.raw_labels_K)
    nothing = [truth[1]] * 2
    assert make_denoising_queries(nothing, [labels[1]] * 2, num_query=5, num_classes=10, pc_range=wide) is None


# ---------------------------------------------------------------------- layers


def test_group_norm_is_layer_norm_of_each_group_and_position():
    torch.manual_seed(0)
    norm = GroupLayerNorm1d(12, groups=3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, 5, requires_grad=True)
    plain = F.layer_norm(x.view(2, 3, 4, 5).transpose(2, 3), (4,), eps=1e-6).transpose(2, 3).reshape(2, 12, 5)
    expected = plain * norm.weight[:, None] + norm.bias[:, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=1e-5)
    (ours,) = torch.autograd.grad(norm(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_task_head_has_separate_weights_for_every_layer_and_the_reach_of_its_kernel():
    for kernel, reach in ((1, {10}), (3, {8, 9, 10, 11, 12})):
        torch.manual_seed(0)
        head = SeparateTaskHead(6, dict(dim=(3, 2)), groups=2, head_conv=4, final_kernel=kernel)
        x = torch.randn(2, 1, 20, 6)
        y = x.clone()
        y[1, 0, 10] += 1.0
        change = (head(x)["dim"] - head(y)["dim"]).abs().sum(-1)
        assert change[0].sum() == 0
        assert set(change[1, 0].nonzero().flatten().tolist()) == reach


def test_class_logits_start_unlikely_after_init_weights():
    head = MODELS.build(head_config(num_query=10))
    head.init_weights()
    assert (head.task_heads[0].cls_logits[-1].bias == -2.19).all()


@pytest.mark.parametrize("role", ["self", "cross"])
def test_attention_equals_torch_multihead_attention(role):
    torch.manual_seed(0)
    ours = DecoderAttention(role, 16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.attn.state_dict())
    x, pos = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    memory, memory_pos = torch.randn(2, 5, 16), torch.randn(2, 5, 16)  # as many keys as queries
    mask = torch.rand(5, 5) > 0.6
    mask.fill_diagonal_(False)
    if role == "self":
        expected = x + theirs(x + pos, x + pos, x, attn_mask=mask)[0]
        actual = ours(x, pos, mask=mask)
    else:
        expected = x + theirs(x + pos, memory + memory_pos, memory, attn_mask=mask)[0]
        actual = ours(x, pos, memory, memory_pos, mask=mask)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_where_the_official_code_has_it():
    """Self-attention: probabilities and output. Cross-attention (flash): the output alone."""
    layer = PETRTransformerDecoderLayer(
        attn_cfgs=[
            dict(type="MultiheadAttention", embed_dims=16, num_heads=4, dropout=0.1),
            dict(type="PETRMultiheadFlashAttention", embed_dims=16, num_heads=4, dropout=0.1),
        ]
    )
    self_attention, cross = layer.attentions
    assert (self_attention.role, self_attention.attn_drop, self_attention.out_drop.p) == ("self", 0.1, 0.1)
    assert (cross.role, cross.attn_drop, cross.out_drop.p) == ("cross", 0.0, 0.1)
    with pytest.raises(UserError, match="MultiheadAttention"):
        DecoderAttention.from_config("self", dict(type="MultiHeadAttention", embed_dims=16, num_heads=4))
    with pytest.raises(UserError, match="num_head"):
        DecoderAttention.from_config("self", dict(embed_dims=16, num_head=4))


def test_checkpointed_layers_give_the_same_gradients():
    torch.manual_seed(0)
    config = dict(attn_cfgs=dict(embed_dims=16, num_heads=4), ffn_cfgs=dict(feedforward_channels=32))
    plain = PETRTransformerDecoderLayer(**config)
    saving = PETRTransformerDecoderLayer(**config, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x, pos, memory = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    for layer in (plain, saving):
        layer.train()(x, pos, memory, memory).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# ---------------------------------------------------------------------- sensor branches


def voxelizer(**changes) -> HardVoxelizer:
    config = dict(
        voxel_size=[1.0, 2.0, 8.0],
        point_cloud_range=RANGE,
        max_num_points=3,
        max_voxels=(50, 100),
        num_point_features=5,
    )
    return HardVoxelizer(**{**config, **changes})


def test_voxels_hold_their_points():
    g = torch.Generator().manual_seed(0)
    clouds = [torch.cat([encoding.to_metres(torch.rand(n, 3, generator=g) * 1.2 - 0.1, RANGE), torch.rand(n, 2)], 1)
              for n in (40, 15)]  # fmt: skip
    voxels, counts, coors = voxelizer().eval()(clouds)
    assert voxels.shape[1:] == (3, 5) and coors.shape == (len(voxels), 4) and (voxels[0] != voxels[1]).any()
    low, size = torch.tensor(RANGE[:3]), torch.tensor([1.0, 2.0, 8.0])
    for b, cloud in enumerate(clouds):
        inside = ((cloud[:, :3] >= low) & (cloud[:, :3] < torch.tensor(RANGE[3:]))).all(1)
        cells = ((cloud[inside, :3] - low) / size).floor().long().flip(1)
        expected, number = torch.unique(cells, dim=0, return_counts=True)
        mine = coors[:, 0] == b
        order = sorted(range(int(mine.sum())), key=lambda i, m=mine: coors[m][i, 1:].tolist())
        assert coors[mine][order][:, 1:].tolist() == expected.tolist()
        assert counts[mine][order].tolist() == number.clamp(max=3).tolist()
        known = {tuple(p) for p in cloud.tolist()}
        for voxel, count in zip(voxels[mine], counts[mine], strict=True):
            assert all(tuple(p) in known for p in voxel[:count].tolist()) and (voxel[count:] == 0).all()


def test_a_cloud_without_points_looks_like_a_cloud_of_zeros():
    layer = voxelizer()
    nothing = layer([torch.zeros(0, 5)])
    outside = layer([torch.full((4, 5), 500.0)])
    zeros = layer([torch.zeros(9, 5)])
    for a, b, c in zip(nothing, outside, zeros, strict=True):
        assert torch.equal(a, b) and torch.equal(a.long(), c.long())
    # Where the range does not hold the origin, the nearest cell stands in.
    voxels, counts, coors = voxelizer(point_cloud_range=[10, -10, -5, 20, 10, 3])([torch.zeros(0, 5)])
    assert coors.tolist() == [[0, 0, 5, 0]] and counts.tolist() == [3] and not voxels.any()


def test_pillars_are_those_of_mmdet3d_without_the_padding():
    config = dict(
        in_channels=5,
        feat_channels=[7],
        voxel_size=[1.0, 2.0, 8.0],
        point_cloud_range=RANGE,
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.01),
    )
    torch.manual_seed(0)
    ours = MODELS.build(dict(config, type="SparsePillarFeatureNet")).eval()
    theirs = MODELS.build(dict(config, type="PillarFeatureNet", with_distance=False, legacy=False)).eval()
    theirs.load_state_dict(ours.state_dict())
    cloud = torch.cat([encoding.to_metres(torch.rand(400, 3), RANGE), torch.rand(400, 2)], 1)
    voxels, counts, coors = voxelizer().eval()([cloud])
    actual = ours(voxels, counts, coors)
    full = counts == 3  # no padding: the same numbers
    assert 3 < full.sum() < len(counts)
    torch.testing.assert_close(actual[full], theirs(voxels, counts, coors)[full], atol=1e-5, rtol=1e-4)
    for i in (~full).nonzero().flatten().tolist():  # with padding: the parent on the real points alone
        n = int(counts[i])
        alone = theirs(voxels[i : i + 1, :n].clone(), counts[i : i + 1], coors[i : i + 1])
        torch.testing.assert_close(actual[i], alone.flatten(), atol=1e-5, rtol=1e-4)
    ours.train()(voxels, counts, coors).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in ours.parameters())
    with pytest.raises(UserError, match="PillarFeatureNet for the rest"):
        MODELS.build(dict(config, type="SparsePillarFeatureNet", feat_channels=[7, 7]))


def test_pillars_pool_keyframe_and_sweeps_separately():
    """A pillar of both has the keyframe's maximum first; one of sweeps alone has zeros there."""
    torch.manual_seed(0)
    config = dict(in_channels=5, feat_channels=[6], voxel_size=[1.0, 2.0, 8.0], point_cloud_range=RANGE)
    split = MODELS.build(dict(config, type="SparsePillarFeatureNet", split_sweeps=True)).eval()
    joint = MODELS.build(dict(config, type="SparsePillarFeatureNet")).eval()
    joint.load_state_dict(split.state_dict())
    voxels, counts, coors = torch.rand(2, 3, 5), torch.tensor([3, 2]), torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2]])
    voxels[0, :, 4], voxels[1, :, 4] = torch.tensor([0.0, 0.25, 0.25]), 0.25
    pillars = split(voxels, counts, coors)
    assert pillars.shape == (2, 12) and (pillars[1, :6] == 0).all()
    torch.testing.assert_close(torch.maximum(*pillars.split(6, 1)), joint(voxels, counts, coors))
    voxels[..., 4] = 0
    still = split(voxels, counts, coors)
    assert (still[:, 6:] == 0).all() and torch.equal(still[:, :6], joint(voxels, counts, coors))


def test_voxel_limits_follow_the_mode_and_copies_work():
    layer = voxelizer(max_voxels=(2, 4))
    cloud = torch.cat([torch.arange(12.0)[:, None] - 6, torch.zeros(12, 4)], 1)
    assert len(layer.train()([cloud])[0]) == 2
    assert len(layer.eval()([cloud])[0]) == 4
    assert len(copy.deepcopy(layer)([cloud])[0]) == 4
    with pytest.raises(UserError, match="num_point_features is 5"):
        layer([torch.zeros(3, 4)])


def test_grid_mask_blanks_stripes_in_training_only():
    mask = GridMask(prob=1.0)
    images = torch.ones(3, 2, 20, 30)
    assert torch.equal(mask.eval()(images), images)
    np.random.seed(0)
    masked = mask.train()(images)
    assert torch.equal(masked, masked[:1, :1].expand_as(masked)) and set(masked.unique().tolist()) == {0.0, 1.0}
    blank = masked[0, 0] == 0
    # What is blank is the product of rows and columns outside the stripes.
    assert torch.equal(blank, blank.any(1)[:, None] & blank.any(0)[None, :])


def test_neck_has_the_official_parameters_and_feeds_the_finest_level(shared):
    neck = CPFPN([1024, 2048], 256, 2)
    path = shared / "reference" / "official_state_dict" / "component.img_neck.cpfpn_1024_2048.csv"
    with open(path) as file:
        expected = [(row["name"].removeprefix("img_neck."), row["shape"]) for row in csv.DictReader(file)]
    assert [(k, "x".join(map(str, v.shape))) for k, v in neck.state_dict().items()] == expected


def test_neck_adds_the_coarse_level_to_the_fine_one():
    torch.manual_seed(0)
    neck = CPFPN([4, 6], 5, 3)
    fine, coarse = torch.randn(1, 4, 8, 10), torch.randn(1, 6, 4, 5)
    first, second, third = neck([fine, coarse])
    lateral = neck.lateral_convs[1](coarse)
    expected = neck.fpn_convs[0](neck.lateral_convs[0](fine) + F.interpolate(lateral, size=(8, 10)))
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, lateral)
    assert third.shape == (1, 5, 2, 3)
    with pytest.raises(UserError, match="num_outs"):
        CPFPN([4, 6], 5, 1)


def test_a_cross_bias_never_reaches_self_attention_even_when_keys_are_as_many_as_queries():
    torch.manual_seed(0)
    count, width = 12, 16
    cross = WindowBias(
        torch.arange(count)[None, :, None],
        torch.ones(1, count, 1, dtype=torch.bool),
        torch.full((1, count, 1), 4.0),
        count,
    )
    x, position, memory, memory_position = torch.randn(4, 1, count, width)
    for order, changes in ((("self_attn", "norm"), False), (("cross_attn", "norm"), True)):
        layer = PETRTransformerDecoderLayer(
            attn_cfgs=dict(type="PETRMultiheadAttention", embed_dims=width, num_heads=2), operation_order=order
        )
        plain, biased, other = (
            layer(x, position, memory, memory_position, bias=bias)
            for bias in (LayerBias(), LayerBias(cross_bias=cross), LayerBias(self_bias=cross))
        )
        assert torch.equal(plain, biased) != changes
        assert torch.equal(plain, other) == changes
