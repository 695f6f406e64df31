"""The layers of the model, each against a plain reference: norm, task head, attention, dropout, checkpointing."""

from __future__ import annotations

import pytest
import torch
from cmt_official import head_config
from mmdet3d.registry import MODELS
from torch.nn import functional as F

from aqr_bench.bias import WindowBias
from aqr_bench.cmt.attention import DecoderAttention
from aqr_bench.cmt.layer_bias import LayerBias
from aqr_bench.cmt.task_head import GroupLayerNorm1d, SeparateTaskHead
from aqr_bench.cmt.transformer import PETRTransformerDecoderLayer
from aqr_bench.errors import UserError


def test_group_norm_is_layer_norm_of_each_group_and_position():
    torch.manual_seed(0)
    norm = GroupLayerNorm1d(12, groups=3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, 5, requires_grad=True)
    plain = F.layer_norm(x.view(2, 3, 4, 5).transpose(2, 3), (4,), eps=1e-6).transpose(2, 3).reshape(2, 12, 5)
    expected = plain * norm.weight[:, None] + norm.bias[:, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=1e-5)
    (ours,) = torch.autograd.grad(norm(x).square().sum(), x)
    (reference,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def test_task_head_has_separate_weights_for_every_layer_and_the_reach_of_its_kernel():
    for kernel, reach in ((1, {10}), (3, {8, 9, 10, 11, 12})):
        torch.manual_seed(0)
        head = SeparateTaskHead(6, dict(dim=(3, 2)), groups=2, head_conv=4, final_kernel=kernel)
        x = torch.randn(2, 1, 20, 6)
        y = x.clone()
        y[1, 0, 10] += 1.0
        change = (head(x)["dim"] - head(y)["dim"]).abs().sum(-1)
        assert change[0].sum() == 0
        assert set(change[1, 0].nonzero().flatten().tolist()) == reach


def test_class_logits_start_unlikely_after_init_weights():
    head = MODELS.build(head_config(num_query=10))
    head.init_weights()
    assert (head.task_heads[0].cls_logits[-1].bias == -2.19).all()


@pytest.mark.parametrize("role", ["self", "cross"])
def test_attention_equals_torch_multihead_attention(role):
    torch.manual_seed(0)
    ours = DecoderAttention(role, 16, 4)
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    reference.load_state_dict(ours.attn.state_dict())
    x, pos = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    memory, memory_pos = torch.randn(2, 5, 16), torch.randn(2, 5, 16)  # as many keys as queries
    mask = torch.rand(5, 5) > 0.6
    mask.fill_diagonal_(False)
    if role == "self":
        expected = x + reference(x + pos, x + pos, x, attn_mask=mask)[0]
        actual = ours(x, pos, mask=mask)
    else:
        expected = x + reference(x + pos, memory + memory_pos, memory, attn_mask=mask)[0]
        actual = ours(x, pos, memory, memory_pos, mask=mask)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_where_the_official_code_has_it():
    """Self-attention: probabilities and output. Cross-attention (flash): the output alone."""
    layer = PETRTransformerDecoderLayer(
        attn_cfgs=[
            dict(type="MultiheadAttention", embed_dims=16, num_heads=4, dropout=0.1),
            dict(type="PETRMultiheadFlashAttention", embed_dims=16, num_heads=4, dropout=0.1),
        ]
    )
    self_attention, cross = layer.attentions
    assert (self_attention.role, self_attention.attn_drop, self_attention.out_drop.p) == ("self", 0.1, 0.1)
    assert (cross.role, cross.attn_drop, cross.out_drop.p) == ("cross", 0.0, 0.1)
    with pytest.raises(UserError, match="MultiheadAttention"):
        DecoderAttention.from_config("self", dict(type="MultiHeadAttention", embed_dims=16, num_heads=4))
    with pytest.raises(UserError, match="num_head"):
        DecoderAttention.from_config("self", dict(embed_dims=16, num_head=4))


def test_checkpointed_layers_give_the_same_gradients():
    torch.manual_seed(0)
    config = dict(attn_cfgs=dict(embed_dims=16, num_heads=4), ffn_cfgs=dict(feedforward_channels=32))
    plain = PETRTransformerDecoderLayer(**config)
    saving = PETRTransformerDecoderLayer(**config, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x, pos, memory = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    for layer in (plain, saving):
        layer.train()(x, pos, memory, memory).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_cross_bias_never_reaches_self_attention_even_when_keys_are_as_many_as_queries():
    torch.manual_seed(0)
    count, width = 12, 16
    cross = WindowBias(
        torch.arange(count)[None, :, None],
        torch.ones(1, count, 1, dtype=torch.bool),
        torch.full((1, count, 1), 4.0),
        count,
    )
    x, position, memory, memory_position = torch.randn(4, 1, count, width)
    for order, changes in ((("self_attn", "norm"), False), (("cross_attn", "norm"), True)):
        layer = PETRTransformerDecoderLayer(
            attn_cfgs=dict(type="PETRMultiheadAttention", embed_dims=width, num_heads=2), operation_order=order
        )
        plain, biased, other = (
            layer(x, position, memory, memory_position, bias=bias)
            for bias in (LayerBias(), LayerBias(cross_bias=cross), LayerBias(self_bias=cross))
        )
        assert torch.equal(plain, biased) != changes
        assert torch.equal(plain, other) == changes
