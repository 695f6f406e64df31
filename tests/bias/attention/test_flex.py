"""FlexAttention: what it refuses, one kernel for many numbers of queries, and what its compiler wants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bias_cases import Inputs, attend, formula, grid_inputs, random_inputs, with_gradients
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from aqr_bench.bias.attention import dispatch, flex

OTHER_WINDOWS = 20.0  # a focal length with which fewer cameras see a point


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("more", [1, 3])
def test_further_queries_change_nothing(hard, masked, more):
    inputs = grid_inputs(1, hard=hard, masked=masked)

    def longer(q, k, v, bias, mask, scale):
        bias, mask = flex._with_more_queries(bias, mask, more)
        score = flex.score_function(bias, mask, q.dtype)
        out = flex.uncompiled_flex()(pad(q, (0, 0, 0, more)), k, v, score_mod=score, scale=scale)
        assert out.isfinite().all()
        return out[:, :, :-more]

    torch.testing.assert_close(flexed(inputs, longer), formula(inputs))


def flexed(inputs: Inputs, function: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Output of backend ``flex`` with ``function`` in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.WINDOW_BACKENDS, "flex", function)
        with torch.no_grad():
            return attend(inputs, "flex")


def test_one_kernel_for_all_numbers_of_queries_up_to_the_next_step(monkeypatch):
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    def compiled(*args):
        return flex.compiled_attention(*args, compiler=compiler)

    torch._dynamo.reset()
    for number, queries in enumerate((5, 6, 20, flex.QUERY_STEP)):
        inputs = grid_inputs(number, Q=queries)
        torch.testing.assert_close(flexed(inputs, compiled), formula(inputs))
    assert len(graphs) == 1
    flexed(grid_inputs(0, Q=flex.QUERY_STEP + 1), compiled)
    assert len(graphs) == 2
    # Beyond the limit torch would go on in plain operators, with all of [B, H, Q, K].
    monkeypatch.setattr(flex, "MAX_KERNELS", 2)
    with pytest.raises(RuntimeError, match=r"compiled for 2 different shapes .* use attention_backend 'masked'"):
        flexed(grid_inputs(0, focal=OTHER_WINDOWS), compiled)


def test_values_are_read_once():
    """Inductor refuses a score function that indexes a tensor with a gradient twice, in the backward pass."""

    class Reads(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.Tensor.__getitem__ and args[0].requires_grad
            return func(*args, **(kwargs or {}))

    inputs = grid_inputs(0)
    assert len(inputs.bias.grids) > 2
    inputs.bias.value_BQW.requires_grad_()
    score = flex.score_function(inputs.bias, None, torch.float64)
    index = (torch.tensor(0), torch.tensor(0), torch.tensor(0), torch.tensor(3))
    with Reads() as reads:
        score(torch.zeros(()), *index)
    assert reads.count == 1


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="needs windows on a feature grid"):
        attend(random_inputs(0), "flex")
    with pytest.raises(ValueError, match="no gradient on a CPU"):
        with_gradients(grid_inputs(0), "flex")
    inputs = grid_inputs(0)
    for dtype, width in ((torch.float32, 8), (torch.float64, 32)):
        q = torch.empty(2, 2, 6, width, dtype=dtype, device="meta")
        with pytest.raises(ValueError, match=f"at least 16 wide .* not {width} wide in {dtype}; use 'masked'"):
            flex.flex_attention(q, q, q, inputs.bias, None, 1.0)
