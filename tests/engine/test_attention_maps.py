"""The attention of a query: rows sum to 1, it is what the model computes, and hard windows hold all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from cmt_small import features, metas, run, small_head, small_head_config, wake_router
from mmdet3d.registry import MODELS

from aqr_bench.bias import biased_attention
from aqr_bench.engine.attention_maps import AttentionRecorder, QueryAttention, attention_weights
from aqr_bench.errors import UserError

AQR = dict(bev_window=3, camera_window=3, site="cross")


@contextmanager
def recorded(**changes) -> Iterator[AttentionRecorder]:
    """After a forward pass of a small head."""
    head = small_head(**changes)
    if head.aqr is not None and head.aqr.router is not None:
        wake_router(head)
    x, x_img = features(1)
    with torch.no_grad(), AttentionRecorder(head) as recorder:
        run(head, x, x_img, metas(1))
        yield recorder


def attention(query: int | None = None, **changes) -> QueryAttention:
    with recorded(**changes) as recorder:
        return recorder.attention_of(query)


@pytest.mark.parametrize(
    "changes",
    [{}, dict(aqr=AQR), dict(aqr={**AQR, "profile": "hard"}), dict(aqr=AQR, locality=dict(bev_sigma=3.0))],
)
def test_the_attention_of_a_query_sums_to_one_in_every_layer(changes):
    result = attention(**changes)
    assert len(result.layers) == 2 and result.layout.num_keys == 10 * 10 + 3 * 6 * 10
    for layer in result.layers:
        for weights_K in (layer.biased_K, layer.plain_K):
            assert (
                weights_K.shape == (280,) and (weights_K >= 0).all() and weights_K.sum() == pytest.approx(1, abs=1e-5)
            )
    assert (result.window_K is None) == ("aqr" not in changes)


def test_a_hard_window_holds_all_attention_and_without_it_little():
    result = attention(query=3, aqr={**AQR, "profile": "hard"})
    assert 4 <= result.window_K.sum() <= 9 * 4
    for layer in result.layers:
        assert layer.biased_K[result.window_K].sum() == pytest.approx(1, abs=1e-5)
        assert (layer.biased_K[~result.window_K] == 0).all() and layer.plain_K[result.window_K].sum() < 0.5


def test_a_constant_bias_multiplies_the_odds_of_its_window():
    """A bias of 1 on every cell of the window: exp(1) times the odds, per head; here of one head."""
    constant = {**AQR, "router": "constant", "learnable_scale": False}
    result = attention(query=5, aqr=constant)
    q = torch.randn(1, 4)
    k, bias = torch.randn(1, 280, 4), torch.tensor(result.window_K).float()
    inside = [attention_weights(q, k, added)[0, bias.bool()].sum() for added in (None, bias)]
    odds = [share / (1 - share) for share in inside]
    assert float(odds[1] / odds[0]) == pytest.approx(torch.e, rel=1e-4)
    assert result.weights == (1.0, 1.0)


def test_the_weights_are_those_of_the_models_attention():
    """Attention over values of one-hot rows gives the weights: the head's attention, and ours beside it."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, n, 4, generator=generator) for n in (3, 7))
    dense = torch.randn(1, 3, 7, generator=generator)
    theirs = biased_attention(q, k, torch.eye(7).expand(1, 2, 7, 7), bias=dense)
    for query in range(3):
        ours = attention_weights(q[0, :, query], k[0], dense[0, query])
        torch.testing.assert_close(ours, theirs[0, :, query], atol=1e-5, rtol=1e-4)


def test_what_is_drawn_is_what_the_head_attends_to():
    """With the recorded weights instead of its attention the cross-attention gives the same output."""
    config = small_head_config(aqr={**AQR, "profile": "gaussian"}, locality=dict(bev_sigma=3.0))
    for attention_config in config["transformer"]["decoder"]["transformerlayers"]["attn_cfgs"]:
        attention_config["num_heads"] = 1  # the recorded weights are means over heads
    torch.manual_seed(0)
    head = MODELS.build(config).eval()
    wake_router(head)
    module, calls = head.transformer.decoder.layers[1].attentions[-1], []
    module.register_forward_hook(lambda _, args, out: calls.append((args, out)))
    x, x_img = features(1)
    with torch.no_grad(), AttentionRecorder(head) as recorder:
        run(head, x, x_img, metas(1))
        result = recorder.attention_of(4)
        (state, _, memory, *_), out = calls[0]
        weight, bias = module.attn.in_proj_weight.chunk(3)[2], module.attn.in_proj_bias.chunk(3)[2]
        value = torch.tensor(result.layers[1].biased_K) @ torch.nn.functional.linear(memory[0], weight, bias)
        torch.testing.assert_close(state[0, 4] + module.attn.out_proj(value), out[0, 4], atol=1e-4, rtol=1e-3)


def test_the_reference_point_is_inside_its_windows():
    result = attention(query=3, aqr=AQR)
    rows, cols = result.layout.bev_shape
    row, col = result.layout.bev_cells(torch.tensor(result.reference_3)[None, None])[0, 0].tolist()
    assert result.window_K[row * cols + col]
    seen = [(camera, *pixel) for camera, pixel in enumerate(result.pixel_N2.tolist()) if pixel[0] == pixel[0]]
    _, rows, cols = result.layout.camera_shape
    for camera, u, v in seen:
        assert result.window_K[result.layout.num_bev + (camera * rows + int(v * rows)) * cols + int(u * cols)]
    assert seen


def test_a_mask_of_a_sensor_is_no_window():
    mask = dict(site="cross", routing="mask", router="oracle")
    result = attention(query=0, aqr=mask)
    assert result.region == "on keys that the mask leaves" and result.window_K.all()


def test_the_query_with_the_highest_score_is_taken_where_none_is_named():
    with recorded(aqr=AQR) as recorder:
        scores = [recorder.attention_of(query).score for query in range(20)]
        result = recorder.attention_of(None)
        with pytest.raises(UserError, match="query 20: the model has 20 queries"):
            recorder.attention_of(20)
    assert result.score == max(scores) == scores[result.query]


def test_detectors_without_one_decoder_are_refused():
    with pytest.raises(UserError, match="cannot be drawn"):
        AttentionRecorder(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="cannot be drawn"):
        AttentionRecorder(None)
