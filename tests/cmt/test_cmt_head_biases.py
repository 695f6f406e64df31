"""The optional biases of the head: off by default, learnt through the loss, the same with every backend."""

from __future__ import annotations

import sys

import pytest
import torch
from cmt_small import (
    assert_equal_outputs,
    assert_finite_gradients,
    features,
    metas,
    run,
    small_head,
    train_step,
    wake_router,
    with_truth,
)

from aqr_bench.bias.attention import cell_groups
from aqr_bench.bias.attention.window_cells import CellGeometry
from aqr_bench.records.code_dependencies import PACKAGE, code_parts

AQR = dict(site="both", bev_window=3, camera_window=3, ffn_dims=32)
LOCALITY = dict(bev_sigma=4.0, angle_sigma=0.3)


def test_biases_are_off_by_default_and_have_separate_prefixes():
    plain, biased = small_head(), small_head(aqr=AQR, locality=LOCALITY)
    names, more = set(plain.state_dict()), set(biased.state_dict())
    assert plain.aqr is None and plain.locality is None and names < more
    extra = {name.split(".")[0] for name in more - names}
    assert extra == {"aqr", "locality"}
    only = set(small_head(aqr=AQR).state_dict()) - names
    assert only and all(name.startswith("aqr.") for name in only)


@pytest.mark.parametrize("options", [{}, dict(locality=LOCALITY)], ids=["plain", "local"])
def test_plain_cmt_runs_no_code_that_does_not_count_for_its_results(options):
    left_out = set(code_parts("train")) - set(code_parts("train", "cmt_aqr_quick", {}))
    left_out = {str(PACKAGE / file) for file in left_out}
    head, called = small_head(**options), set()
    sys.setprofile(lambda frame, event, argument: called.add(frame.f_code.co_filename))
    try:
        train_step(head, with_truth(metas(2), [4, 3]), *features(2))
        run(head, *features(2), metas(2))
    finally:
        sys.setprofile(None)
    assert str(PACKAGE / "bias/generator.py") in left_out and str(PACKAGE / "cmt/head.py") in called
    assert not called & left_out


def test_the_router_learns_through_the_detection_loss():
    head = small_head(aqr=dict(AQR, site="cross"))
    with torch.no_grad():  # the router's last layer starts at zero: give it something to learn from
        head.aqr.router.output.weight.normal_(generator=torch.Generator().manual_seed(0))
    losses = train_step(head, with_truth(metas(2), [4, 3]), *features(2))
    assert "loss_router" not in losses
    assert_finite_gradients(head)
    assert head.aqr.scale.grad.abs() > 0
    assert all(p.grad.abs().max() > 0 for n, p in head.aqr.named_parameters() if n.endswith("weight"))


def test_a_fresh_router_leaves_a_trained_model_as_it_was():
    plain, biased = small_head(), small_head(aqr=AQR)
    missing, unexpected = biased.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("aqr.") for name in missing)
    x, x_img = features(2)
    assert_equal_outputs(run(plain, x, x_img, metas(2)), run(biased, x, x_img, metas(2)))


def test_the_sensor_state_of_the_metadata_reaches_the_router():
    head = small_head(aqr=dict(AQR, supervision="modality"))
    x, x_img = features(2)
    metadata = with_truth(metas(2), [4, 3])
    metadata[1]["sensor_state"] = 1
    losses = train_step(head, metadata, x, x_img)
    assert losses["loss_router"] > 0
    outputs = head.eval()([x], [x_img], metadata)[0][0]
    assert outputs["aqr"][1].tolist() == [0, 1]
    oracle = small_head(aqr=dict(AQR, router="oracle", site="cross", bev_window=5))
    clean = run(oracle, x, x_img, metas(2))
    dropped = metas(2)
    dropped[1]["sensor_state"] = 1
    changed = run(oracle, x, x_img, dropped)
    assert torch.equal(clean["cls_logits"][:, 0], changed["cls_logits"][:, 0])
    assert not torch.allclose(clean["cls_logits"][:, 1], changed["cls_logits"][:, 1])


@pytest.mark.parametrize("site", ["cross", "self"])
def test_bias_of_zero_scale_changes_nothing_and_of_any_other_does(site):
    """Also where queries and keys are equal in number: the layer knows its role without comparing lengths."""
    plain = small_head(num_query=16)
    x, x_img = features(1, cameras=1, bev=(3, 3), image=(1, 7))  # 9 + 7 = 16 keys, 16 queries
    for scale, same in ((0.0, True), (3.0, False)):
        biased = small_head(
            num_query=16, aqr=dict(AQR, site=site, router="constant", scale=scale, min_scale=0.0, camera_window=1)
        )
        biased.load_state_dict(plain.state_dict(), strict=False)
        a, b = (run(h, x, x_img, metas(1, cameras=1)) for h in (plain, biased))
        assert torch.allclose(a["cls_logits"], b["cls_logits"], atol=1e-5) is same


