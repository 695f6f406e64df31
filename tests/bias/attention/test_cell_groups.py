"""Hard windows in groups of neighbouring queries: their keys, and attention to them however many make a product."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bias_cases import closed_form_inputs, random_inputs

from aqr_bench.bias import biased_attention
from aqr_bench.bias.attention import cell_groups
from aqr_bench.bias.attention.cell_groups import GROUP, attend_cells


def hard_inputs(sizes=(3, 3), focal=8.0, queries=70):
    return closed_form_inputs(0, sizes, focal, queries, hard=True)


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (3, 0), (0, 3)])
def test_a_group_has_the_keys_of_its_queries_each_once(sizes):
    bias = hard_inputs(sizes).bias
    groups, batch = cell_groups.cell_groups(bias), bias.index_BQW.shape[0]
    index = bias.index_BQW + torch.arange(batch)[:, None, None] * bias.num_keys
    index, valid = index.flatten(0, 1)[groups.row_N], bias.valid_BQW.flatten(0, 1)[groups.row_N]
    for number, (key, count) in enumerate(zip(groups.key_GU, groups.count_G, strict=True)):
        members = slice(number * GROUP, (number + 1) * GROUP)
        wanted = index[members][valid[members]].unique()
        assert torch.equal(key[: len(wanted)], wanted) and count == max(1, len(wanted))
        assert torch.equal(key[groups.slot_NW[members][valid[members]]], index[members][valid[members]])
    assert torch.equal(groups.row_N[groups.member_BQ], torch.arange(batch * 70).view(batch, 70))
    assert sum(groups.count_G) < bias.valid_BQW.sum() / 1.5  # neighbours share keys
    assert cell_groups.cell_groups(bias) is groups


@pytest.mark.parametrize("budget", [1, 2**12, 2**30])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("sizes", "focal"), [((3, 5), 8.0), ((3, 0), 20.0), ((0, 3), 20.0)])
def test_attention_over_one_or_several_groups(sizes, focal, shared, budget, monkeypatch):
    monkeypatch.setitem(cell_groups.CHUNK_BYTES, "cpu", budget)
    inputs = hard_inputs(sizes, focal)
    k, v = (x[:, :1] if shared else x for x in (inputs.k, inputs.v))
    out, lse = attend_cells(inputs.q, k, v, inputs.bias, None, 0.5)
    k, v = (x.expand_as(inputs.k) for x in (k, v))
    wanted = biased_attention(inputs.q, k, v, bias=inputs.bias, backend="literal")  # heads are 4 wide
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-10)
    scores = inputs.q @ k.mT * 0.5 + inputs.bias.dense()[:, None]
    lse_wanted = scores.logsumexp(-1)
    torch.testing.assert_close(lse, lse_wanted.masked_fill(lse_wanted.isinf(), 0), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_random_cells_of_more_queries_than_a_group(masked):
    inputs = random_inputs(2, Q=2 * GROUP + 3, K=40, hard=True, masked=masked)
    out, wanted = (
        biased_attention(inputs.q, inputs.k, inputs.v, bias=inputs.bias, mask=inputs.mask, backend=backend)
        for backend in ("window", "literal")
    )
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-10)


def test_only_rows_without_cells_are_set_to_zero():
    """A diverged query stays NaN."""
    inputs = hard_inputs()
    valid = inputs.bias.valid_BQW.clone()
    valid[0, 3] = False
    inputs.q[0, :, 5] = float("nan")
    out, lse = attend_cells(inputs.q, inputs.k, inputs.v, replace(inputs.bias, valid_BQW=valid), None, 0.5)
    assert not out[0, :, 3].any() and not lse[0, :, 3].any()
    assert valid[0, 5].any() and out[0, :, 5].isnan().all() and not out[0, :, 4].isnan().any()
