"""Every axis that a study can vary, as a variant's config: it builds, trains one step, and does what it says."""

from __future__ import annotations

import pytest
import torch
from cmt_small import assert_finite_gradients, features, metas, small_head, train_step, wake_router, with_truth
from mmengine.config import Config

from aqr_bench.bias import BACKENDS, AttentionBias
from aqr_bench.engine.config import _merge
from aqr_bench.errors import UserError
from aqr_bench.study.load import known_studies, load_study, load_tier
from aqr_bench.study.model_files import CONFIGS
from aqr_bench.study.overrides import check_overrides
from aqr_bench.study.schedule import variant_schedule

BASE = dict(site="cross", bev_window=3, camera_window=3, ffn_dims=32)
AXES = {
    "site": [dict(site=s) for s in ("none", "cross", "self", "both")],
    "scale": [dict(min_scale=0.0, max_scale=1.0), dict(scale=3.0, learnable_scale=False)],
    "window": [dict(bev_window=b, camera_window=c) for b, c in ((1, 1), (9, 9), (15, 15), (5, 0), (0, 5), (5, 15))],
    "profile": [dict(profile=p) for p in ("uniform", "gaussian", "hard")],
    "router": [
        dict(router="learned"),
        dict(supervision="modality"),
        dict(router="oracle"),
        dict(router="constant"),
        dict(router_bev_window=5, router_camera_window=15),
        dict(router_pool=2),
    ],
    "routing": [dict(routing="mask", supervision="modality"), dict(routing="mask", router="oracle")],
    "layers": [dict(layers=layer) for layer in ("all", "first", "last")],
}
CASES = [(axis, options) for axis, values in AXES.items() for options in values]


@pytest.mark.parametrize(("axis", "options"), CASES, ids=lambda x: str(x).replace(" ", ""))
def test_every_axis_trains(axis, options):
    head = small_head(aqr={**BASE, **options})
    if head.aqr.router is not None:
        wake_router(head)
    x, x_img = features(2)
    metadata = [dict(m, sensor_state=s) for m, s in zip(with_truth(metas(2), [3, 1]), (0, 1), strict=True)]
    losses = train_step(head, metadata, x, x_img)
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert ("loss_router" in losses) == (options.get("supervision") == "modality")
    if options.get("site") != "none":  # a router whose output nobody reads has no gradient
        assert_finite_gradients(head)


@pytest.mark.parametrize(
    "options", [o for _, o in CASES if o.get("site") != "none"], ids=lambda x: str(x).replace(" ", "")
)
def test_every_bias_changes_the_prediction(options):
    """Against the same weights without a bias. A constant or oracle router needs no training to have an effect."""
    x, x_img = features(2)
    samples = [dict(m, sensor_state=1) for m in metas(2)]
    with torch.no_grad():
        head = small_head(aqr={**BASE, **options})
        if head.aqr.router is not None:
            wake_router(head)
        biased = head.eval()([x], [x_img], samples)[0][0]["cls_logits"]
        head.aqr = None
        plain = head([x], [x_img], samples)[0][0]["cls_logits"]
    difference = (biased - plain).abs().amax((1, 2, 3))  # by layer
    assert difference[-1] > 1e-5
    # Queries start at zero, so in the first layer the values of self-attention are all equal, whatever the weights.
    assert (difference[0] > 1e-5) == (options.get("layers") != "last" and options.get("site") != "self")


def test_a_bias_that_can_change_nothing_is_refused():
    with pytest.raises(UserError, match="site 'self' with layers 'first' changes nothing"):
        small_head(aqr={**BASE, "site": "self", "layers": "first"})


def test_sensor_dropout_is_set_by_the_name_of_its_step():
    config = Config.fromfile(CONFIGS / "cmt_aqr_quick.py")
    key = "train_dataloader.dataset.pipeline.SensorDropout"
    _merge(config, {f"{key}.lidar": 0.0, f"{key}.cameras": 0.5, "model.pts_bbox_head.aqr": dict(site="self")})
    step = next(s for s in config.train_dataloader.dataset.pipeline if s["type"] == "SensorDropout")
    assert (step["lidar"], step["cameras"]) == (0.0, 0.5)
    assert config.model.pts_bbox_head.aqr == dict(site="self")


@pytest.mark.parametrize("name", known_studies())
def test_every_variant_of_a_shipped_study_is_a_model_that_can_be_built(name):
    """On the quick tier: no key that the config lacks, no option that the head refuses."""
    tier, study = load_tier("quick"), load_study(name)
    for variant in study.variants:
        config = Config.fromfile(CONFIGS / f"{tier.model}.py")
        overrides = variant_schedule(tier, study, variant).config
        check_overrides(config.to_dict(), overrides, study.path)
        _merge(config, overrides)
        aqr = config.model.pts_bbox_head.aqr
        assert not aqr or AttentionBias(64, **aqr).site in ("cross", "self", "both"), variant
        assert config.model.pts_bbox_head.get("attention_backend", "auto") in BACKENDS
