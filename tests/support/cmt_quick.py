"""The quick tier's model as configured, and random batches for it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from cmt_small import data_sample, ring
from mmdet3d.registry import MODELS
from mmengine.config import Config

import aqr_bench.cmt

QUICK = Path(aqr_bench.cmt.__file__).parent / "configs" / "cmt_aqr_quick_model.py"


def quick_model(**overrides):
    """The quick tier's model; overrides are dotted keys (with __ for the dot after ``model``'s parts)."""
    config = Config.fromfile(QUICK)
    config.merge_from_dict({key.replace("__", "."): value for key, value in overrides.items()})
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def cloud(count: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 5, generator=g)
    points[:, :2] = points[:, :2] * 80 - 40
    points[:, 2] = points[:, 2] * 6 - 4
    return points


def batch(objects=(5, 3), points=(3000, 2500), sizes=((96, 176), (96, 176)), cameras: int = 6) -> dict:
    """What mmdet3d's pseudo_collate hands to the data preprocessor."""
    g = torch.Generator().manual_seed(0)
    return dict(
        inputs=dict(
            points=[cloud(n, seed=i) for i, n in enumerate(points)],
            img=[torch.randint(0, 255, (cameras, 3, *s), generator=g, dtype=torch.uint8) for s in sizes],
        ),
        data_samples=[
            data_sample(n, ring(cameras, *s), seed=i) for i, (n, s) in enumerate(zip(objects, sizes, strict=True))
        ],
    )


def losses_of(model, data: dict) -> dict[str, torch.Tensor]:
    data = model.data_preprocessor(copy.deepcopy(data), training=True)
    return model.train()(**data, mode="loss")


def predictions_of(model, data: dict) -> list:
    data = model.data_preprocessor(copy.deepcopy(data), training=False)
    with torch.no_grad():
        return [sample.pred_instances_3d for sample in model.eval()(**data, mode="predict")]
