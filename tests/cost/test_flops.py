"""Arithmetic against what can be worked out by hand, and the names of what is not counted."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from aqr_bench.cost.flops import count_flops


def test_a_linear_layer_and_what_is_not_counted():
    layer, x = nn.Linear(16, 32), torch.randn(8, 16)
    with torch.no_grad():
        found = count_flops(lambda: layer(x).relu().relu().exp())
    assert found["total"] == 2 * 8 * 16 * 32 and found["by_operator"] == {"aten.addmm": found["total"]}
    assert found["uncounted"]["aten.relu"] == 2 and found["uncounted"]["aten.exp"] == 1
    assert "aten.addmm" not in found["uncounted"]
    assert list(found["uncounted"].values()) == sorted(found["uncounted"].values(), reverse=True)


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
