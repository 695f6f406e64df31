"""Models that are built for their structure alone: no weights are loaded, and none downloaded."""

from __future__ import annotations

from mmengine.config import ConfigDict

from aqr_bench.engine.third_party import without_pretrained


def test_files_of_weights_are_left_out_at_every_level_and_all_else_stays():
    swin = dict(type="Pretrained", checkpoint="https://example.org/swin.pth")
    normal = dict(type="Kaiming", layer="Conv2d")
    model = ConfigDict(
        type="A",
        backbone=dict(type="B", init_cfg=swin, depths=(2, 6)),
        heads=[dict(type="C", init_cfg=[normal, swin]), dict(type="D", init_cfg=normal)],
        init_cfg=None,
    )
    changed = without_pretrained(model)
    assert changed == dict(
        type="A",
        backbone=dict(type="B", depths=(2, 6)),
        heads=[dict(type="C"), dict(type="D", init_cfg=normal)],
        init_cfg=None,
    )
    assert changed.backbone.depths == (2, 6), "parts are read by attributes, and tuples stay"
    assert model.backbone.init_cfg == swin, "the config that is hashed and recorded stays as it was"
