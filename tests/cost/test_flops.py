"""Arithmetic against what can be worked out by hand, and the names of what is not counted."""

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from aqr_bench.cost.flops import count_flops


def test_a_linear_layer_and_what_is_not_counted():
    layer, x = nn.Linear(16, 32), torch.randn(8, 16)
    with torch.no_grad():
        result = count_flops(lambda: layer(x).relu().relu().exp())
    assert result["total"] == 2 * 8 * 16 * 32 and result["by_operator"] == {"aten.addmm": result["total"]}
    assert result["uncounted"]["aten.relu"] == 2 and result["uncounted"]["aten.exp"] == 1
    assert "aten.addmm" not in result["uncounted"]
    assert list(result["uncounted"].values()) == sorted(result["uncounted"].values(), reverse=True)


def test_a_convolution():
    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 6, 7)
    with torch.no_grad():
        assert count_flops(lambda: layer(x))["total"] == 2 * (2 * 6 * 7) * (3 * 9) * 5


def test_fused_attention_counts_on_a_cpu_too_forward_and_backward():
    q, k, v = (torch.randn(2, 4, n, 16, requires_grad=True) for n in (10, 30, 30))
    product = 2 * (2 * 4) * 10 * 30 * 16
    with torch.no_grad():
        assert count_flops(lambda: scaled_dot_product_attention(q, k, v))["total"] == 2 * product
    # Backward: the scores once more, and the gradients of scores, queries, keys and values.
    both = count_flops(lambda: scaled_dot_product_attention(q, k, v).sum().backward())
    assert both["total"] == 7 * product and q.grad is not None


@pytest.mark.parametrize("compiler", [None, "eager"])
def test_flex_attention_counts_as_attention_over_all_keys(compiler):
    def near(score, b, h, q, k):
        return torch.where((q - k).abs() < 3, score, score - 1)

    q, k, v = (torch.randn(2, 4, n, 16) for n in (10, 30, 30))
    attend = flex_attention if compiler is None else torch.compile(flex_attention, backend=compiler, fullgraph=True)
    with torch.no_grad():
        result = count_flops(lambda: attend(q, k, v, score_mod=near) @ torch.ones(16, 3))
    product = 2 * (2 * 4) * 10 * 30 * 16
    assert result["by_operator"]["flex_attention"] == 2 * product and "flex_attention" not in result["uncounted"]
    assert result["total"] == 2 * product + 2 * (2 * 4 * 10) * 16 * 3


def test_the_kernels_of_a_gpu_have_heads_and_tokens_the_other_way_round():
    """torch's own formulas take [B, S, H, D] for [B, H, S, D], and refuse it with fewer queries than keys."""
    aten = torch.ops.aten
    q, k, v = (torch.empty(2, n, 4, 16, device="meta") for n in (10, 30, 30))
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    lse, state = torch.empty(2, 4, 32, device="meta"), torch.empty((), dtype=torch.long, device="meta")
    product = 2 * (2 * 4) * 10 * 30 * 16
    nothing = (None, None)

    def forward():
        aten._efficient_attention_forward(q, k, v, None, *nothing, 10, 30, 0.0, 0, True)

    def backward():
        aten._efficient_attention_backward(q, q, k, v, None, q, *nothing, 10, 30, lse, 0.0, state, state, 0, False)

    def head_major():
        aten._scaled_dot_product_efficient_attention(*heads, None, True)

    for function, products in ((forward, 2), (head_major, 2), (backward, 5)):
        result = count_flops(function)
        assert result["total"] == products * product and not any("attention" in name for name in result["uncounted"])
