"""The official configs on a real keyframe: augmentation that stays on the objects, and full-size steps on a CPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cmt_small import data_sample, ring
from mmdet3d.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from aqr_bench.data.dataset import point_at_keyframe
from aqr_bench.data.infos import CAMERAS
from aqr_bench.engine.adapt_config import inner_dataset
from aqr_bench.engine.seeding import seed_all
from aqr_bench.report.figures.detections import DrawnBoxes, draw_sample
from aqr_bench.study.model_files import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "build" / "artefacts"  # pictures to be looked at; not tracked
R50, VOV = "cmt_voxel0100_r50_800x320_cbgs", "cmt_voxel0075_vov_1600x640_cbgs"
LIDAR, CAMERA = "cmt_lidar_voxel0075_cbgs", "cmt_camera_vov_1600x640_cbgs"
RANDOM_STEPS = (
    "GlobalRotScaleTransAll", "CustomRandomFlip3D", "ResizeCropFlipImage", "SensorDropout", "UnifiedObjectSample",
    "PointShuffle",
)  # fmt: skip


def train_set(name: str, keyframe: Path, without: tuple[str, ...]):
    """The config's training data set on the keyframe, some steps left out."""
    config = Config.fromfile(CONFIGS / f"{name}.py")
    init_default_scope("mmdet3d")
    dataset = inner_dataset(config.train_dataloader.dataset)
    steps = [step for step in dataset.pipeline if step["type"] not in without]
    steps.insert(1 + [step["type"] for step in steps].index("LoadPoseCorrectedSweeps"), number_points)
    dataset.pipeline = steps
    point_at_keyframe(dataset, keyframe)
    return DATASETS.build(dataset)


def number_points(results: dict) -> dict:
    """Put a point's number where its intensity stood: so it can be followed."""
    results["points"].tensor[:, 3] = torch.arange(len(results["points"]))
    return results


