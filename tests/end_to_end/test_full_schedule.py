"""The published training on a small world: balanced sampling, pasting, two epochs of mmengine's Runner."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures.ops import box_np_ops
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from aqr_bench.data.__main__ import main as write_infos
from aqr_bench.data.dataset import load_data
from aqr_bench.data.infos import CAMERAS
from aqr_bench.engine.adapt_config import inner_dataset
from aqr_bench.engine.config import base_config, hashable
from aqr_bench.engine.seeding import seed_all
from aqr_bench.engine.train import _without_test
from aqr_bench.engine.weights import final_weights, load_weights
from aqr_bench.report.figures.detections import DrawnBoxes, draw_sample
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

ARTEFACTS = Path(__file__).resolve().parents[2] / "build" / "artefacts"
R50, LIDAR, CAMERA = "cmt_voxel0100_r50_800x320_cbgs", "cmt_lidar_voxel0075_cbgs", "cmt_camera_vov_1600x640_cbgs"
MOVING = ("GlobalRotScaleTransAll", "CustomRandomFlip3D")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A world of two scenes, its info files and its database of objects."""
    folder = tmp_path_factory.mktemp("full")
    spec = dict(version="v1.0-mini", train_scenes=2, val_scenes=1, frames_per_scene=2, seed=4)
    write_world(WorldSpec.from_dict(spec), folder / "world")
    command = ["--version", "v1.0-mini", "--root", str(folder / "world"), "--out", str(folder / "infos"), "--quiet"]
    assert write_infos([*command, "--database"]) == 0
    return load_data(folder / "infos")


def config_of(name: str, data):
    config = base_config(SimpleNamespace(tf32=False, model=name), data)
    init_default_scope("mmdet3d")
    config.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    return config


@pytest.mark.parametrize("name", [R50, LIDAR, CAMERA])
def test_batches_come_out_of_the_whole_pipeline(data, name):
    config = config_of(name, data)
    seed_all(1)
    loader = Runner.build_dataloader(config.train_dataloader)
    batch = next(iter(loader))
    inputs, samples = batch["inputs"], batch["data_samples"]
    assert ("points" in inputs, "img" in inputs) == (name != CAMERA, name != LIDAR)
    for index, sample in enumerate(samples):
        boxes = sample.gt_instances_3d.bboxes_3d
        assert len(boxes) and torch.isfinite(boxes.tensor).all() and (boxes.gravity_center[:, :2].abs() <= 54).all()
        if name != LIDAR:
            size = next(
                tuple(step["data_aug_conf"]["final_dim"]) for step in pipeline(config) if "data_aug_conf" in step
            )
            assert inputs["img"][index].shape == (6, 3, *size) and np.shape(sample.lidar2img) == (6, 4, 4)
        if name != CAMERA:
            assert inputs["points"][index].shape[1] == 5 and len(inputs["points"][index]) > 1000
    test = next(iter(Runner.build_dataloader(config.test_dataloader)))
    assert set(test["inputs"]) == set(inputs) and len(test["data_samples"][0].input_proof["sha256"]) == 64


def pipeline(config) -> list:
    return inner_dataset(config.train_dataloader.dataset).pipeline


def test_objects_are_pasted_into_points_and_images_together(data):
    """``build/artefacts/pasted.png`` shows it: ground truth in green, pasted objects in vermilion."""
    config = config_of(R50, data)
    frames = {}
    for rate in (0.0, 1.0):
        steps = [s for s in pipeline(config) if s["type"] not in ("SensorDropout", "PointShuffle")]
        sampler = next(s for s in steps if s["type"] == "UnifiedObjectSample")
        sampler.db_sampler.rate, sampler.mixup_rate = rate, -1
        next(s for s in steps if s["type"] == "ResizeCropFlipImage").training = False
        inner_dataset(config.train_dataloader.dataset).pipeline = steps
        dataset = Runner.build_dataloader(config.train_dataloader).dataset.dataset
        calm = [t for t in dataset.pipeline.transforms if type(t).__name__ not in MOVING]
        dataset.pipeline.transforms = calm
        seed_all(5)
        frames[rate] = dataset[0]
    plain, pasted = (frames[r]["data_samples"] for r in (0.0, 1.0))
    before, after = (s.gt_instances_3d.bboxes_3d for s in (plain, pasted))
    assert len(after) > len(before) and torch.equal(after.tensor[: len(before)], before.tensor)
    new = np.concatenate([after.gravity_center.numpy(), after.tensor[:, 3:7].numpy()], 1)
    images = {
        c: i.numpy().transpose(1, 2, 0)[..., ::-1] for c, i in zip(CAMERAS, frames[1.0]["inputs"]["img"], strict=True)
    }
    matrices = dict(zip(CAMERAS, np.asarray(pasted.lidar2img), strict=True))
    truth, added = (
        DrawnBoxes(new[: len(before)], []),
        DrawnBoxes(new[len(before) :], [], np.ones(len(after) - len(before))),
    )
    points = frames[1.0]["inputs"]["points"].numpy()
    draw_sample(ARTEFACTS / "pasted.png", images, matrices, points, truth, added, "objects pasted into a frame")
    changed = (frames[0.0]["inputs"]["img"] != frames[1.0]["inputs"]["img"]).any(1)
    assert 0 < changed.float().mean() < 0.5
    inside = box_np_ops.points_in_rbbox(points[:, :3], after.tensor[len(before) :, :7].numpy())
    assert (inside.sum(0) >= 5).all()  # each brought the points along that the filter asks for


@pytest.mark.slow  # every day, tests/engine trains the quick model by epochs and checks the hook that stops pasting
def test_two_epochs_of_the_published_schedule(data, tmp_path):
    """Pasting stops after the first; the weights stay finite and load into the config's model."""
    config = config_of(R50, data)
    config.work_dir, config.launcher = str(tmp_path), "none"
    config.model.frozen = ["pts_middle_encoder"]
    config.model.pts_bbox_head.num_query = 100
    config.train_cfg.max_epochs, config.custom_hooks[0].after_epoch = 2, 1
    config.optim_wrapper = dict(config.optim_wrapper, type="OptimWrapper")  # half precision needs a GPU
    config.optim_wrapper.pop("loss_scale")
    for step in pipeline(config):
        if "data_aug_conf" in step:
            step.data_aug_conf.final_dim = (64, 160)
    config.randomness = dict(seed=0)
    # One frame, so one iteration an epoch; balancing has a test of its own above.
    config.train_dataloader.batch_size = 1
    config.train_dataloader.dataset = dict(inner_dataset(config.train_dataloader.dataset), indices=[0])
    runner = Runner.from_cfg(_without_test(config))
    runner.train()
    assert runner.iter == 2 and runner.epoch == 2
    steps = runner.train_dataloader.dataset.pipeline.transforms
    assert [s.disabled for s in steps if type(s).__name__ == "UnifiedObjectSample"] == [True]
    weights = final_weights(runner)
    assert all(torch.isfinite(value).all() for value in weights.values())
    torch.save({"state_dict": weights}, tmp_path / "final.pth")
    model = MODELS.build(config.model)
    load_weights(model, tmp_path / "final.pth")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert (tmp_path / "last_checkpoint").is_file()


def test_the_identity_of_a_training_does_not_hold_folders(data):
    text = str(hashable(config_of(R50, data)))
    assert str(data.root.parent) not in text and "dbinfos_train.pkl" in text
