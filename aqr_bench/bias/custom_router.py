"""Routers of the user: a module in a file or package that weights both sensors for every query, held to a contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aqr_bench import plugins
from aqr_bench.bias.layout import MemoryLayout
from aqr_bench.errors import UserError, short

CONSTRUCTOR = "__init__(self, embed_dims, **router_options)"
FORWARD = "forward(self, inputs: RouterInput) -> Tensor [B, Q, 2]"
TOLERANCE = 1e-3  # of weights in half precision beyond -1 and 1
MAX_LOGIT_WEIGHT = 0.999  # weights of the supervision loss are clamped to it: the logit of 1 is infinite


class RouterInput(NamedTuple):
    """What a router of the user gets.

    Args:
        query_BQC, query_pos_BQC: queries (zeros before the first decoder layer) and their position embeddings.
        memory_BKC, memory_pos_BKC: keys of both sensors and their position embeddings, BEV cells first.
        reference_BQ3: reference points of the queries, metres, LiDAR frame; without gradient.
        layout: which key is which cell; ``num_bev`` keys are of the LiDAR.
    """

    query_BQC: Tensor
    query_pos_BQC: Tensor
    memory_BKC: Tensor
    memory_pos_BKC: Tensor
    reference_BQ3: Tensor
    layout: MemoryLayout


def register_router(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: ``router: <name>`` is this class wherever its module is imported."""

    def add(router_class: type[nn.Module]) -> type[nn.Module]:
        plugins.register(plugins.ROUTERS, name, router_class)
        return router_class

    return add


def find_router(name: str) -> type[nn.Module] | None:
    """The class of a reference or registered name; None for a text that is neither. UserError: it is no router."""
    router_class = plugins.find(name, plugins.ROUTERS)
    if router_class is None:
        return None
    if not (inspect.isclass(router_class) and issubclass(router_class, nn.Module)):
        raise UserError(f"router '{short(name)}' is no torch.nn.Module", f"It needs {CONSTRUCTOR} and {FORWARD}.")
    try:
        inspect.signature(router_class.forward).bind(None, None)
    except TypeError:
        has = inspect.signature(router_class.forward)
        raise UserError(f"router '{short(name)}' has the signature forward{has}, expected {FORWARD}") from None
    return router_class


def build_router(
    name: str, router_class: type[nn.Module], embed_dims: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """The router with random weights. UserError: its constructor does not take these arguments, or fails."""
    try:
        inspect.signature(router_class).bind(embed_dims, **(options or {}))
    except TypeError as error:
        has = f"__init__{inspect.signature(router_class.__init__)}"
        raise UserError(f"router '{short(name)}': {error}: it has {has}, expected {CONSTRUCTOR}") from None
    try:
        return router_class(embed_dims, **(options or {}))
    except Exception as error:
        raise UserError(f"router '{short(name)}' cannot be built: {type(error).__name__}: {error}") from error


def checked_weights(weights_BQ2: Any, query_BQC: Tensor, name: str) -> Tensor:
    """The weights that a router gave, as they are.

    Their values are looked at on the CPU alone: on a GPU every forward pass would wait for the answer.

    Raises:
        ValueError: they are no tensor [B, Q, 2], or a weight is not in [-1, 1].
        FloatingPointError: a weight is not finite.
    """
    expected = (*query_BQC.shape[:2], 2)
    if not isinstance(weights_BQ2, Tensor) or weights_BQ2.shape != expected:
        shape = tuple(weights_BQ2.shape) if isinstance(weights_BQ2, Tensor) else type(weights_BQ2).__name__
        raise ValueError(f"router '{name}' returned {shape}, expected a tensor {expected}: (LiDAR, camera) of queries")
    if weights_BQ2.device.type == "cpu":
        largest = weights_BQ2.detach().abs().max().item() if weights_BQ2.numel() else 0.0
        if not largest < float("inf"):
            raise FloatingPointError(f"router '{name}' returned a weight that is not finite")
        if largest > 1 + TOLERANCE:
            raise ValueError(f"router '{name}' returned a weight of {largest:.3g}, expected weights in [-1, 1]")
    return weights_BQ2


def weight_logits(weights_BQ2: Tensor) -> Tensor:
    """Logits whose tanh the weights are, [B, Q, 2], for the supervision loss."""
    return weights_BQ2.clamp(-MAX_LOGIT_WEIGHT, MAX_LOGIT_WEIGHT).atanh()


def check_router(name: str, embed_dims: int = 128, options: Mapping[str, Any] | None = None) -> None:
    """Build a router of the user and run it once on small random inputs; the global random numbers stay as they are.

    Raises:
        UserError: it cannot be built, fails, or gives something else than finite weights in [-1, 1], [B, Q, 2].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        router_class = find_router(name)
        if router_class is None:
            raise UserError(f"no router '{short(name)}'", "Name it as my_file.py:NAME or package.module:NAME.")
        module = build_router(name, router_class, embed_dims, options).eval()
        layout = MemoryLayout((2, 2), (2, 1, 2), (-8.0, -8.0, -5.0, 8.0, 8.0, 3.0))
        queries, keys = torch.randn(2, 2, 3, embed_dims), torch.randn(2, 2, layout.num_keys, embed_dims)
        inputs = RouterInput(torch.zeros(2, 3, embed_dims), queries[1], *keys, torch.randn(2, 3, 3), layout)
        try:
            with torch.no_grad():
                checked_weights(module(inputs), inputs.query_BQC, name)
        except (ValueError, FloatingPointError) as error:
            text = str(error)
            raise UserError(text if text.startswith("router '") else f"router '{short(name)}' fails: {text}") from error
        except Exception as error:
            raise UserError(f"router '{short(name)}' fails: {type(error).__name__}: {error}") from error
