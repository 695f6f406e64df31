"""Image points: which object a token shows, where the points are, and that they learn."""

import math

import numpy as np
import pytest
import torch

from aqr_bench.bias import LocalityPrior, MemoryLayout
from aqr_bench.cmt.geometry import CameraGeometry
from aqr_bench.cmt.image_points import TYPICAL_M, ImagePoints, visible_objects

SIZE = (64, 128)  # image height and width, pixels
FOCAL = 64.0
MAP = (4, 8)  # token rows and columns: tokens of 16 x 16 pixels


def looking_along_y(height_m=1.5):
    """lidar2img of a camera at (0, 0, height) that looks along +y of the LiDAR frame."""
    rotation = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)  # right, down, forward
    extrinsic = np.eye(4)
    extrinsic[:3, :3], extrinsic[:3, 3] = rotation, -rotation @ [0, 0, height_m]
    intrinsic = np.eye(4)
    intrinsic[0, 0] = intrinsic[1, 1] = FOCAL
    intrinsic[0, 2], intrinsic[1, 2] = SIZE[1] / 2, SIZE[0] / 2
    return intrinsic @ extrinsic


def meta(boxes, state=0):
    class Boxes:  # what mmdet3d's boxes offer here
        gravity_center, tensor = boxes[:, :3], boxes

    return {
        "lidar2img": [looking_along_y()],
        "pad_shape": [(*SIZE, 3)],
        "gt_bboxes_3d": Boxes,
        "gt_labels_3d": torch.zeros(len(boxes), dtype=torch.long),
        "sensor_state": state,
    }


def box(x, y, length=2.0, width=2.0, height=2.0, z=1.5):
    return torch.tensor([x, y, z, length, width, height, 0.0, 0.0, 0.0])


def cameras_of(*metas):
    return CameraGeometry.from_metas(metas, torch.device("cpu"))


def test_a_token_shows_the_nearest_object_in_front_of_it():
    # Straight ahead at 10 m and hidden behind it at 20 m; one to the right; one behind the camera.
    boxes = torch.stack([box(0, 20), box(0, 10), box(8, 10), box(0, -10)])
    index, distance = visible_objects(boxes, cameras_of(meta(boxes)), 0, MAP)
    index, distance = index.view(MAP), distance.view(MAP)
    # The box at 10 m spans x = -1 .. 1 seen from 9 m on: 64 +- 7.1 px, shrunk to 5.7; it holds the tokens at +-8 px
    # only through the rule for small objects.
    assert index[1:3, 3:5].eq(1).all() and distance[1, 3] == pytest.approx(10, abs=0.01)
    assert index[1, 7].item() == 2 or index[2, 6:].eq(2).any()
    assert not index.eq(3).any() and not index.eq(0).any()
    assert index[0, 0] == -1 and math.isinf(distance[0, 0])


def test_points_lie_on_the_ray_through_the_middle_of_their_token():
    torch.manual_seed(0)
    points = ImagePoints(8)
    torch.nn.init.zeros_(points.out.weight)
    cameras = cameras_of(meta(torch.zeros(0, 9)))
    predicted = points(torch.randn(1, 1, 8, *MAP), cameras)
    assert predicted.shape == (1, 32, 3)
    camera = torch.tensor([0, 0, 1.5])
    assert torch.allclose((predicted[0] - camera).norm(dim=-1), torch.tensor(TYPICAL_M), atol=1e-3)
    matrix = torch.tensor(looking_along_y(), dtype=torch.float32)
    projected = torch.cat([predicted[0], torch.ones(32, 1)], 1) @ matrix.T
    pixel = (projected[:, :2] / projected[:, 2:3]).view(*MAP, 2)
    assert torch.allclose(pixel[1, 3], torch.tensor([3.5 * 16, 1.5 * 16]), atol=1e-3)


def test_they_learn_where_an_object_is_and_a_missing_camera_teaches_nothing():
    torch.manual_seed(0)
    boxes = torch.stack([box(0.5, 12), box(6, 14)])
    metas, points = [meta(boxes)], ImagePoints(8)
    cameras, feature = cameras_of(*metas), torch.randn(1, 1, 8, *MAP)
    optimizer = torch.optim.Adam(points.parameters(), lr=1e-2)
    first = points.loss(points(feature, cameras), cameras, metas, MAP).item()
    for _ in range(300):
        loss = points.loss(points(feature, cameras), cameras, metas, MAP)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 0.1 and loss.item() < 0.05
    index, _ = visible_objects(boxes, cameras, 0, MAP)
    predicted = points(feature, cameras)[0]
    assert (predicted[index == 0] - boxes[0, :3]).norm(dim=-1).max() < 1.0
    for nothing in ([meta(boxes, state=2)], [meta(torch.zeros(0, 9))]):
        loss = points.loss(points(feature, cameras), cameras, nothing, MAP)
        loss.backward()
        assert loss.item() == 0


def test_the_prior_with_points_is_the_formula():
    torch.manual_seed(1)
    layout = MemoryLayout((3, 4), (1, *MAP), (-20.0, -20.0, -3.0, 20.0, 20.0, 3.0))
    matrices, sizes = torch.tensor(looking_along_y(), dtype=torch.float64)[None, None], torch.tensor([[SIZE]])
    query = torch.tensor([[[1.0, 8.0, 0.5], [-4.0, 15.0, 1.0]]], dtype=torch.float64)
    points = torch.rand(1, 32, 3, dtype=torch.float64) * 20 + 1
    rays = LocalityPrior(2, bev_sigma=3.0, angle_sigma=0.2).double()
    with_points = LocalityPrior(2, bev_sigma=3.0, angle_sigma=0.2, depth_sigma=0.25).double()
    with torch.no_grad():
        with_points.log_depth_trust.copy_(torch.tensor([0.0, 0.7]))
    plain, prior = rays(query, matrices, sizes, layout), with_points(query, matrices, sizes, layout, points)
    pq, pk = prior.dims
    assert (plain.query_BHQE.shape[-1], pq.shape[-1], pk.shape[-1]) == (12, 16, 16)
    got = (pq @ pk.transpose(-1, -2))[0]
    before = (plain.query_BHQE @ plain.key_B1KE.transpose(-1, -2))[0]
    assert torch.allclose(got[..., :12], before[..., :12])  # BEV keys are as they were
    range_m = (points[0] - torch.tensor([0, 0, 1.5])).norm(dim=-1)
    square = (query[0, :, None, :2] - points[0, None, :, :2]).square().sum(-1)
    penalty = with_points.log_depth_trust.exp()[:, None, None] * square / (2 * (0.25 * range_m) ** 2)
    assert torch.allclose(got[..., 12:], before[..., 12:] - penalty)
    # Where a head looked, in metres: all attention on image key 3.
    attention = torch.zeros(1, 2, 2, 44, dtype=torch.float64)
    attention[..., 15] = 1
    offset = prior.offsets(attention @ prior.values_B1KV)[0, 0]
    assert torch.allclose(offset[:, 7:], (points[0, 3, :2] - query[0, :, :2]) / 4)
    with pytest.raises(ValueError, match="image_points"):
        with_points(query, matrices, sizes, layout)
    with pytest.raises(ValueError, match="depth_sigma"):
        LocalityPrior(2, depth_sigma=0)
