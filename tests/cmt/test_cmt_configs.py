"""The four official configs: every published value, the published names and shapes, the schedule, the switches."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from cmt_official import CLASSES, CODE_WEIGHTS, PC_RANGE
from cmt_small import ring, train_step, with_truth
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from aqr_bench.cmt.sparse_kernels import spconv2_from_mmcv
from aqr_bench.errors import UserError
from aqr_bench.study.model_files import CONFIGS

R50, VOV = "cmt_voxel0100_r50_800x320_cbgs", "cmt_voxel0075_vov_1600x640_cbgs"
LIDAR, CAMERA = "cmt_lidar_voxel0075_cbgs", "cmt_camera_vov_1600x640_cbgs"
OFFICIAL = (R50, VOV, LIDAR, CAMERA)


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


def step(config: Config, kind: str, train: bool = True) -> dict | None:
    loader = config.train_dataloader.dataset.dataset if train else config.test_dataloader.dataset
    return next((s for s in loader.pipeline if s["type"] == kind), None)


def head_of(config: Config, **changes):
    """The config's head with 50 queries."""
    pts = dict(train_cfg=config.model.train_cfg.pts, test_cfg=config.model.test_cfg.pts)
    return MODELS.build({**config.model.pts_bbox_head, **pts, "num_query": 50, **changes})


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("name", OFFICIAL)
def test_what_the_four_have_in_common(name):
    config = load(name)
    head, optim = config.model.pts_bbox_head, config.optim_wrapper
    assert config.class_names == CLASSES and config.point_cloud_range == PC_RANGE
    assert (head.in_channels, head.hidden_dim, head.num_query, head.depth_num) == (512, 256, 900, 64)
    assert (head.scalar, head.noise_scale, head.split, head.downsample_scale) == (10, 1.0, 0.75, 8)
    assert head.bbox_coder.post_center_range == [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]
    assert head.bbox_coder.max_num == 300 and len(head.tasks) == 1
    assert (head.loss_cls.loss_weight, head.loss_cls.gamma, head.loss_cls.alpha) == (2.0, 2, 0.25)
    assert head.loss_bbox.loss_weight == 0.25 and head.separate_head.init_bias == -2.19
    layers = head.transformer.decoder.transformerlayers
    assert head.transformer.decoder.num_layers == 6 and layers.ffn_cfgs.feedforward_channels == 1024
    assert [(a.embed_dims, a.num_heads, a.dropout) for a in layers.attn_cfgs] == [(256, 8, 0.1)] * 2
    assigner = config.model.train_cfg.pts.assigner
    assert (assigner.cls_cost.weight, assigner.reg_cost.weight, assigner.iou_cost.weight) == (2.0, 0.25, 0.0)
    assert assigner.code_weights == config.model.train_cfg.pts.code_weights == CODE_WEIGHTS
    # As in the last state of the official repository: all four scale the loss dynamically.
    assert (optim.type, optim.loss_scale) == ("AmpOptimWrapper", "dynamic")
    assert head.aqr == {} and config.model.consistent_grid is False and tuple(config.model.frozen) == ()
    assert optim.type == "AmpOptimWrapper" and optim.clip_grad == dict(max_norm=35, norm_type=2)
    assert optim.optimizer.type == "AdamW" and optim.optimizer.weight_decay == 0.01
    assert config.train_cfg.max_epochs == 20 and config.train_dataloader.dataset.type == "BalancedDataset"
    preprocessor = config.model.data_preprocessor
    assert preprocessor.mean == [103.530, 116.280, 123.675] and preprocessor.std == [57.375, 57.120, 58.395]
    assert not preprocessor.bgr_to_rgb and preprocessor.pad_size_divisor == 32


