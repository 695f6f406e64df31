"""Routers of the user: built by name, their weights reach the bias, and what breaks the contract is one line."""

from __future__ import annotations

import pytest
import torch

from aqr_bench.bias import AttentionBias, MemoryLayout
from aqr_bench.bias.arguments import attention_bias
from aqr_bench.bias.custom_router import check_router, register_router
from aqr_bench.bias.router import router_loss
from aqr_bench.errors import UserError

LAYOUT = MemoryLayout((4, 4), (1, 2, 2), (-8.0, -8.0, -5.0, 8.0, 8.0, 3.0))
ROUTER = """
import torch
from torch import nn

class MyRouter(nn.Module):
    def __init__(self, embed_dims, gain=1.0):
        super().__init__()
        self.output, self.gain = nn.Linear(embed_dims, 2), gain

    def forward(self, inputs):
        return (self.gain * self.output(inputs.query_pos_BQC)).tanh()

class NoModule: ...

class NoInput(nn.Module):
    def __init__(self, embed_dims): super().__init__()
    def forward(self): ...

class Wrong(MyRouter):
    def forward(self, inputs): return WHAT(super().forward(inputs))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(ROUTER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def forward(aqr: AttentionBias):
    torch.manual_seed(1)
    query, query_pos, points = torch.zeros(2, 3, 16), torch.randn(2, 3, 16), torch.rand(2, 3, 3)
    memory, memory_pos = torch.randn(2, 2, LAYOUT.num_keys, 16).unbind()
    projections = torch.eye(4).expand(2, 1, 4, 4), torch.full((2, 1, 2), 32.0)
    return aqr(query, query_pos, memory, memory_pos, points, *projections, LAYOUT)


def test_its_weights_are_those_of_the_bias(project):
    aqr = AttentionBias(16, "cross", router="mine.py:MyRouter", router_options={"gain": 3.0})
    out = forward(aqr)
    torch.manual_seed(1)
    torch.zeros(2, 3, 16)
    expected = (3 * aqr.router.output(torch.randn(2, 3, 16))).tanh()
    assert torch.equal(torch.stack(out.weights, -1), expected) and aqr.router.gain == 3.0
    assert {name for name, _ in aqr.named_parameters()} >= {"router.output.weight", "router.output.bias"}
    out.cross_bias.value_BQW.sum().backward()
    assert aqr.router.output.weight.grad.abs().sum() > 0


def test_it_can_be_supervised_by_the_sensor_state(project):
    aqr = AttentionBias(16, "cross", router="mine.py:MyRouter", supervision="modality")
    out, state = forward(aqr), torch.tensor([0, 1])
    loss = aqr.loss(out, state)["loss_router"]
    assert torch.allclose(out.logits_BQO.tanh(), torch.stack(out.weights, -1), atol=1e-5)
    assert torch.equal(loss, router_loss(out.logits_BQO, state)) and loss.isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"router": "lerned"},
            "'lerned' is not known; choose one of learned, oracle, constant, or a class of",
        ),
        ({"router": "mine.py:MyRoter"}, "mine.py has no 'MyRoter'; did you mean 'MyRouter'"),
        ({"router": "mine.py:NoModule"}, "is no torch.nn.Module.*forward"),
        ({"router": "mine.py:NoInput"}, r"signature forward\(self\), expected forward\(self, inputs: RouterInput\)"),
        ({"router": "mine.py:MyRouter", "router_options": {"gian": 1}}, "'gian'.*expected __init__"),
        ({"router": "mine.py:MyRouter", "routing": "mask"}, "routing 'mask' needs"),
        ({"router_options": {"gain": 1}}, "router_options are of a user's router"),
    ],
)
def test_mistakes_are_user_errors_when_it_is_built(project, arguments, message):
    with pytest.raises(UserError, match=message):
        attention_bias({"site": "cross", **arguments}, 16)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("lambda w: w[..., :1]", ValueError, r"returned \(2, 3, 1\), expected a tensor \(2, 3, 2\)"),
        ("lambda w: None", ValueError, "returned NoneType, expected a tensor"),
        ("lambda w: 3 * torch.ones_like(w)", ValueError, r"a weight of 3, expected weights in \[-1, 1\]"),
        ("lambda w: w / 0", FloatingPointError, "not finite"),
        ("lambda w: w * float('nan')", FloatingPointError, "not finite"),
    ],
)
def test_weights_are_held_to_the_contract(project, what, error, message):
    (project / "mine.py").write_text(f"{ROUTER}\nWHAT = {what}\n")
    with pytest.raises(error, match=message):
        forward(AttentionBias(16, "cross", router="mine.py:Wrong"))
    with pytest.raises(UserError, match=message):
        check_router("mine.py:Wrong", 16)


def test_the_check_leaves_random_numbers_alone(project):
    before = torch.get_rng_state()
    check_router("mine.py:MyRouter", 16, {"gain": 2.0})
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(UserError, match="no router 'learnt'"):
        check_router("learnt")


def test_a_class_is_registered_by_its_decorator(monkeypatch):
    monkeypatch.setattr("aqr_bench.plugins._REGISTERED", {"aqr_bench.routers": {}, "aqr_bench.corruptions": {}})

    @register_router("zero")
    class Zero(torch.nn.Module):
        def __init__(self, embed_dims):
            super().__init__()

        def forward(self, inputs):
            return torch.zeros(*inputs.query_BQC.shape[:2], 2)

    assert isinstance(AttentionBias(16, router="zero").router, Zero)
