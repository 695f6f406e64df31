"""The sensor branches, each against a plain reference: voxels, pillars, grid mask, neck."""

from __future__ import annotations

import copy
import csv

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from torch.nn import functional as F

from aqr_bench.cmt import encoding
from aqr_bench.cmt.grid_mask import GridMask
from aqr_bench.cmt.neck import CPFPN
from aqr_bench.cmt.voxelize import HardVoxelizer
from aqr_bench.errors import UserError

RANGE = [-20.0, -10.0, -5.0, 20.0, 10.0, 3.0]


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
        of_sample = coors[:, 0] == b
        order = sorted(range(int(of_sample.sum())), key=lambda i, m=of_sample: coors[m][i, 1:].tolist())
        assert coors[of_sample][order][:, 1:].tolist() == expected.tolist()
        assert counts[of_sample][order].tolist() == number.clamp(max=3).tolist()
        known = {tuple(p) for p in cloud.tolist()}
        for voxel, count in zip(voxels[of_sample], counts[of_sample], strict=True):
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
    reference = MODELS.build(dict(config, type="PillarFeatureNet", with_distance=False, legacy=False)).eval()
    reference.load_state_dict(ours.state_dict())
    cloud = torch.cat([encoding.to_metres(torch.rand(400, 3), RANGE), torch.rand(400, 2)], 1)
    voxels, counts, coors = voxelizer().eval()([cloud])
    actual = ours(voxels, counts, coors)
    full = counts == 3  # no padding: the same numbers
    assert 3 < full.sum() < len(counts)
    torch.testing.assert_close(actual[full], reference(voxels, counts, coors)[full], atol=1e-5, rtol=1e-4)
    for i in (~full).nonzero().flatten().tolist():  # with padding: the parent on the real points alone
        n = int(counts[i])
        alone = reference(voxels[i : i + 1, :n].clone(), counts[i : i + 1], coors[i : i + 1])
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
