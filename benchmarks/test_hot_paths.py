"""The hot paths one by one, each beside a calibration kernel; regression.py keeps and compares what they take.

python benchmarks/regression.py run --out FILE.json          # all of it, about three minutes on one core
python -m pytest benchmarks/test_hot_paths.py -k voxels      # some of it, with pytest-benchmark's own table
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from corruptions import real_size_frame

from aqr_bench.bias import MemoryLayout, QueryRouter, grid_windows, window_bias
from aqr_bench.corruptions import CORRUPTIONS, FrameError, corrupt
from aqr_bench.cost.cameras import ring_of_cameras
from aqr_bench.cost.gpu_check.attention_cases import ATTENTION, SIZES, make_case, step
from aqr_bench.world import lidar
from aqr_bench.world.camera import render
from aqr_bench.world.scene import simulate, stream
from aqr_bench.world.spec import read_tier

QUICK = Path(__file__).resolve().parents[1] / "ablations" / "tiers" / "quick.yaml"
RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
BACKENDS = ("none", "auto", "window", "masked", "literal")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@cache
def attention_case():
    return make_case("quick", 5, 5)


@cache
def frame():
    return real_size_frame()


# ---------------------------------------------------------------- bias, router, attention


def test_window_geometry(timed):
    size = SIZES["note"]
    layout = MemoryLayout(size.bev, size.cameras, tuple(RANGE))
    points = (torch.rand(1, size.queries, 3, generator=generator()) - 0.5) * torch.tensor([108.0, 108.0, 3.0])
    matrices = ring_of_cameras(6, size.image, 70.0)[None]
    shapes = torch.tensor(size.image).float().expand(1, 6, 2)
    values = torch.zeros(1, size.queries, 25 + 6 * 25)

    def geometry():
        windows = grid_windows(points, matrices, shapes, layout, 5, 5)
        return window_bias(windows, values[..., : sum(w.size**2 for w in windows)], layout.num_keys)

    assert timed(geometry).index_BQW.shape[1] == size.queries


def test_router(timed):
    case, router = attention_case(), QueryRouter(SIZES["quick"].width).eval()
    inputs = [x.detach() for x in (case.query_BQC, case.query_BQC, case.memory_BKC, case.position_BKC)]

    @torch.no_grad()
    def route():
        return router(*inputs)

    assert timed(route).shape[-1] == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention(timed, backend):
    case = attention_case()
    assert timed(lambda: step(case, ATTENTION[backend], backward=True)).shape == case.query_BQC.shape


# ---------------------------------------------------------------- voxels, matching, boxes


def test_voxels(timed):
    from aqr_bench.cmt.voxelize import HardVoxelizer

    layer = HardVoxelizer(
        voxel_size=[0.1, 0.1, 0.2], point_cloud_range=RANGE, max_num_points=10, max_voxels=(120000, 160000),
        num_point_features=5,
    ).eval()  # fmt: skip
    clouds = [torch.from_numpy(np.concatenate([cloud.points for cloud in frame().clouds[:5]]))]
    assert len(timed(lambda: layer(clouds))[0]) > 1000


def test_assignment(timed):
    from aqr_bench.cmt.assigner import HungarianAssigner3D

    assigner = HungarianAssigner3D(
        cls_cost={"type": "FocalLossCost", "weight": 2.0}, reg_cost={"type": "BBox3DL1Cost", "weight": 0.25}
    )
    g = generator()
    codes, logits = torch.randn(900, 10, generator=g), torch.randn(900, 10, generator=g)
    boxes, labels = torch.rand(40, 9, generator=g) + 1, torch.arange(40) % 10
    assert len(timed(lambda: assigner.match(codes, logits, boxes, labels))[0]) == 40


def test_box_coder(timed):
    from aqr_bench.cmt.coder import MultiTaskBBoxCoder

    coder, g = MultiTaskBBoxCoder(RANGE, max_num=300), generator()
    widths = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "cls_logits": 10}
    outputs = {name: torch.randn(6, 4, 900, width, generator=g) for name, width in widths.items()}
    assert len(timed(lambda: coder.decode([[outputs]]))[0]["scores"]) == 300


# ---------------------------------------------------------------- metric


def random_boxes(samples: int, each: int, detected: bool):
    """Boxes around the same centres; detected ones are shifted a little and have scores."""
    from aqr_bench.metrics.boxes import BoxArrays

    places, off = np.random.default_rng(0), np.random.default_rng(1)
    count = samples * each
    sample = np.repeat(np.arange(samples, dtype=np.int32), each)
    label = (np.arange(count) % 10).astype(np.int8)
    centre = places.uniform(-50, 50, (count, 3)) + (off.normal(0, 0.7, (count, 3)) if detected else 0)
    yaw = places.uniform(-3, 3, count)
    rotation = np.stack([np.cos(yaw / 2), np.zeros(count), np.zeros(count), np.sin(yaw / 2)], 1)
    score = off.uniform(0, 1, count) if detected else np.full(count, -1.0)
    attribute, points = np.zeros(count, np.int8), np.full(count, 9, np.int32)
    size = places.uniform(1, 4, (count, 3))
    return BoxArrays(sample, label, centre, size, rotation, np.zeros((count, 2)), score, attribute, points)


def test_metric(timed):
    from nuscenes.eval.common.config import config_factory

    from aqr_bench.metrics.nuscenes import evaluate

    truth, detections = random_boxes(300, 40, False), random_boxes(300, 40, True)
    config = config_factory("detection_cvpr_2019")
    assert 0.1 < timed(lambda: evaluate(truth, detections, 300, config)).summary["mean_ap"] < 1


def test_matching_of_detections(timed):
    from aqr_bench.metrics.greedy_matching import match

    truth, detections = random_boxes(300, 40, False), random_boxes(300, 40, True)
    assert (timed(lambda: match(truth, detections, 300, [0.5, 1.0, 2.0, 4.0])).matched >= 0).any()


# ---------------------------------------------------------------- world


@cache
def scene():
    spec = read_tier(QUICK)
    return spec, simulate(spec, 0, 0)


def test_world_scene(timed):
    spec = read_tier(QUICK)
    assert timed(lambda: simulate(spec, 0, 0)).actors


def test_world_lidar(timed):
    spec, world = scene()
    solids = world.solids(0.0).relative_to(world.ego_pose(0.0))
    scan = timed(lambda: lidar.scan(solids, world.intensity, world.dropout, spec, stream(spec, 0, 0, 1, 0, 0)))
    assert len(scan[0]) > 1000


def test_world_cameras(timed):
    spec, world = scene()
    pose = world.ego_pose(0.0)
    solids = world.solids(0.0).relative_to(pose)
    pictures, _, _ = timed(lambda: render(world, solids, pose, spec.image_size, stream(spec, 0, 0, 2, 0, 0)))
    assert len(pictures) == 6


# ---------------------------------------------------------------- corruptions


def strongest() -> dict:
    """Of every corruption its highest severity."""
    return {condition.key: condition for condition in CORRUPTIONS.every()}


@pytest.mark.parametrize("name", sorted(strongest()))
def test_corruption(timed, name):
    condition, picture = strongest()[name], frame()
    try:
        timed(lambda: corrupt(condition, picture, 0))
    except FrameError as error:
        pytest.skip(str(error))
