"""Every stage is charged with its own time alone, on a clock that the parts themselves turn."""

import pytest
from torch import nn

from aqr_bench.cost import stages as module
from aqr_bench.cost.stages import Stages


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Part(nn.Module):
    """Takes so many seconds by itself, then calls what it holds."""

    def __init__(self, clock, seconds, **inside):
        super().__init__()
        self.clock, self.seconds = clock, seconds
        for name, part in inside.items():
            setattr(self, name, part)

    def forward(self):
        self.clock.now += self.seconds
        for part in self.children():
            part()


class Head(Part):
    def get_bboxes(self):
        self.clock.now += 0.032


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def detector(clock):
    head = Head(clock, 0.004, aqr=Part(clock, 0.008, router=Part(clock, 0.016)), transformer=Part(clock, 0.1))
    parts = {"pts_voxel_layer": Part(clock, 0.001), "img_backbone": Part(clock, 0.002), "img_neck": Part(clock, 0.05)}
    return Part(clock, 0.064, **parts, pts_bbox_head=head)


def run(detector):
    detector()
    detector.pts_bbox_head.get_bboxes()


def test_own_times_and_the_rest(detector):
    with Stages(detector) as result:
        for _ in range(3):
            result.time(lambda: run(detector))
    facts = result.facts()
    assert facts["median_ms"] == pytest.approx(
        {
            "voxelise": 1,
            "image_backbone": 52,
            "router": 24,
            "decoder": 100,
            "head": 4,
            "decode": 32,
            "other": 64,
            "whole": 277,
        }
    )
    assert facts["named_share"] == pytest.approx(1 - 64 / 277) and facts["runs"] == 3


def test_nothing_is_left_behind(detector):
    with Stages(detector) as result:
        result.time(lambda: run(detector))
    run(detector)
    assert len(result.runs) == 1 and "get_bboxes" not in vars(detector.pts_bbox_head)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in detector.modules())


def test_a_stage_that_fails_takes_nothing_with_it(detector, clock):
    def broken():
        raise RuntimeError("no memory")

    with Stages(detector) as result:
        with pytest.raises(RuntimeError, match="no memory"):
            result.time(broken)
        result.time(lambda: run(detector))
    assert len(result.runs) == 1
