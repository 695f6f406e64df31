"""Rows of backend `tiled`: time over flash attention without a bias in half precision, memory, repeats, host waits."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aqr_bench.bias import WindowBias, biased_attention, grid_windows, window_bias
from aqr_bench.bias.attention.tiled_flex import block_mask, block_size
from aqr_bench.bias.attention.tiles import in_patches, tile_geometry
from aqr_bench.bias.generator import MAX_BIAS
from aqr_bench.bias.windows import ClosedForm
from aqr_bench.cost.attention_kernels import kernels_of
from aqr_bench.cost.gpu_check.attention_cases import SIZES, layout_of, random_points
from aqr_bench.cost.gpu_check.attention_table import MODES, added_peak_mb
from aqr_bench.cost.gpu_check.parity import compare_bias
from aqr_bench.cost.gpu_check.settings import Emit, Settings, facts_or_failure
from aqr_bench.cost.timing import interleaved, ratio, summary, synchronise
from aqr_bench.engine.job import one_line

WINDOWS = ((5, 5), (5, 15), (15, 15))  # cells a side, BEV and cameras
DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Layer:
    """Heads of queries, keys (stored in patches) and values, and a bias; heads and its weights are leaves."""

    heads: tuple[Tensor, Tensor, Tensor]
    bias: WindowBias
    weights: tuple[Tensor, Tensor]

    def run(self, backend: str | None, backward: bool) -> list[Tensor]:
        """Output and gradients of one pass; backend None: attention without a bias."""
        leaves = [*self.heads, *self.weights] if backend else list(self.heads)
        with torch.set_grad_enabled(backward):
            out = biased_attention(*self.heads, bias=self.bias if backend else None, backend=backend or "auto")
            return [out.detach(), *(torch.autograd.grad(out, leaves, out.detach()) if backward else ())]


def make_layer(
    size: str, queries: int | None, windows: tuple[int, int], device: str, dtype: torch.dtype
) -> tuple[Layer, Callable[[], WindowBias]]:
    """Random features and weights; and what is made once per forward pass, as a function to time."""
    s, g = SIZES[size], torch.Generator().manual_seed(0)
    s = replace(s, queries=queries or s.queries)
    layout, points = layout_of(s), random_points(s, g, device)
    weights = tuple((torch.rand(s.batch, s.queries, generator=g) * 2 - 1).to(device).requires_grad_() for _ in range(2))
    form = ClosedForm(*weights, torch.ones((), device=device), "uniform", MAX_BIAS)

    def geometry() -> WindowBias:
        grids = grid_windows(*points, layout, *windows)
        zeros = points[0].new_zeros(s.batch, s.queries, sum(w.size**2 for w in grids))
        bias = in_patches(window_bias(grids, zeros, layout.num_keys, closed_form=form))
        if device != "cpu":
            for with_cells in (False, True):
                block_mask(tile_geometry(bias), with_cells, block_size(torch.device(device)))
        return bias

    def random_heads(tokens: int) -> Tensor:
        rows = torch.randn(s.batch, tokens, s.heads, s.width // s.heads, generator=g)  # as projections leave them
        return rows.to(device, dtype).transpose(1, 2).requires_grad_()

    heads = tuple(random_heads(tokens) for tokens in (s.queries, layout.num_keys, layout.num_keys))
    return Layer(heads, geometry(), weights), geometry


def tiled_rows(settings: Settings, size: str, emit: Emit) -> None:
    """Rows by dtype, mode, queries and windows, the most useful first; with the first size errors against float64."""
    for dtype in DTYPES:
        cases = []
        for queries, windows in itertools.product(settings.queries, WINDOWS):
            named = {"size": size, "queries": queries or SIZES[size].queries, "windows": "/".join(map(str, windows))}
            named["dtype"] = dtype
            try:
                layer, geometry = make_layer(size, queries, windows, settings.device, getattr(torch, dtype))
                named |= {"keys": layer.bias.num_keys}
                named["flagged"] = round(float(tile_geometry(layer.bias).table_BTS.float().mean()), 3)
                cases.append((named, layer, geometry))
            except Exception as error:
                emit({**named, "failed": one_line(error)})
        for mode, (named, layer, _) in itertools.product(MODES, cases):
            emit({**named, "mode": mode, **_measure(settings, layer, mode == MODES[1])})
        for named, _, geometry in cases:
            checks = [functools.partial(_geometry_time, settings, geometry), _waits(settings, geometry)]
            emit({**named, "mode": "once per forward pass", **_facts_of(checks)})
        if size == settings.attention[0]:
            compare_bias(settings, settings.parity[0], "cross", dtype, ["tiled"], emit)


def _measure(settings: Settings, layer: Layer, backward: bool) -> dict[str, Any]:
    """Time over attention without a bias, its kernel, equality of two runs, additional peak memory, host waits."""
    none, tiled = (functools.partial(layer.run, backend, backward) for backend in (None, "tiled"))

    def times() -> dict[str, Any]:
        taken = interleaved({"none": none, "tiled": tiled}, 2, settings.rounds)
        facts = {"latency_ms": summary(taken["tiled"].wall_ms), "none_ms": summary(taken["none"].wall_ms)}
        return facts | {"ratio": ratio(taken["tiled"].wall_ms, taken["none"].wall_ms)}

    def two_runs() -> dict[str, Any]:
        if not all(torch.equal(a, b) for a, b in zip(tiled(), tiled(), strict=True)):
            return {"two runs": "differ", "failed": "two equal runs differ"}
        return {"two runs": "equal"}

    def more_memory() -> dict[str, Any]:
        if settings.device == "cpu":  # the resident set of a process that has run others is of no use
            return {}
        peaks = [added_peak_mb(function, settings.device) for function in (tiled, none)]
        return {"more peak_mb": round(peaks[0] - peaks[1], 1)}

    return _facts_of(
        [times, lambda: {"kernel of none": kernels_of(none)}, two_runs, more_memory, _waits(settings, tiled)]
    )


def _facts_of(checks: Sequence[Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """The facts of all checks; ``failed`` with the first error, which does not take the facts of the others."""
    facts: dict[str, Any] = {}
    for check in checks:
        more = facts_or_failure(check)
        facts = more | facts if "failed" in facts else facts | more
    return facts


def _geometry_time(settings: Settings, geometry: Callable[[], Any]) -> dict[str, Any]:
    return {"latency_ms": summary(interleaved({"": geometry}, 2, settings.rounds)[""].wall_ms)}


def _waits(settings: Settings, function: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    """A check that the host does not wait for the GPU in ``function``, which has run before."""

    def check() -> dict[str, Any]:
        if settings.device == "cpu":
            return {"host waits": "not checked on a CPU"}
        try:
            with _no_host_wait():
                function()
        except RuntimeError as error:
            return {"host waits": "some", "failed": f"host waits: {one_line(error)}"}
        return {"host waits": "none"}

    return check


@contextmanager
def _no_host_wait() -> Iterator[None]:
    """An error where the host waits for the GPU."""
    synchronise()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
