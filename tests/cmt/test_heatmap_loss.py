"""Auxiliary heat maps: targets where the objects are, nothing asked of a missing sensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from aqr_bench.cmt.coder import normalize_bbox
from aqr_bench.cmt.geometry import CameraGeometry
from aqr_bench.cmt.heatmap_loss import VELOCITY_UNIT, AuxiliaryHeatmaps
from aqr_bench.errors import UserError

RANGE = (-8.0, -8.0, -3.0, 8.0, 8.0, 3.0)


def meta(state=0):
    looking_along_y = np.array([[20.0, 32, 0, 0], [0, 24, -20, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    # One car 5 m ahead (in view), one pedestrian behind (not in view).
    boxes = LiDARInstance3DBoxes(
        torch.tensor([[0.5, 5.0, -1, 4, 2, 1.6, 0, 0, 0], [-3.1, -6.0, -1, 0.7, 0.7, 1.8, 0, 0, 0]]), box_dim=9
    )
    return dict(
        lidar2img=[looking_along_y],
        pad_shape=[(48, 64, 3)],
        gt_bboxes_3d=boxes,
        gt_labels_3d=torch.tensor([0, 2]),
        sensor_state=state,
    )


@pytest.fixture
def module():
    torch.manual_seed(0)
    return AuxiliaryHeatmaps(4, 5, 3, RANGE)


def test_targets_peak_at_the_centres(module):
    m = meta()
    boxes = torch.cat([m["gt_bboxes_3d"].gravity_center, m["gt_bboxes_3d"].tensor[:, 3:]], 1)
    bev = module.bev_target(boxes, m["gt_labels_3d"], (16, 16))
    assert bev[0].argmax() == 13 * 16 + 8 and bev[2].argmax() == 2 * 16 + 4
    assert bev[0].max() == 1 and bev[1].max() == 0
    cameras = CameraGeometry.from_metas([m], torch.device("cpu"))
    image = module.image_target(boxes, m["gt_labels_3d"], cameras, 0, (12, 16))
    u, v = 20 * 0.5 / 5 + 32, 24 - 20 * boxes[0, 2].item() / 5
    assert image.shape == (1, 3, 12, 16) and image[0, 0].argmax() == int(v / 4) * 16 + int(u / 4)
    assert image[0, 2].max() == 0


def test_a_missing_sensor_is_asked_nothing(module):
    bev, image = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 12, 16)
    clean, no_lidar, no_cameras = (module.loss(bev, image, [meta(state)]) for state in range(3))
    assert all(v > 0 for v in clean.values())
    assert no_lidar["loss_bev_heatmap"] == 0 and no_lidar["loss_image_heatmap"] == clean["loss_image_heatmap"]
    assert no_cameras["loss_image_heatmap"] == 0 and no_cameras["loss_bev_heatmap"] == clean["loss_bev_heatmap"]


def test_a_frame_without_objects_trains(module):
    empty = meta() | dict(
        gt_bboxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9), gt_labels_3d=torch.zeros(0).long()
    )
    losses = module.loss(torch.randn(1, 4, 16, 16), torch.randn(1, 5, 12, 16), [empty])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_losses_for_sure_logits(module, dtype):
    """Under autocast a sure logit is 1 in half precision, whatever it is clamped to: log(1 - 1) * 0 was no number."""
    sure = (torch.full((1, channels, rows, 16), 100.0) for channels, rows in ((4, 16), (5, 12)))
    for layer in (module.bev, module.image):
        torch.nn.init.constant_(layer.weight, 1.0)
    with torch.autocast("cpu", dtype=dtype):
        losses = module.loss(*sure, [meta()])
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() and loss > 0 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_half_precision_without_the_sensor_is_still_nothing(module):
    huge = (torch.full((1, channels, rows, 16), 6e4) for channels, rows in ((4, 16), (5, 12)))
    for layer in (module.bev, module.image):
        torch.nn.init.constant_(layer.weight, 0.25)
    with torch.autocast("cpu", dtype=torch.float16):
        losses = module.loss(*huge, [meta(state=1)])
    assert losses["loss_bev_heatmap"] == 0 and losses["loss_image_heatmap"].isfinite()


@pytest.fixture
def full_module():
    torch.manual_seed(0)
    return AuxiliaryHeatmaps(4, 5, 3, RANGE, bev_code_weights=[0.1] * 8 + [0.2] * 2)


def gravity(meta):
    boxes = meta["gt_bboxes_3d"]
    return torch.cat([boxes.gravity_center, boxes.tensor[:, 3:]], 1)


def test_codes_are_those_of_the_nearest_object_relative_to_the_cell(full_module):
    boxes = gravity(meta())
    cells, target = full_module.code_target(boxes, (16, 16))
    # A cell is 1 m; the centres are (0.5, 5) and (-3.1, -6): three columns, and three rows or (on a border) four.
    assert {divmod(cell, 16) for cell in cells.tolist()} == {
        *((row, column) for row in (12, 13) for column in (7, 8, 9)),
        *((row, column) for row in (11, 14) for column in (7, 8, 9)),
        *((row, column) for row in (0, 1, 2, 3) for column in (3, 4, 5)),
    }
    row, column = cells // 16, cells % 16
    assert torch.allclose(target[:, 0] + column + 0.5 - 8, torch.where(row > 8, 0.5, -3.1))
    assert torch.allclose(target[:, 1] + row + 0.5 - 8, torch.where(row > 8, 5.0, -6.0))
    assert torch.equal(target[:, 2:], boxes[(row < 8).long(), 2:])


def test_two_near_objects_share_their_cells(full_module):
    boxes = torch.tensor([[0.5, 0.5, 0, 1, 1, 1, 0, 1, 0], [1.5, 0.5, 0, 1, 1, 1, 0, 2, 0]])
    cells, target = full_module.code_target(boxes, (16, 16))
    assert len(cells) == 12 and torch.equal(target[:, 7], torch.where(cells % 16 < 9, 1.0, 2.0))


def test_codes_are_learnt_from_the_lidar_where_it_is_there(full_module):
    bev, image = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 12, 16)
    clean, no_lidar, no_cameras = (full_module.loss(bev, image, [meta(state)]) for state in range(3))
    assert {*clean} == {"loss_bev_heatmap", "loss_bev_codes", "loss_image_heatmap"}
    assert all(v > 0 for v in clean.values())
    assert no_lidar["loss_bev_codes"] == 0 and no_cameras["loss_bev_codes"] == clean["loss_bev_codes"]
    sum(no_lidar.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in full_module.parameters())


def test_codes_that_are_right_cost_nothing_and_errors_count_squared(full_module):
    boxes = gravity(meta())
    cells, target = full_module.code_target(boxes, (16, 16))
    codes = torch.zeros(1, 10, 256)
    codes[0, :, cells] = normalize_bbox(target).T
    codes[0, 8:] /= VELOCITY_UNIT
    present = torch.tensor([True])
    assert full_module._code_loss(codes.view(1, 10, 16, 16), [boxes], present) < 1e-10
    codes[0, 7] += 2.0
    codes[0, 9] += 2.0 / VELOCITY_UNIT  # 2 m/s
    loss = full_module._code_loss(codes.view(1, 10, 16, 16), [boxes], present)
    assert loss.item() == pytest.approx(0.1 * 4 + 0.2 * 4, rel=1e-5)


def test_a_frame_without_objects_has_no_codes(full_module):
    empty = meta() | dict(
        gt_bboxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9), gt_labels_3d=torch.zeros(0).long()
    )
    bev, image = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 12, 16)
    losses = full_module.loss(bev[:1], image[:1], [empty])
    sum(losses.values()).backward()
    assert losses["loss_bev_codes"] == 0
    assert all(p.grad.isfinite().all() for p in full_module.parameters())
    alone, beside = full_module.loss(bev[1:], image[1:], [meta()]), full_module.loss(bev, image, [empty, meta()])
    assert torch.allclose(alone["loss_bev_codes"], beside["loss_bev_codes"])


def test_code_weights_that_are_not_ten_are_refused():
    with pytest.raises(UserError, match="bev_code_weights has 8 numbers; set 10"):
        AuxiliaryHeatmaps(4, 5, 3, RANGE, bev_code_weights=[1.0] * 8)
