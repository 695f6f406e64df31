"""The attention of a query: rows sum to 1, it is what the model computes, and hard windows hold all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from cmt_small import features, metas, run, small_head, small_head_config, small_mome, wake_router
from mmdet3d.registry import MODELS

from aqr_bench.bias import biased_attention
from aqr_bench.cmt.multi_expert import MODALITIES
from aqr_bench.engine.attention_maps import AttentionRecorder, LayerAttention, QueryAttention, attention_weights
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
    # The recorded weights are means over heads of attention.
    config = small_head_config(heads=1, aqr={**AQR, "profile": "gaussian"}, locality=dict(bev_sigma=3.0))
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


def test_keys_in_the_order_of_backend_tiled_are_put_back():
    """The same head, with the memory stored by rows and patch by patch."""
    plain, tiled = (attention(query=4, aqr=AQR, attention_backend=name) for name in ("literal", "tiled"))
    assert (plain.window_K == tiled.window_K).all() and len(plain.layers) == len(tiled.layers)
    for ours, theirs in zip(plain.layers, tiled.layers, strict=True):
        for name in ("biased_K", "plain_K"):
            np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=1e-6)
    assert plain.bias_effect > 0.001


def test_the_effect_of_a_bias_is_the_share_that_it_moves():
    layer = LayerAttention(np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.5, 0.3]))
    assert layer.bias_effect == pytest.approx(0.3)
    result = attention(query=3)
    assert result.bias_effect == 0 and result.window_K is None


def test_a_query_is_recognised_by_the_centre_of_its_detection():
    with recorded(aqr=AQR) as recorder:
        centre_Q2 = recorder.outputs[0][0]["center"][-1][0]
        assert [recorder.nearest_query(xy.numpy()) for xy in centre_Q2[[0, 7, 19]]] == [0, 7, 19]


EXPERT_KEYS = {"fused": slice(0, 280), "bev": slice(0, 100), "img": slice(100, 280)}


@pytest.mark.parametrize("changes", [{}, dict(aqr=AQR)])
def test_a_query_of_an_expert_attends_to_the_keys_of_its_sensors(changes):
    """What is recorded, used as weights, gives what the expert's last cross-attention gives."""
    head = small_mome(heads=1, **changes).eval()  # the recorded weights are means over heads of attention
    if head.aqr is not None:
        wake_router(head)
    module, outputs = head.transformer.decoder.layers[-1].attentions[-1], []
    module.register_forward_hook(lambda _, args, out: outputs.append((args, out)))
    x, x_img = features(1)
    with torch.no_grad(), AttentionRecorder(head) as recorder:
        expert_Q = run(head, x, x_img, metas(1))["expert"][0]
        assert sorted(set(expert_Q.tolist())) == [0, 1, 2]
        value, value_bias = module.attn.in_proj_weight.chunk(3)[2], module.attn.in_proj_bias.chunk(3)[2]
        for query in range(20):
            result, expert = recorder.attention_of(query), int(expert_Q[query])
            keys = EXPERT_KEYS[result.expert]
            assert result.expert == MODALITIES[expert] and result.layout.num_keys == 280
            weights_K = result.layers[-1].biased_K
            assert weights_K.sum() == pytest.approx(1, abs=1e-5) == weights_K[keys].sum()
            (state, _, memory, *_, values), out = outputs[expert]
            values = memory if values is None else values
            row = int((expert_Q[:query] == expert).sum())
            attended = torch.tensor(weights_K[keys]) @ torch.nn.functional.linear(values[0], value, value_bias)
            ours = state[0, row] + module.attn.out_proj(attended)
            torch.testing.assert_close(ours, out[0, row], atol=1e-4, rtol=1e-3)


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