class View:
    """A packed sample: images [N, 3, H, W], projections [N, 4, 4], points [P, 5], boxes [n, 7] (gravity centres)."""

    def __init__(self, packed: dict) -> None:
        inputs, sample = packed["inputs"], packed["data_samples"]
        self.images = inputs["img"].numpy()
        self.lidar2img = np.asarray(sample.metainfo["lidar2img"])
        self.points = inputs["points"].numpy().astype(np.float64)
        truth = sample.gt_instances_3d.bboxes_3d
        self.boxes = np.concatenate([truth.gravity_center.numpy(), truth.tensor[:, 3:7].numpy()], 1).astype(float)
        self.classes = sample.gt_instances_3d.labels_3d.numpy()

    def project(self, xyz: np.ndarray) -> np.ndarray:
        """[N, P, 3]: u, v, depth."""
        seen = np.einsum("nij,pj->npi", self.lidar2img, np.c_[xyz, np.ones(len(xyz))])[..., :3]
        return np.concatenate([seen[..., :2] / seen[..., 2:], seen[..., 2:]], -1)

    def draw(self, path: Path, title: str) -> None:
        images = {}
        for camera, image, pixels in zip(CAMERAS, self.images, self.project(self.points[:, :3]), strict=True):
            picture = np.ascontiguousarray(image.transpose(1, 2, 0)[..., ::-1]).astype(np.uint8)
            h, w = picture.shape[:2]
            inside = (pixels[:, 2] > 1) & (pixels[:, :2] >= 0).all(1) & (pixels[:, 0] < w) & (pixels[:, 1] < h)
            size = max(1, w // 400)
            for (u, v), depth in zip(pixels[inside, :2].astype(int), pixels[inside, 2], strict=True):
                shade = min(depth / 40, 1.0)
                picture[v : v + size, u : u + size] = [255 * (1 - shade), 60, 255 * shade]
            images[camera] = picture
        none = DrawnBoxes(np.zeros((0, 7)), [], np.zeros(0))
        truth = DrawnBoxes(self.boxes, [str(c) for c in self.classes])
        matrices = dict(zip(CAMERAS, self.lidar2img, strict=True))
        draw_sample(path, images, matrices, self.points, truth, none, title, range_m=54.0)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_points_and_boxes_stay_on_the_objects_through_the_whole_augmentation(keyframe, seed):
    """A LiDAR point, and the centre of a box, shows the same patch of the real images before and after.

    ``build/artefacts/augmentation.*.png`` show it.
    """
    plain = View(train_set(R50, keyframe, RANDOM_STEPS)[0])
    seed_all(seed)
    without = ("UnifiedObjectSample", "SensorDropout", "PointShuffle")
    changed = View(train_set(R50, keyframe, without)[0])
    assert plain.images.shape == (6, 3, 900, 1600) and changed.images.shape == (6, 3, 320, 800)
    if seed == 0:
        plain.draw(ARTEFACTS / "augmentation.before.png", "as recorded: ground truth and LiDAR points")
    changed.draw(ARTEFACTS / f"augmentation.after{seed}.png", f"after the whole training augmentation, draw {seed}")

    numbers, rows, changed_rows = np.intersect1d(plain.points[:, 3], changed.points[:, 3], return_indices=True)
    assert len(numbers) > 20_000
    check_colours(plain, changed, np.stack([rows, changed_rows], 1))
    check_boxes(plain, changed)


def check_colours(plain: View, changed: View, pairs: np.ndarray) -> None:
    a, b = plain.project(plain.points[pairs[:, 0], :3]), changed.project(changed.points[pairs[:, 1], :3])
    differences = []
    for view in range(6):
        inside = (a[view, :, 2] > 1) & (a[view, :, :2] > 8).all(1) & (a[view, :, :2] < [1592, 892]).all(1)
        inside &= (b[view, :, :2] > 4).all(1) & (b[view, :, :2] < [796, 316]).all(1)
        for (u, v, _), (s, t, _) in zip(a[view, inside].astype(int), b[view, inside].astype(int), strict=True):
            before = plain.images[view, :, v - 2 : v + 3, u - 2 : u + 3].mean((1, 2))
            after = changed.images[view, :, t - 1 : t + 2, s - 1 : s + 2].mean((1, 2))
            differences.append(np.abs(before.astype(float) - after).mean())
    assert len(differences) > 2000 and np.median(differences) < 6, (len(differences), np.median(differences))


def check_boxes(plain: View, changed: View) -> None:
    """Each augmented box is the image of one recorded box, and shows the same picture."""
    differences = []
    for box, label in zip(changed.boxes, changed.classes, strict=True):
        centre = changed.project(box[None, :3])[:, 0]
        for view in range(6):
            u, v, depth = centre[view]
            if depth < 1 or not (20 < u < 780 and 20 < v < 300):
                continue
            candidates = plain.project(plain.boxes[plain.classes == label, :3])[view]
            patch = changed.images[view, :, int(v) - 3 : int(v) + 4, int(u) - 3 : int(u) + 4].mean((1, 2))
            distances = [
                np.abs(
                    plain.images[view, :, int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7].mean((1, 2)) - patch
                ).max()
                for x, y, d in candidates
                if d > 1 and 20 < x < 1580 and 20 < y < 880
            ]
            differences.append(min(distances, default=np.inf))
    assert len(differences) >= 5 and np.median(differences) < 6, differences


@pytest.fixture(scope="module")
def r50():
    """The fusion model as configured, its sparse encoder frozen, with weights from a seed."""
    config = Config.fromfile(CONFIGS / f"{R50}.py").model
    config.frozen = ["pts_middle_encoder"]
    seed_all(0)
    model = MODELS.build(config)
    model.init_weights()
    return model


# Every day, tests/cmt has all of them: of sensors for the quick model, of objects for the heads of all four configs.
@pytest.mark.slow
@pytest.mark.parametrize("case", ["no points", "no cameras", "no object", "more objects than queries"])
def test_the_fusion_model_trains_and_infers_on_odd_batches(r50, case):
    """The official code crashes on each. Images are small here; all the rest is of full size."""
    g = torch.Generator().manual_seed(0)
    cloud = torch.rand(3000, 5, generator=g) * torch.tensor([100.0, 100, 6, 255, 0.5]) - torch.tensor(
        [50.0, 50, 4, 0, 0]
    )
    images = torch.randint(0, 255, (6, 3, 64, 96), generator=g, dtype=torch.uint8)
    count = {"no object": 0, "more objects than queries": 950}.get(case, 3)
    inputs = dict(points=[cloud[:0] if case == "no points" else cloud], img=[images])
    if case == "no cameras":
        del inputs["img"]
    data = dict(inputs=inputs, data_samples=[data_sample(count, ring(6, 64, 96))])
    losses = r50.train()(**r50.data_preprocessor(copy.deepcopy(data), training=True), mode="loss")
    sum(losses.values()).backward()
    assert len(losses) == 24 and all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in r50.parameters() if p.grad is not None)
    r50.zero_grad()
    with torch.no_grad():
        result = r50.eval().test_step(copy.deepcopy(data))[0].pred_instances_3d
    assert 0 < len(result.scores_3d) <= 300 and torch.isfinite(result.bboxes_3d.tensor).all()


def run_full_size(name: str, mode: str, keyframe: Path) -> dict:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "full_size.py"), name, "--mode", mode]
    command += ["--keyframe", str(keyframe)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert facts["peak_rss_gb"] < 20, facts
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("name", [R50, LIDAR])
def test_a_full_size_training_step_on_a_cpu(keyframe, name):
    facts = run_full_size(name, "train", keyframe)
    assert np.isfinite(facts["loss"]) and facts["losses"] == 24  # six layers, class and box, matching and denoising
    # All learns but the sparse encoder, which has no backward on a CPU.
    assert facts["without_gradient"] == ["pts_middle_encoder"] and facts["with_gradient"] > 150


@pytest.mark.slow
def test_a_full_size_step_of_the_router_of_mome_on_a_cpu(keyframe):
    facts = run_full_size("mome", "train", keyframe)
    assert np.isfinite(facts["loss"]) and facts["losses"] == 1 and facts["finite"]
    assert facts["with_gradient"] == 16  # the names in mome.aqr_only.csv


@pytest.mark.slow  # every day, tests/cmt builds these models and runs their heads
@pytest.mark.parametrize("name", [R50, VOV, LIDAR, CAMERA, "mome"])
def test_a_full_size_inference_on_a_cpu(keyframe, name):
    facts = run_full_size(name, "predict", keyframe)
    assert facts["finite"] and 0 < facts["boxes"] <= 300
