"""A detector whose output is not finite has not detected nothing: heads and detections are refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import nn

from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.engine.finite_outputs import NotFiniteError, check_detections, check_heads


class Head(nn.Module):
    def forward(self, value: torch.Tensor) -> tuple:
        """As detectors of mmdet3d return it: tasks, each a list of one dict; what is no number passes."""
        return ([{"center": value, "labels": torch.arange(3), "aqr": (object(), None)}], [{"heatmap": value * 2}])


class Detector(nn.Module):
    """Drops all boxes whose centre is out of range, as NaN is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.pts_bbox_head = nn.Identity(), Head()
        self.sizes = torch.ones(2)

    def test_step(self, batch: dict) -> list:
        center = self.pts_bbox_head(self.backbone(batch["inputs"]))[0][0]["center"]
        boxes = torch.ones(2, 9)
        boxes[:, 0], boxes[:, 3] = center, self.sizes
        boxes = boxes[boxes[:, 0].abs() < 50]
        detections = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9),
            scores_3d=torch.ones(len(boxes)),
            labels_3d=torch.zeros(len(boxes)).long(),
        )
        return [Det3DDataSample(pred_instances_3d=detections)]


def predict(model: Detector, values: list[float]) -> list:
    evaluator = object.__new__(Evaluator)
    evaluator.model = model
    samples = [SimpleNamespace(metainfo={"token": token}) for token in ("a", "b")]
    return evaluator.predict({"inputs": torch.tensor(values), "data_samples": samples})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_head_whose_boxes_a_coder_would_drop_is_named_with_its_samples(bad):
    model = Detector()
    assert len(predict(model, [1.0, bad])[0].pred_instances_3d) == 1  # without the check
    check_heads(model)
    with pytest.raises(NotFiniteError, match=r"^pts_bbox_head: center, heatmap is not finite \(sample a, b\)$"):
        predict(model, [1.0, bad])
    assert len(predict(model, [1.0, 99.0])[0].pred_instances_3d) == 1


def test_a_box_that_overflows_in_decoding_is_refused():
    model = Detector()
    check_heads(model)
    model.sizes[1] = torch.inf
    with pytest.raises(NotFiniteError, match=r"1 of 2 detections have a box or score .* \(sample a, b\)"):
        predict(model, [1.0, 2.0])


def test_scores_are_looked_at_too():
    check_detections(torch.ones(2, 7), torch.ones(2))
    check_detections(torch.ones(0, 9), torch.ones(0))
    with pytest.raises(NotFiniteError, match="1 of 2 detections"):
        check_detections(torch.ones(2, 7), torch.tensor([0.5, torch.nan]))
