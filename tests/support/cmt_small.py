"""A small head, a ring of cameras and random samples for the tests of this folder."""

from __future__ import annotations

import math

import numpy as np
import torch
from cmt_official import head_config
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.structures import InstanceData

import aqr_bench.cmt  # noqa: F401  (registers)
from aqr_bench.study.model_files import CONFIGS

RANGE = [-20.0, -20.0, -5.0, 20.0, 20.0, 3.0]
WIDTH = 32


def ring(count: int, height: int, width: int, turn: float = 0.0) -> np.ndarray:
    """``lidar2img`` of cameras that look outwards all around, 75 degrees wide each, [count, 4, 4] in float64."""
    matrices = []
    for k in range(count):
        yaw = 2 * math.pi * k / count + turn
        ahead = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = np.stack([right, [0.0, 0.0, -1.0], ahead])
        extrinsic[:3, 3] = -extrinsic[:3, :3] @ (ahead * 0.8 + [0.0, 0.0, -0.3])
        intrinsic = np.eye(4)
        intrinsic[0, 0] = intrinsic[1, 1] = width / 2 / math.tan(math.radians(37.5))
        intrinsic[0, 2], intrinsic[1, 2] = width / 2, height / 2
        matrices.append(intrinsic @ extrinsic)
    return np.stack(matrices)


def small_head_config(kind: str = "CmtHead", layers: int = 2, heads: int = 4, **changes) -> dict:
    config = head_config(kind)
    config.pop("bev_range", None)  # here the map covers the whole range
    config.update(in_channels=12, hidden_dim=WIDTH, num_query=20, depth_num=4, scalar=3)
    config["bbox_coder"].update(pc_range=RANGE, post_center_range=[-25, -25, -10, 25, 25, 10], max_num=30)
    decoder = config["transformer"]["decoder"]
    decoder["num_layers"] = layers
    for attention in decoder["transformerlayers"]["attn_cfgs"]:
        attention.update(embed_dims=WIDTH, num_heads=heads, dropout=0.0)
    decoder["transformerlayers"]["ffn_cfgs"].update(embed_dims=WIDTH, feedforward_channels=48)
    config["separate_head"].update(head_conv=16)
    return {**config, **changes}


def small_head(kind: str = "CmtHead", seed: int = 0, **changes):
    torch.manual_seed(seed)
    head = MODELS.build(small_head_config(kind, **changes))
    head.init_weights()
    return head


def small_mome(routes: bool = True, seed: int = 0, **changes):
    """A head of width 32 with 20 queries; its router prefers no expert."""
    config = small_head_config(**{"type": "MultiExpertDecoding", **changes})
    transformer = dict(type="MultiExpert", decoder=config["transformer"]["decoder"], use_cam_embed=True)
    if routes:
        encoder = Config.fromfile(CONFIGS / "mome.py").model.pts_bbox_head.transformer.encoder
        transformer.update(window_sizes=[5, 3], encoder=encoder.to_dict())
        layer = transformer["encoder"]["transformerlayers"]
        layer["attn_cfgs"][0].update(embed_dims=WIDTH)
        layer["ffn_cfgs"].update(embed_dims=WIDTH, feedforward_channels=48)
    torch.manual_seed(seed)
    head = MODELS.build({**config, "transformer": transformer})
    head.init_weights()
    if routes:
        with torch.no_grad():
            head.transformer.selected_cls.weight.normal_(std=2.0)
    return head


def metas(batch: int, cameras: int = 3, height: int = 48, width: int = 80) -> list[dict]:
    return [
        dict(lidar2img=ring(cameras, height, width, turn=0.3 * b), pad_shape=[(height, width, 3)] * cameras)
        for b in range(batch)
    ]


def boxes(count: int, seed: int) -> tuple[LiDARInstance3DBoxes, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    tensor = torch.rand(count, 9, generator=g)
    tensor[:, :2] = tensor[:, :2] * 36 - 18
    tensor[:, 2] -= 2.0
    tensor[:, 3:6] = tensor[:, 3:6] * 3 + 0.4
    tensor[:, 6] = tensor[:, 6] * 6 - 3
    return LiDARInstance3DBoxes(tensor, box_dim=9), torch.randint(0, 10, (count,), generator=g)


def with_truth(metadata: list[dict], counts: list[int]) -> list[dict]:
    for index, (meta, count) in enumerate(zip(metadata, counts, strict=True)):
        meta["gt_bboxes_3d"], meta["gt_labels_3d"] = boxes(count, seed=index)
    return metadata


def features(batch: int, cameras: int = 3, bev=(10, 10), image=(6, 10), seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 12, *bev, generator=g), torch.randn(batch * cameras, WIDTH, *image, generator=g)


def train_step(head, metadata: list[dict], x, x_img) -> dict[str, torch.Tensor]:
    """Losses of a batch, with the gradients left in the parameters."""
    head.train()
    outputs = head([x], [x_img], metadata)
    losses = head.loss([m["gt_bboxes_3d"] for m in metadata], [m["gt_labels_3d"] for m in metadata], outputs)
    sum(losses.values()).backward()
    return losses


def wake_router(head) -> None:
    """A new router gives weights of 0, and with them no bias: let it have an opinion."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        head.aqr.router.output.weight.normal_(std=0.5, generator=g)
        head.aqr.router.output.bias.normal_(generator=g)


def assert_finite_gradients(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name} got a gradient that is not finite"


def data_sample(count: int, cameras: np.ndarray, seed: int = 0, **meta) -> Det3DDataSample:
    sample = Det3DDataSample()
    sample.set_metainfo(dict(lidar2img=cameras, box_type_3d=LiDARInstance3DBoxes, **meta))
    truth = InstanceData()
    truth.bboxes_3d, truth.labels_3d = boxes(count, seed)
    sample.gt_instances_3d = truth
    return sample


NAMES = ("center", "height", "dim", "rot", "vel", "cls_logits")


def run(head, x, x_img, metadata):
    with torch.no_grad():
        return head.eval()([x], [x_img], metadata)[0][0]


def assert_equal_outputs(one, other, atol=1e-5):
    for name in NAMES:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
