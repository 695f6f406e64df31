"""The head of a model config at full size, on random features: no backbone, data set or checkpoint is needed.

So the cost of the decoder and its bias can be measured on any machine. mmdet3d builds the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aqr_bench.cost.cameras import ring_of_cameras
from aqr_bench.errors import UserError, nearest
from aqr_bench.study.model_files import CONFIGS

CAMERAS, VIEW_DEG = 6, 70.0  # neighbours overlap a little, as nuScenes' cameras do
OBJECTS = 30  # per sample, in training


@dataclass(frozen=True)
class HeadSize:
    """Shapes of the inputs of a config's head. ``bev``, ``image``: (channels, rows, columns); ``pixels``: (h, w)."""

    bev: tuple[int, int, int] | None
    image: tuple[int, int, int] | None
    pixels: tuple[int, int] | None
    queries: int
    layers: int

    @property
    def keys(self) -> int:
        """Tokens of the memory, K."""
        bev = 0 if self.bev is None else math.prod(self.bev[1:])
        return bev + (0 if self.image is None else CAMERAS * math.prod(self.image[1:]))


@dataclass(frozen=True)
class HeadInputs:
    """Arguments of the head: features of ``batch`` samples, and data samples with cameras and optional truth."""

    points: list[Tensor | None]
    images: list[Tensor | None]
    samples: list[Any]

    @property
    def metas(self) -> list[dict]:
        """Metadata as the head's ``forward`` takes it."""
        from aqr_bench.cmt.geometry import metas_of

        return metas_of(self.samples, with_truth="gt_instances_3d" in self.samples[0])


def load_model_config(name: str) -> Any:
    """The config called ``name`` in aqr_bench/cmt/configs; UserError if there is none."""
    from mmengine.config import Config

    if not (CONFIGS / f"{name}.py").is_file():
        known = [p.stem for p in CONFIGS.glob("*.py")]
        raise UserError(f"no model config '{name}' in aqr_bench/cmt/configs{nearest(name, known)}")
    return Config.fromfile(CONFIGS / f"{name}.py", import_custom_modules=False)


def head_size(config: Any) -> HeadSize:
    """Shapes of the features that the config's backbones give its head."""
    head, kind = config.model.pts_bbox_head, str(config.model.pts_bbox_head.type)
    bev = image = pixels = None
    if kind != "CmtImageHead":
        columns, rows = config.model.test_cfg.pts.grid_size[:2]
        stride = head.downsample_scale
        bev = (head.in_channels, rows // stride, columns // stride)
    if kind != "CmtLidarHead":
        pixels = _image_size(config.test_dataloader.dataset.pipeline)
        stride = _image_stride(config.model.img_backbone)
        image = (head.hidden_dim, math.ceil(pixels[0] / stride), math.ceil(pixels[1] / stride))
    return HeadSize(bev, image, pixels, head.num_query, head.transformer.decoder.num_layers)


def build_head(config: Any, changes: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
    """The config's head with initial weights, in eval mode; ``changes`` are arguments to set (``aqr``, ...).

    Heads of the same seed have equal weights where they have the same parts.
    """
    from aqr_bench import compat

    compat.prepare()
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    import aqr_bench.cmt  # noqa: F401
    from aqr_bench.cmt.build import build_model

    init_default_scope("mmdet3d")
    parts = dict(config.model.pts_bbox_head, **dict(changes or {}))
    parts.update(train_cfg=config.model.train_cfg.pts, test_cfg=config.model.test_cfg.pts)
    torch.manual_seed(seed)
    head = build_model(ConfigDict(parts))  # the router is built last
    torch.manual_seed(seed)
    head.init_weights()
    return head.eval()


def make_inputs(config: Any, batch: int = 1, truth: bool = False, device: str = "cpu", seed: int = 0) -> HeadInputs:
    """Normally distributed features, a ring of cameras, and with ``truth`` boxes of random objects."""
    from mmdet3d.structures import Det3DDataSample

    size, generator = head_size(config), torch.Generator().manual_seed(seed)

    def features(shape: tuple[int, int, int] | None, count: int) -> list[Tensor | None]:
        return [None if shape is None else torch.randn(count, *shape, generator=generator).to(device)]

    samples = []
    for _ in range(batch):
        sample = Det3DDataSample()
        if size.pixels is not None:
            views = ring_of_cameras(CAMERAS, size.pixels, VIEW_DEG).numpy()
            sample.set_metainfo({"lidar2img": list(views), "pad_shape": [(*size.pixels, 3)] * CAMERAS})
        if truth:
            sample.gt_instances_3d = _objects(config, generator, device)
        samples.append(sample)
    return HeadInputs(features(size.bev, batch), features(size.image, batch * CAMERAS), samples)


def _image_size(pipeline: list) -> tuple[int, int]:
    for step in pipeline:
        if step["type"] == "ResizeCropFlipImage":
            return tuple(step["data_aug_conf"]["final_dim"])
        if step["type"] == "ResizeViews":
            return tuple(step["size"])
    raise UserError("the test pipeline has neither ResizeCropFlipImage nor ResizeViews: the image size is unknown")


def _image_stride(backbone: Any) -> int:
    """Pixels per token: of the first output level of the backbone, which the head reads."""
    if backbone.type == "VoVNet":
        return 2 ** int(backbone.out_features[0].removeprefix("stage"))
    first = backbone.out_indices[0]
    return 4 * math.prod(backbone.get("strides", (1, 2, 2, 2))[: first + 1])


def _objects(config: Any, generator: torch.Generator, device: str) -> Any:
    """Boxes of two to six metres all over the range, bottom centres on the ground, and their classes."""
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    head = config.model.pts_bbox_head
    low, high = (torch.tensor(head.bbox_coder.pc_range[i : i + 2]) for i in (0, 3))
    numbers = torch.rand(OBJECTS, 9, generator=generator)
    numbers[:, :2] = low + numbers[:, :2] * (high - low)
    numbers[:, 2] = -1.8
    numbers[:, 3:6] = numbers[:, 3:6] * torch.tensor([4.0, 1.0, 1.0]) + torch.tensor([2.0, 1.0, 1.0])
    numbers[:, 6] = (numbers[:, 6] * 2 - 1) * math.pi
    labels = torch.randint(sum(task.num_class for task in head.tasks), (OBJECTS,), generator=generator)
    boxes = LiDARInstance3DBoxes(numbers.to(device), box_dim=9)
    return InstanceData(bboxes_3d=boxes, labels_3d=labels.to(device))