def test_bias_can_be_limited_to_the_last_layer():
    x, x_img = features(1)
    plain = small_head()
    last = small_head(aqr=dict(AQR, router="constant", layers="last", scale=3.0))
    last.load_state_dict(plain.state_dict(), strict=False)
    a, b = (run(h, x, x_img, metas(1))["cls_logits"] for h in (plain, last))
    torch.testing.assert_close(a[0], b[0])
    assert not torch.allclose(a[1], b[1], atol=1e-4)


def test_the_attention_backends_agree():
    x, x_img = features(2)
    backends = ("literal", "auto", "masked", "window", "flex", "tiled")
    heads = [small_head(aqr=AQR, locality=LOCALITY, attention_backend=b) for b in backends]
    for head in heads:
        wake_router(head)
    literal, *others = (run(h, x, x_img, metas(2)) for h in heads)
    for other in others:
        assert_equal_outputs(literal, other)


@pytest.mark.parametrize("profile", ["uniform", "hard"])
def test_the_attention_backends_train_alike(profile):
    """With denoising queries, whose mask the bias of self-attention comes on top of; router and scale included."""
    gradients = {}
    for backend in ("literal", "masked", "window", "tiled"):
        head = small_head(aqr={**AQR, "site": "both", "profile": profile}, attention_backend=backend)
        wake_router(head)
        torch.manual_seed(7)
        x, x_img = features(2)
        losses = train_step(head, with_truth(metas(2), [3, 1]), x, x_img)
        gradients[backend] = (losses, {name: p.grad for name, p in head.named_parameters()})
    assert gradients["literal"][1]["aqr.scale"].abs() > 0
    for backend in ("masked", "window", "tiled"):
        for value, reference in zip(gradients[backend], gradients["literal"], strict=True):
            torch.testing.assert_close(value, reference, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("masked", {}),
        ("literal", {}),
        ("masked", dict(profile="hard")),
        ("auto", dict(site="cross", router="oracle", routing="mask")),
    ],
)
def test_a_bias_acts_in_half_precision_attention(backend, changes):
    """Windows, hard windows and masks of sensors, with gradients: as in float32, to rounding."""
    gradients = []
    for dtype in ("float32", "bfloat16"):
        head = small_head(aqr={**AQR, **changes}, attention_backend=backend, attention_dtype=dtype)
        if head.aqr.router is not None:
            wake_router(head)
        train_step(head, with_truth(metas(2), [4, 3]), *features(2))
        assert_finite_gradients(head)
        gradients.append(torch.cat([p.grad.flatten() for p in head.transformer.parameters()]))
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("backend", "profile", "times"),
    [("masked", "uniform", 2), ("window", "uniform", 4), ("window", "hard", 5)],  # LiDAR, two views at most; groups
)
def test_cells_are_ordered_once_for_all_layers_and_both_passes(backend, profile, times, monkeypatch):
    ordered = []
    for owner, name in ((CellGeometry, "_order"), (cell_groups, "_make_groups")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, make=make: ordered.append(args) or make(*args))
    counts = []
    for layers in (1, 3):
        head = small_head(layers=layers, aqr={**AQR, "site": "cross", "profile": profile}, attention_backend=backend)
        ordered.clear()
        train_step(head, with_truth(metas(2), [4, 3]), *features(2))
        counts.append(len(ordered))
    assert counts[0] == counts[1] <= times


@pytest.mark.parametrize(("locality", "stored"), [({}, True), (LOCALITY, False)])
def test_backend_tiled_gets_its_keys_in_patches_once_for_all_layers(locality, stored):
    head, calls = small_head(aqr=dict(AQR, layers="last"), locality=locality, attention_backend="tiled"), []
    plain = small_head()
    plain.load_state_dict(head.state_dict(), strict=False)
    for each in (head, plain):
        each.transformer.decoder.layers[-1].register_forward_pre_hook(lambda _, args: calls.append(args))
        run(each, *features(1), metas(1))
    (_, _, tokens, positions, _, bias, _), (_, _, plain_tokens, plain_positions, *_) = calls
    assert bias.cross_bias.in_patches == stored
    for ours, theirs in ((tokens, plain_tokens), (positions, plain_positions)):
        assert torch.equal(ours, theirs) != stored
        assert torch.equal(ours.sort(1).values, theirs.sort(1).values)
