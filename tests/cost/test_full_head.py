"""The full-size head on made-up features: its shapes are those of the configs, and it runs and learns."""

import pytest
import torch

from aqr_bench import compat
from aqr_bench.errors import UserError

compat.prepare()

from aqr_bench.cost.full_head import build_head, head_size, load_model_config, make_inputs  # noqa: E402

AQR = {"site": "cross", "bev_window": 5, "camera_window": 5, "router": "learned"}


@pytest.mark.parametrize(
    "name, bev, image, keys",
    [
        ("cmt_voxel0100_r50_800x320_cbgs", (512, 128, 128), (256, 20, 50), 22384),
        ("cmt_voxel0075_vov_1600x640_cbgs", (512, 180, 180), (256, 40, 100), 56400),
        ("cmt_lidar_voxel0075_cbgs", (512, 180, 180), None, 32400),
        ("cmt_camera_vov_1600x640_cbgs", None, (256, 40, 100), 24000),
        ("cmt_aqr_quick", (96, 40, 40), (64, 12, 22), 3184),
    ],
)
def test_shapes_are_those_of_the_config(name, bev, image, keys):
    size = head_size(load_model_config(name))
    assert (size.bev, size.image, size.keys) == (bev, image, keys)


def test_an_unknown_config_is_named():
    with pytest.raises(UserError, match=r"no model config 'cmt_aqr_quik'.*cmt_aqr_quick"):
        load_model_config("cmt_aqr_quik")


def test_bias_of_a_fresh_router_is_zero_so_both_heads_agree():
    config = load_model_config("cmt_aqr_quick")
    inputs = make_inputs(config, batch=2)
    plain, biased = (build_head(config, {"aqr": aqr}) for aqr in ({}, AQR))
    assert biased.aqr is not None and plain.aqr is None
    with torch.no_grad():
        result = [head(inputs.points, inputs.images, inputs.metas)[0][0]["center"] for head in (plain, biased)]
    assert result[0].shape == (2, 2, 144, 2)
    torch.testing.assert_close(*result, rtol=1e-4, atol=1e-4)


def test_the_head_learns_from_made_up_objects():
    config = load_model_config("cmt_aqr_quick")
    inputs = make_inputs(config, truth=True)
    head = build_head(config, {"aqr": AQR}).train()
    losses = head.loss(inputs.points, inputs.images, inputs.samples)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert head.aqr.router.output.weight.grad.abs().sum() > 0
