"""Hard routing: which expert is chosen, and what attention then sees, against a mask written out by hand."""

from __future__ import annotations

import bias_reference as reference
import pytest
import torch

from aqr_bench.bias import AttentionBias, MemoryLayout, biased_attention
from aqr_bench.bias.expert_routing import choose_experts, expert_loss, expert_mask, expert_weights

RANGE = (-10.0, -10.0, -3.0, 10.0, 10.0, 3.0)
LAYOUT = MemoryLayout((2, 2), (1, 1, 3), RANGE)  # keys 0 to 3 are BEV cells, 4 to 6 image cells
EYE = torch.eye(3)


def forward(aqr, state=None, layout=LAYOUT, queries=4):
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, n, 8, generator=g) for n in (queries, queries, layout.num_keys, layout.num_keys)]
    points = torch.rand(2, queries, 3, generator=g)
    cameras = reference.ring_of_cameras(1, 32, 24, 20.0).expand(2, -1, -1, -1)
    return aqr(*tensors, points, cameras, torch.tensor([24.0, 32.0]).expand(2, 1, 2), layout, state)


def test_the_mask_is_the_one_written_by_hand():
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 1.5], [0.0, 0.0, 0.0]]])
    chosen = choose_experts(logits, LAYOUT)
    assert chosen.tolist() == [[0, 1, 2, 0]]
    no = float("-inf")
    by_hand = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, no, no, no],
            [no, no, no, no, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0],
        ]
    )
    assert torch.equal(expert_mask(chosen, LAYOUT, logits), by_hand[None])
    assert torch.stack(expert_weights(chosen, logits), -1).tolist() == [[[1, 1], [1, -1], [-1, 1], [1, 1]]]


@pytest.mark.parametrize("backend", ["literal", "masked", "window", "auto"])
def test_a_masked_query_attends_as_if_the_other_sensor_were_not_there(backend):
    g = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, n, 4, generator=g, dtype=torch.float64) for n in (3, 7, 7))
    mask = expert_mask(torch.tensor([[0, 1, 2]]), LAYOUT, q)
    out = biased_attention(q, k, v, bias=mask, backend=backend)
    for query, keys in enumerate((slice(0, 7), slice(0, 4), slice(4, 7))):
        alone = biased_attention(q[:, :, query : query + 1], k[:, :, keys], v[:, :, keys], backend="literal")
        torch.testing.assert_close(out[:, :, query : query + 1], alone)


def test_a_new_router_masks_nothing():
    out = forward(AttentionBias(8, num_heads=2, ffn_dims=16, routing="mask", supervision="modality"))
    assert out.self_bias is None and out.cross_bias.shape == (2, 4, 7) and not out.cross_bias.any()
    assert torch.stack(out.weights).unique().tolist() == [1.0] and out.logits_BQO.shape == (2, 4, 3)


def test_the_oracle_masks_the_sensor_that_is_missing():
    out = forward(AttentionBias(8, router="oracle", routing="mask"), torch.tensor([1, 2]))
    assert (out.cross_bias[0] == torch.tensor([float("-inf")] * 4 + [0.0] * 3)).all()
    assert (out.cross_bias[1] == torch.tensor([0.0] * 4 + [float("-inf")] * 3)).all()
    assert not forward(AttentionBias(8, router="oracle", routing="mask"), torch.tensor([0, 0])).cross_bias.any()
    with pytest.raises(ValueError, match="needs the sensor state"):
        forward(AttentionBias(8, router="oracle", routing="mask"))


@pytest.mark.parametrize("layout", [MemoryLayout((2, 2), None, RANGE), MemoryLayout(None, (1, 1, 3), RANGE)])
def test_a_sensor_without_keys_is_never_all_that_a_query_sees(layout):
    """Also where the router or the oracle asks for it: attention to nothing would give zeros."""
    for expert in range(3):
        mask = expert_mask(choose_experts(EYE[expert].expand(1, 1, 3), layout), layout, EYE)
        assert (mask == 0).any()
    out = forward(AttentionBias(8, router="oracle", routing="mask"), torch.tensor([1, 2]), layout)
    assert (out.cross_bias == 0).any(-1).all()


def test_the_loss_is_cross_entropy_against_the_sensor_state():
    """MoME's targets: clean -> both, no LiDAR (1) -> cameras, no cameras (2) -> LiDAR."""
    logits = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    chance = logits.softmax(-1)
    expected = -(chance[0, :, 0].log() + chance[1, :, 2].log() + chance[2, :, 1].log()).sum() / 15
    torch.testing.assert_close(expert_loss(logits, torch.tensor([0, 1, 2])), expected)


def test_supervision_teaches_the_router_to_choose():
    aqr = AttentionBias(8, num_heads=2, ffn_dims=16, routing="mask", supervision="modality")
    assert "scale" not in dict(aqr.named_parameters())
    state = torch.tensor([1, 2])
    optimiser = torch.optim.Adam(aqr.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        aqr.loss(forward(aqr, state), state)["loss_router"].backward()
        optimiser.step()
    weights = torch.stack(forward(aqr, state).weights, -1)
    assert (weights[0] == torch.tensor([-1.0, 1.0])).all() and (weights[1] == torch.tensor([1.0, -1.0])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routing": "msk"}, "aqr.routing 'msk' is not known"),
        ({"routing": "mask"}, "a learned router needs supervision 'modality'"),
        ({"routing": "mask", "router": "oracle", "site": "both"}, "needs site 'cross'"),
        ({"routing": "mask", "router": "constant"}, "router 'learned' or 'oracle'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionBias(8, **options)