@pytest.mark.parametrize(
    ("name", "voxel", "cells", "lr", "batch", "peak", "kernel", "image", "resize"),
    [
        (R50, 0.1, 1024, 1.4e-4, 4, 6.0, 1, (320, 800), (0.47, 0.625)),
        (VOV, 0.075, 1440, 1e-4, 2, 8.0, 1, (640, 1600), (0.94, 1.25)),
        (LIDAR, 0.075, 1440, 1e-4, 2, 6.0, 3, None, None),
        (CAMERA, 0.075, 1440, 1e-4, 2, 8.0, 1, (640, 1600), (0.94, 1.25)),
    ],
)
def test_what_differs_between_the_configs(name, voxel, cells, lr, batch, peak, kernel, image, resize):
    config = load(name)
    model = config.model
    assert model.train_cfg.pts.grid_size == model.test_cfg.pts.grid_size == [cells, cells, 40]
    assert model.pts_bbox_head.bbox_coder.voxel_size == [voxel, voxel, 0.2]
    assert model.pts_bbox_head.separate_head.final_kernel == kernel
    assert config.optim_wrapper.optimizer.lr == lr and config.train_dataloader.batch_size == batch
    assert config.auto_scale_lr.base_batch_size == 8 * batch
    assert [s.eta_min_ratio for s in config.param_scheduler] == [peak, 1e-4, 0.8947368421052632, 1.0]
    assert ("pts_voxel_layer" in model) == (name != CAMERA) and ("img_backbone" in model) == (name != LIDAR)
    if name != CAMERA:
        assert model.pts_voxel_layer.voxel_size == [voxel, voxel, 0.2]
        assert (
            tuple(model.pts_voxel_layer.max_voxels) == (120000, 160000) and model.pts_voxel_layer.max_num_points == 10
        )
        assert model.pts_middle_encoder.sparse_shape == [41, cells, cells]
    assert model.use_grid_mask == (name in (R50, VOV))
    custom = config.optim_wrapper.paramwise_cfg.custom_keys
    if name == LIDAR:
        assert custom == {}
    else:
        assert custom == dict(img_backbone=dict(lr_mult=0.01, decay_mult=5.0), img_neck=dict(lr_mult=0.1))
        for train in (True, False):
            conf = step(config, "ResizeCropFlipImage", train).data_aug_conf
            assert (tuple(conf.final_dim), tuple(conf.resize_lim)) == (image, resize)


def test_pipelines_are_the_published_ones():
    for name in (R50, VOV, LIDAR):
        config = load(name)
        sampler = step(config, "UnifiedObjectSample")
        groups = sampler.db_sampler.sample_groups
        assert dict(groups) == dict(
            car=2, truck=3, construction_vehicle=7, bus=4, trailer=6, barrier=2, motorcycle=6, bicycle=6,
            pedestrian=2, traffic_cone=2,
        )  # fmt: skip
        assert set(sampler.db_sampler.prepare.filter_by_min_points.values()) == {5}
        assert (sampler.get("sample_2d", False), sampler.get("mixup_rate")) == (
            (False, None) if name == LIDAR else (True, 0.5)
        )
        move = step(config, "GlobalRotScaleTransAll")
        assert move.rot_range == [-0.785, 0.785] and move.scale_ratio_range == [0.9, 1.1]
        assert move.translation_std == [0.5, 0.5, 0.5]
        flip = step(config, "CustomRandomFlip3D")
        assert (flip.flip_ratio_bev_horizontal, flip.flip_ratio_bev_vertical) == (0.5, 0.5)
        assert any(hook.type == "StopObjectSample" and hook.after_epoch == 15 for hook in config.custom_hooks)
        for train in (True, False):
            assert step(config, "LoadPoseCorrectedSweeps", train).sweeps_num == 10
        mask = step(config, "SensorDropout")
        assert (mask is None) if name == LIDAR else (mask.lidar, mask.cameras) == (0.25, 0.25)
    camera = load(CAMERA)
    assert step(camera, "UnifiedObjectSample") is None and step(camera, "SensorDropout") is None
    assert step(camera, "GlobalRotScaleTransImage").rot_range == [-0.3925, 0.3925]
    assert not any(hook.type == "StopObjectSample" for hook in camera.custom_hooks)


# ------------------------------------------------------------------ names and shapes


