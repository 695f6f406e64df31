"""The standard tier's config is the quick one with more of everything, consistently."""

from __future__ import annotations

import copy

from mmdet3d.registry import MODELS
from mmengine.config import Config

from aqr_bench.study.model_files import CONFIGS


def numbers(node, path=""):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        yield path, list(node)
        for value in node:
            yield from numbers(value, path)


def test_nothing_of_the_quick_range_is_left():
    config = Config.fromfile(CONFIGS / "cmt_aqr_standard.py")
    parts = {k: config[k].to_dict() for k in ("model", "train_dataloader", "test_dataloader")}
    quick = ([-32.0, -32.0, -5.0, 32.0, 32.0, 3.0], [160, 160], [160, 160, 1], [96, 176])
    entries = list(numbers(parts))
    assert not [path for path, value in entries if value in quick]
    assert [path for path, value in entries if value == [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]]
    assert config.train_dataloader.batch_size == 4


def test_the_model_is_built_and_larger():
    standard, quick = (
        MODELS.build(copy.deepcopy(Config.fromfile(CONFIGS / f"cmt_aqr_{name}.py").model))
        for name in ("standard", "quick")
    )
    assert standard.pts_bbox_head.num_query == 400 and standard.pts_bbox_head.transformer.decoder.num_layers == 4
    sizes = [sum(p.numel() for p in model.parameters()) for model in (standard, quick)]
    assert sizes[0] > 2 * sizes[1]
