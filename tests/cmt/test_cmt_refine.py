"""Reference refinement and offset values: options of the small tiers, off in CMT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config

import aqr_bench.cmt
from aqr_bench.errors import UserError

QUICK = Path(aqr_bench.cmt.__file__).parent / "configs" / "cmt_aqr_quick_model.py"


def quick_head(**changes):
    config = Config.fromfile(QUICK).model
    head = {**config.pts_bbox_head, "train_cfg": None, **changes}
    torch.manual_seed(0)
    return MODELS.build(head).eval()


def inputs():
    g = torch.Generator().manual_seed(1)
    projection = torch.tensor([[80.0, 88, 0, 0], [0, 48, -80, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).double().numpy()
    meta = dict(lidar2img=[projection] * 6, pad_shape=[(96, 176, 3)] * 6)
    return [torch.randn(1, 96, 48, 48, generator=g)], [torch.randn(6, 64, 6, 11, generator=g)], [meta]


def test_one_layer_of_the_task_head_is_that_layer_of_all():
    head = quick_head().task_heads[0]
    x = torch.randn(2, 3, 7, 64)
    all_layers = head(x)
    for layer in range(2):
        for name, value in head.one_layer(x[layer], layer, ("center", "dim")).items():
            torch.testing.assert_close(value, all_layers[name][layer])


def test_offsets_of_a_layer_start_at_the_centre_that_the_layer_before_predicted():
    head = quick_head()
    with torch.no_grad():
        # Layer 1 (channels 2 and 3 of the grouped convolution) is made to predict no offset at all.
        head.task_heads[0].center[-1].weight[2:] = 0
        head.task_heads[0].center[-1].bias[2:] = 0
        centre = head(*inputs())[0][0]["center"]
        start = head.reference_points.weight[:, :2] * 64.0 - 32.0
    torch.testing.assert_close(centre[1], centre[0].clamp(-32.0, 32.0))
    assert (centre[0] - start).abs().max() > 0.01


def test_without_refinement_all_layers_start_at_the_reference():
    head = quick_head(refine_reference=False)
    with torch.no_grad():
        head.task_heads[0].center[-1].weight[2:] = 0
        head.task_heads[0].center[-1].bias[2:] = 0
        centre = head(*inputs())[0][0]["center"]
        start = head.reference_points.weight[:, :2] * 64.0 - 32.0
    torch.testing.assert_close(centre[1, 0], start, atol=1e-3, rtol=0)


@pytest.mark.parametrize("changes", [{"centre_offset": "logit"}, {"locality": None}])
def test_refinement_says_what_it_needs(changes):
    with pytest.raises(UserError, match="refine_reference needs"):
        quick_head(**changes)


def test_offset_values_need_the_prior():
    with pytest.raises(ValueError, match="offset_values needs the head's locality prior"):
        quick_head(locality=None, refine_reference=False)(*inputs())
