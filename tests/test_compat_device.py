"""What leaves a GPU: detections with their boxes, by tensors that claim to be on one."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch._subclasses.fake_tensor import FakeTensorMode

from aqr_bench.compat import to_cpu
from aqr_bench.engine import finite_outputs
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.folders import shipped_folder


@pytest.fixture
def sample():
    with FakeTensorMode():
        sample = Det3DDataSample()
        sample.pred_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(torch.zeros(2, 9, device="cuda"), box_dim=9),
            scores_3d=torch.zeros(2, device="cuda"),
            labels_3d=torch.zeros(2, dtype=torch.long, device="cuda"),
        )
        yield sample


def devices(sample) -> set[str]:
    predictions = sample.pred_instances_3d
    return {x.device.type for x in (predictions.bboxes_3d.tensor, predictions.scores_3d, predictions.labels_3d)}


def test_boxes_are_moved_too(sample):
    assert devices(sample) == {"cuda"} and devices(sample.cpu()) == {"cuda", "cpu"}  # mmengine's way leaves the boxes
    assert devices(to_cpu(sample)) == {"cpu"}


def test_detections_of_one_sample(sample, monkeypatch):
    monkeypatch.setattr(finite_outputs, "check_detections", lambda *_: None)  # such tensors have no values
    evaluator = object.__new__(Evaluator)
    evaluator.model = SimpleNamespace(test_step=lambda batch: [sample])
    assert devices(evaluator.predict({})[0]) == {"cpu"}


def test_nothing_in_the_package_moves_data_samples_by_cpu():
    """``.cpu()`` is for tensors, here always on their way to numpy or into a checkpoint."""
    package = shipped_folder() / "aqr_bench"
    allowed = re.compile(r"\.cpu\(\)\.(numpy|clone)\(\)")
    calls = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if "gpu_check" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if ".cpu()" in allowed.sub("", line) and not line.lstrip().startswith(("#", '"'))
    ]
    assert calls == []