def manifest(shared, name: str) -> dict[str, tuple[str, str, str]]:
    with open(shared / "reference" / "official_state_dict" / f"{name}.csv") as file:
        return {row["name"]: (row["shape"], row["dtype"], row["kind"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", OFFICIAL)
def test_state_dict_equals_the_official_manifest(shared, name):
    expected = manifest(shared, f"{name}.full")
    # The manifest has mmcv's layout of the sparse kernels; with spconv 2 the same names hold (out, D, H, W, in).
    sparse = manifest(shared, "component.pts_middle_encoder.sparse_encoder.spconv2_layout")
    for key in [k for k in expected if k in sparse]:
        shape = expected[key][0]
        if shape.count("x") == 4:
            kernel = torch.empty([int(n) for n in shape.split("x")], device="meta")
            assert "x".join(map(str, spconv2_from_mmcv(kernel).shape)) == sparse[key][0]
        expected[key] = sparse[key]
    with torch.device("meta"):
        model = MODELS.build(load(name).model)
    parameters = dict(model.named_parameters())
    actual = {
        key: (
            "x".join(map(str, value.shape)) or "scalar",
            str(value.dtype).removeprefix("torch."),
            "param" if key in parameters else "buffer",
        )
        for key, value in model.state_dict().items()
    }
    assert actual == expected and list(actual) == list(expected)


def test_aqr_sits_on_top():
    config = load(R50)
    config.model.pts_bbox_head.aqr = dict(site="cross", bev_window=5, camera_window=15)
    with torch.device("meta"):
        plain, biased = MODELS.build(load(R50).model), MODELS.build(config.model)
    extra = set(biased.state_dict()) - set(plain.state_dict())
    assert extra and all(key.startswith("pts_bbox_head.aqr.") for key in extra)
    assert set(plain.state_dict()) <= set(biased.state_dict())


# ------------------------------------------------------------------ training


class Parts(torch.nn.Module):
    """One parameter for each group that the optimiser tells apart."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("img_backbone", "img_neck", "pts_bbox_head"):
            self.add_module(name, torch.nn.Linear(1, 1, bias=False))


@pytest.mark.parametrize(("name", "peak"), [(R50, 6.0), (VOV, 8.0)])
def test_one_cycle_of_rate_and_momentum_for_every_group(name, peak):
    """Up by a cosine for 40 %, then down, as ratios to each group's own rate (mmcv's cyclic policy)."""
    config = load(name)
    per_epoch, model = 50, Parts()
    wrapper = dict(config.optim_wrapper, type="OptimWrapper")
    wrapper.pop("loss_scale")
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    schedulers = [
        PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer), default_args=dict(epoch_length=per_epoch))
        if not s.get("convert_to_iter_based")
        else PARAM_SCHEDULERS.get(s.type).build_iter_from_epoch(
            **{k: v for k, v in s.items() if k not in ("type", "convert_to_iter_based")},
            optimizer=optimizer,
            epoch_length=per_epoch,
        )
        for s in config.param_scheduler
    ]
    base = {"img_backbone": 0.01, "img_neck": 0.1, "pts_bbox_head": 1.0}
    group_of = {id(p): n.split(".")[0] for n, p in model.named_parameters()}
    total, up = 20 * per_epoch, 8 * per_epoch

    def cosine(start: float, end: float, part: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    for i in range(total):
        first = i < up
        part = i / up if first else (i - up) / (total - up)
        rate = cosine(1.0, peak, part) if first else cosine(peak, 1e-4, part)
        momentum = cosine(1.0, 0.8947368421052632, part) if first else cosine(0.8947368421052632, 1.0, part)
        for group in optimizer.param_groups:
            group_lr = base[group_of[id(group["params"][0])]] * config.optim_wrapper.optimizer.lr
            assert group["lr"] == pytest.approx(rate * group_lr, rel=2e-2, abs=1e-3 * group_lr), i
            assert group["betas"][0] == pytest.approx(0.9 * momentum, rel=1e-3), i
        for scheduler in schedulers:
            scheduler.step()
    decay = {group_of[id(g["params"][0])]: g["weight_decay"] for g in optimizer.param_groups}
    assert decay == pytest.approx({"img_backbone": 0.05, "img_neck": 0.01, "pts_bbox_head": 0.01})


# ------------------------------------------------------------------ heads by config name


@pytest.mark.parametrize("name", OFFICIAL)
def test_heads_are_called_as_the_official_ones(name):
    head = head_of(load(name)).eval()
    views = torch.eye(4).repeat(6, 1, 1).numpy()
    metas = [dict(lidar2img=views, pad_shape=[(128, 320, 3)] * 6)] * 2
    with torch.no_grad():
        outputs = head([torch.randn(2, 512, 16, 16)], [torch.randn(12, 256, 8, 20)], metas)
    widths = dict(center=2, height=1, dim=3, rot=2, vel=2, cls_logits=10)
    assert {k: tuple(v.shape) for k, v in outputs[0][0].items()} == {k: (6, 2, 50, n) for k, n in widths.items()}


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize(("objects", "queries"), [((0, 0), 50), ((70, 0), 50), ((3, 2), 20)])
def test_batches_that_the_official_heads_crash_on(name, objects, queries):
    """No object in the batch; more objects than queries; fewer candidates than the coder's 300 boxes."""
    head = head_of(load(name), num_query=queries)
    head.init_weights()
    g = torch.Generator().manual_seed(0)
    x, x_img = torch.randn(2, 512, 16, 16, generator=g), torch.randn(12, 256, 8, 20, generator=g)
    metas = [dict(lidar2img=ring(6, 128, 320), pad_shape=[(128, 320, 3)] * 6) for _ in objects]
    losses = train_step(head, with_truth(metas, list(objects)), x, x_img)
    assert len(losses) == 24 and all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    with torch.no_grad():
        detections = head.eval().get_bboxes(head([x], [x_img], metas), metas)
    assert all(0 < len(scores) <= min(300, queries * 10) for _, scores, _ in detections)


def test_the_lidar_head_mixes_neighbouring_queries_and_the_others_do_not():
    for name, reach in ((LIDAR, 2), (R50, 0)):
        head = head_of(load(name)).eval().task_heads[0]
        x = torch.randn(6, 1, 50, 256)
        moved = x.clone()
        moved[:, :, 10] += 1.0
        with torch.no_grad():
            changed = (head(x)["center"] != head(moved)["center"]).any(-1).any(0)[0].nonzero().flatten().tolist()
        assert changed == list(range(10 - reach, 11 + reach))


# ------------------------------------------------------------------ switches


def test_the_consistent_grid_covers_the_range_and_keeps_every_parameter():
    published, corrected = load(R50).model, load(R50).model
    corrected.consistent_grid = True
    with torch.device("meta"):
        before, after = MODELS.build(published), MODELS.build(corrected)
    assert (
        before.pts_middle_encoder.sparse_shape == [41, 1024, 1024] and before.pts_bbox_head.embeddings.key_range is None
    )
    # 1080 cells would do for 108 m, but the pyramid halves the map of 135 cells: the next multiple of 16.
    assert after.pts_middle_encoder.sparse_shape == [41, 1088, 1088]
    assert after.pts_bbox_head.embeddings.key_range == after.pts_bbox_head.bev_range
    assert after.pts_bbox_head.bev_range == pytest.approx([-54, -54, -5, 54.8, 54.8, 3])
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (before, after)]
    assert shapes[0] == shapes[1]
    config = load(VOV).model
    config.consistent_grid = True
    with torch.device("meta"):
        assert MODELS.build(config).pts_middle_encoder.sparse_shape == [41, 1440, 1440]


def test_keys_of_the_consistent_grid_are_where_they_are():
    config = load(R50).model
    head = head_of(load(R50), bev_range=[-54, -54, 54.8, 54.8], stretch_bev_keys=False)
    metres = head.embeddings.bev_coordinates(136, 136) * 108 - 54
    assert metres[0].tolist() == pytest.approx([-53.6, -53.6], abs=1e-4)
    assert metres[-1].tolist() == pytest.approx([54.4, 54.4], abs=1e-4)
    stretched = head_of(load(R50)).embeddings.bev_coordinates(128, 128) * 108 - 54
    assert stretched[-1].tolist() == pytest.approx([53.578, 53.578], abs=1e-3)  # 48.0 m in truth
    assert config.pts_bbox_head.bev_range == [-54.0, -54.0, 48.4, 48.4]


def test_frozen_parts_neither_learn_nor_count_batches():
    config = load(LIDAR).model
    config.frozen = ["pts_middle_encoder", "pts_backbone"]
    model = MODELS.build(config).train()
    assert not model.pts_middle_encoder.training and not model.pts_backbone.training and model.pts_neck.training
    assert not any(p.requires_grad for p in model.pts_backbone.parameters())
    assert all(p.requires_grad for p in model.pts_neck.parameters())
    config.frozen = ["pts_backbon"]
    with pytest.raises(UserError, match="no part 'pts_backbon'; did you mean 'pts_backbone'"):
        MODELS.build(config)


def test_a_learning_sparse_encoder_is_refused_on_a_cpu():
    model = MODELS.build(load(LIDAR).model).train()
    with pytest.raises(UserError, match=r"freeze it: model.frozen = \['pts_middle_encoder'\]"):
        model.extract_pts_feat([torch.rand(50, 5)])
