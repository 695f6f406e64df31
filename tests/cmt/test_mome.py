"""MoME: the official names, shapes and numbers (konyul/MoME at ddbec03), its two stages, and its corrected form."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import torch
from cmt_official import fill, generator
from cmt_small import features, metas, small_mome, train_step, with_truth
from mmdet3d.registry import MODELS
from mmengine.config import Config

import aqr_bench.cmt  # noqa: F401  (registers)
from aqr_bench.bias import biased_attention
from aqr_bench.bias.windows import WindowBias
from aqr_bench.engine.router_log import RouterLog
from aqr_bench.errors import UserError
from aqr_bench.sensor_state import SensorState
from aqr_bench.study.model_files import CONFIGS

OUTPUTS = ("center", "height", "dim", "rot", "vel", "cls_logits")
ATOL, ATOL_METRES = 2e-5, 1e-4  # float32; center and height are in metres
EXPERTS = ("fused", "bev", "img")
MOAD = "moad_voxel0075_vov_1600x640_cbgs"


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


def head_of(name: str, **changes):
    model = load(name).model
    pts = dict(train_cfg=model.train_cfg.pts, test_cfg=model.test_cfg.pts)
    return MODELS.build({**model.pts_bbox_head, **pts, "num_query": 50, **changes})


# ------------------------------------------------------------------ golden numbers


@pytest.mark.parametrize("sample", [0, 1])
def test_the_head_gives_the_official_outputs(shared, sample):
    """Sample 1 where its file is there. The official head routes one sample at a time."""
    path = shared / "reference" / "golden" / f"mome_head_small_sample{sample}.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    with np.load(path) as file:
        golden = dict(file)
    head = fill(head_of("mome")).eval()
    encoder = head.transformer.encoder.layers[0].attentions[0].attn.in_proj_weight.double()
    assert encoder.sum().item() == pytest.approx(-34.173353, abs=1e-3)
    assert encoder.abs().sum().item() == pytest.approx(7848.847862, abs=1e-3)
    np.testing.assert_array_equal(head.reference_points.weight.detach(), golden["reference_points"])
    at = slice(sample, sample + 1)
    x = torch.randn(2, 512, 180, 180, generator=generator("input.x"))[at]
    x_img = torch.randn(12, 256, 40, 100, generator=generator("input.x_img"))[6 * sample : 6 * sample + 6]
    metas = [dict(lidar2img=golden["lidar2img"][sample], pad_shape=[(640, 1600, 3)] * 6)]

    seen = {}
    head.transformer.encoder.register_forward_hook(lambda _, args, out: seen.update(encoder=(args, out)))
    with torch.no_grad():
        outputs = head([x], [x_img], metas)[0][0]
    args, encoded = seen["encoder"]
    visible = np.unpackbits(golden["visible_packed"], axis=-1)[..., :56400].astype(bool)
    np.testing.assert_array_equal(args[4](0, None, None).cross_bias.dense() == 0, visible)
    np.testing.assert_allclose(encoded.states_LBQC[-1], golden["encoder_out"], atol=ATOL, rtol=0)
    logits = outputs["aqr"][0].logits_BQO
    np.testing.assert_allclose(logits, golden["routing_logits"], atol=ATOL, rtol=0)
    np.testing.assert_array_equal(outputs["expert"], golden["routing_argmax"])
    rows = golden[f"sample{sample}.kept"].nonzero()[0]  # expert by expert
    assert (outputs["expert"][0].numpy()[rows % 50] == rows // 50).all() and len(rows) == 50
    for name in OUTPUTS:
        atol = ATOL_METRES if name in ("center", "height") else ATOL
        expected = golden[f"sample{sample}.out.{name}_last"]
        np.testing.assert_allclose(outputs[name][-1][:, rows % 50], expected, atol=atol, rtol=0, err_msg=name)


# ------------------------------------------------------------------ names, shapes, values


def manifest(shared, name: str) -> dict[str, tuple[str, str, str]]:
    with open(shared / "reference" / "official_state_dict" / f"{name}.csv") as file:
        return {row["name"]: (row["shape"], row["dtype"], row["kind"]) for row in csv.DictReader(file)}


def test_the_state_dicts_of_both_stages_equal_the_official_manifest(shared):
    expected = manifest(shared, "mome.full")
    sparse = manifest(shared, "component.pts_middle_encoder.sparse_encoder.spconv2_layout")
    expected.update({key: sparse[key] for key in expected if key in sparse})
    router = set(manifest(shared, "mome.aqr_only"))
    with torch.device("meta"):
        models = {name: MODELS.build(load(name).model) for name in (MOAD, "mome")}
    actual = {}
    for name, model in models.items():
        parameters = dict(model.named_parameters())
        actual[name] = {
            key: (
                "x".join(map(str, value.shape)) or "scalar",
                str(value.dtype).removeprefix("torch."),
                "param" if key in parameters else "buffer",
            )
            for key, value in model.state_dict().items()
        }
    assert actual["mome"] == expected and list(actual["mome"]) == list(expected)
    first_stage = {key: value for key, value in expected.items() if key not in router}
    assert actual[MOAD] == first_stage and list(actual[MOAD]) == list(first_stage)
    learnt = {key for key, parameter in models["mome"].train().named_parameters() if parameter.requires_grad}
    assert learnt == router
    assert all(parameter.requires_grad for parameter in models[MOAD].train().parameters())


def test_values_of_the_configs_are_the_official_ones():
    vov, moad, mome = load("cmt_voxel0075_vov_1600x640_cbgs"), load(MOAD), load("mome")
    shared_keys = [key for key in vov.model if key not in ("pts_bbox_head", "frozen")]
    for config in (moad, mome):
        assert all(config.model[key] == vov.model[key] for key in shared_keys)
        same = [key for key in vov.model.pts_bbox_head if key not in ("type", "transformer")]
        assert all(config.model.pts_bbox_head[key] == vov.model.pts_bbox_head[key] for key in same)
        transformer = config.model.pts_bbox_head.transformer
        assert transformer.decoder == vov.model.pts_bbox_head.transformer.decoder
        assert transformer.use_type_embed and transformer.use_cam_embed
        assert config.optim_wrapper == vov.optim_wrapper and config.train_dataloader.batch_size == 2
        assert config.test_dataloader == vov.test_dataloader
    of_cmt, first, second = ([s.type for s in c.train_dataloader.dataset.dataset.pipeline] for c in (vov, moad, mome))
    assert first == [step for step in of_cmt if step != "SensorDropout"]
    assert second == [step for step in of_cmt if step != "UnifiedObjectSample"]
    assert moad.train_cfg.max_epochs == 20 and [s.eta_min_ratio for s in moad.param_scheduler[:2]] == [6.0, 1e-4]
    assert any(hook.type == "StopObjectSample" for hook in moad.custom_hooks)
    assert mome.train_cfg.max_epochs == 6 and not any(hook.type == "StopObjectSample" for hook in mome.custom_hooks)
    warmup, cosine = mome.param_scheduler[:2]
    assert (warmup.type, warmup.start_factor, warmup.end, warmup.by_epoch) == ("LinearLR", 0.1, 1000, False)
    assert (cosine.type, cosine.T_max, cosine.eta_min_ratio) == ("CosineAnnealingLR", 6, 1e-3)
    encoder = mome.model.pts_bbox_head.transformer.encoder
    assert encoder.num_layers == 1 and encoder.transformerlayers.attn_cfgs[0].num_heads == 4
    assert mome.model.pts_bbox_head.transformer.window_sizes == [15, 5] and mome.model.pts_bbox_head.official_quirks


# ------------------------------------------------------------------ small heads


def always(head, expert: str):
    with torch.no_grad():
        head.transformer.selected_cls.bias.copy_(torch.tensor([100.0 * (name == expert) for name in EXPERTS]))
    return head


@torch.no_grad()
def predict(head, samples, x, x_img) -> dict:
    return head.eval()([x], [x_img], samples)[0][0]


@pytest.mark.parametrize("quirks", [False, True])
def test_a_batch_of_two_gives_what_its_samples_give_alone(quirks):
    head, (x, x_img), samples = small_mome(official_quirks=quirks), features(2), metas(2)
    torch.nn.init.ones_(head.transformer.decoder.post_norm.bias)  # or rounding decides which sums are exactly 0
    both = predict(head, samples, x, x_img)
    assert len(both["expert"].unique()) == 3
    for i in range(2):
        alone = predict(head, samples[i : i + 1], x[i : i + 1], x_img[3 * i : 3 * i + 3])
        assert torch.equal(alone["expert"][0], both["expert"][i])
        for name in OUTPUTS:
            torch.testing.assert_close(alone[name][:, 0], both[name][:, i], atol=1e-5, rtol=1e-5)


def test_a_query_is_decoded_by_its_expert_alone():
    """Of each expert: no effect of the other sensor, and none of queries that went elsewhere."""
    x, x_img = features(1)
    for expert, unused in (("bev", "images"), ("img", "points"), ("fused", None)):
        head = always(small_mome(), expert)
        before = predict(head, metas(1), x, x_img)
        assert (before["expert"] == EXPERTS.index(expert)).all()
        moved = {"points": predict(head, metas(1), x + 1, x_img), "images": predict(head, metas(1), x, x_img + 1)}
        for sensor, after in moved.items():
            assert torch.equal(before["cls_logits"], after["cls_logits"]) == (sensor == unused)
    head = small_mome()
    expert_BQ = predict(head, metas(1), x, x_img)["expert"]
    decoded = {}
    head.transformer.register_forward_hook(lambda _, args, out: decoded.update({args[0].query_pos_BQC.shape[1]: out}))
    predict(head, metas(1), x, x_img)
    assert sorted(decoded) == sorted({int((expert_BQ == i).sum()) for i in range(3)} - {0})


def test_the_log_of_the_router_has_the_weights_of_each_expert():
    head, (x, x_img) = small_mome(), features(2)
    with RouterLog(head) as log:
        expert_BQ = predict(head, metas(2), x, x_img)["expert"]
    weights = np.array([[1, 1], [1, -1], [-1, 1]])  # LiDAR and camera of fused, bev, img
    np.testing.assert_array_equal(log.arrays()["weight"], weights[expert_BQ])
    assert not RouterLog(small_mome(routes=False)).head


def test_an_expert_without_keys_is_never_chosen():
    head, (x, x_img) = always(small_mome(), "bev"), features(1)
    assert not (predict(head, metas(1), None, x_img)["expert"] == EXPERTS.index("bev")).any()
    assert not (predict(always(head, "img"), metas(1), x, None)["expert"] == EXPERTS.index("img")).any()


def test_without_a_router_the_fused_expert_decodes_all():
    first, (x, x_img) = small_mome(routes=False), features(2)
    second = always(small_mome(), "fused")
    second.load_state_dict(first.state_dict(), strict=False)
    one, other = predict(first, metas(2), x, x_img), predict(second, metas(2), x, x_img)
    torch.testing.assert_close(one["cls_logits"], other["cls_logits"], atol=1e-5, rtol=1e-5)


def test_a_query_is_left_out_where_its_features_sum_to_zero_and_only_with_the_quirks():
    x, x_img = features(1)
    for quirks in (True, False):
        head = small_mome(official_quirks=quirks)
        for parameter in head.transformer.decoder.post_norm.parameters():
            torch.nn.init.zeros_(parameter)
        logits = predict(head, metas(1), x, x_img)["cls_logits"]
        assert bool((logits.sigmoid() == 0).all()) is quirks and logits.isfinite().all()


def test_a_bias_acts_inside_every_expert():
    x, x_img = features(2)
    head = small_mome(aqr=dict(site="cross", router="constant", bev_window=3, camera_window=3, scale=5.0))
    biased = predict(head, metas(2), x, x_img)
    head.aqr = None
    plain = predict(head, metas(2), x, x_img)
    assert torch.equal(biased["expert"], plain["expert"])
    changed = (biased["cls_logits"] != plain["cls_logits"]).any(-1).any(0)
    assert all(changed[plain["expert"] == i].any() for i in range(3))


# ------------------------------------------------------------------ training in two stages


def test_the_first_stage_trains_every_expert_on_all_queries_and_no_router():
    for head in (small_mome(routes=False), small_mome(stage="experts")):
        losses = train_step(head, with_truth(metas(2), [3, 2]), *features(2))
        assert {f"{d}{dn}loss_{kind}_{name}" for d in ("", "d0.") for dn in ("", "dn_") for kind in ("cls", "bbox")
                for name in EXPERTS} == set(losses)  # fmt: skip
        for name, parameter in head.named_parameters():
            assert (parameter.grad is None) == ("encoder" in name or "selected_cls" in name), name


def test_the_second_stage_trains_the_router_alone():
    head = small_mome()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    samples = with_truth(metas(2), [3, 2])
    samples[1]["sensor_state"] = SensorState.NO_CAMERAS
    losses = train_step(head, samples, *features(2))
    assert list(losses) == ["loss_router"] and torch.isfinite(losses["loss_router"])
    for name, parameter in head.named_parameters():
        learns = "transformer.encoder" in name or "selected_cls" in name
        assert parameter.requires_grad is learns and (parameter.grad is not None) is learns, name
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())  # no batch statistics
    assert head.transformer.encoder.training and not head.transformer.decoder.training
    always(head, "bev")
    unsure = head.train()([features(2)[0]], [features(2)[1]], samples)
    loss = head.loss_by_feat([], [], unsure)["loss_router"].item()
    assert loss == pytest.approx(50, abs=15)  # 100 for the sample that has all its sensors, 0 for the other


def test_dropout_of_a_hard_window_keeps_the_mean():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 4, generator=g) for n in (3, 30, 30))
    index = torch.stack([torch.randperm(30, generator=g)[:6] for _ in range(3)])[None]
    valid = torch.ones(1, 3, 6, dtype=torch.bool)
    valid[0, 0, 4:], valid[0, 2] = False, False  # a row without any key gives zeros
    bias = WindowBias(index, valid, torch.zeros(1, 3, 6), 30, hard=True)
    torch.manual_seed(0)
    mean = sum(biased_attention(q, k, v, bias=bias, dropout_p=0.1) for _ in range(500)) / 500
    exact = biased_attention(q, k, v, bias=bias)
    torch.testing.assert_close(mean, exact, atol=0.1, rtol=0)
    assert not exact[:, :, 2].any() and not mean[:, :, 2].any()
    assert not torch.equal(biased_attention(q, k, v, bias=bias, dropout_p=0.1), exact)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "routers"}, "stage is 'routers'; known for this transformer: experts, router"),
        ({"routes": False, "stage": "router"}, "stage is 'router'; known for this transformer: experts"),
        ({"modalities": {"test": ["fused"]}}, "modalities.test is"),
        ({"pc_range": [0, 0, 0, 1, 1, 1]}, "pc_range is"),
    ],
)
def test_what_the_head_cannot_do_is_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small_mome(**changes)
