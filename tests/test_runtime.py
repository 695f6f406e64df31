"""What runtime.prepare sets for every model: non-reentrant activation checkpointing where a model does not choose."""

from __future__ import annotations

import torch
from torch.utils import checkpoint

from aqr_bench import runtime


def test_checkpointing_is_non_reentrant_unless_a_model_asks_for_the_other(monkeypatch):
    reentrant, apply = [], checkpoint.CheckpointFunction.apply

    def counted(*args):
        reentrant.append(args)
        return apply(*args)

    monkeypatch.setattr(checkpoint.CheckpointFunction, "apply", counted)
    layer, x = torch.nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), x)
    for options in ({}, {"use_reentrant": False}):
        out = checkpoint.checkpoint(layer, x, **options)
        assert torch.equal(torch.autograd.grad(out.square().sum(), x)[0], expected[0]) and not reentrant
    checkpoint.checkpoint(layer, x, use_reentrant=True)
    assert len(reentrant) == 1


def test_preparing_again_wraps_nothing_twice():
    before = checkpoint.checkpoint
    runtime.prepare()
    assert checkpoint.checkpoint is before
