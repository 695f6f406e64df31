"""Rows of backend `tiled`: time over flash attention without a bias in half precision, memory, repeats, host waits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
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
from aqr_bench.cost.gpu_check.settings import Emit, Settings, attempt
from aqr_bench.cost.timing import interleaved, ratio, summary, synchronise

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
) -> tuple[Layer, Callable[[], Any]]:
    """Random features and weights; and what is made once per forward pass, as a function to time."""
    s, g = SIZES[size], torch.Generator().manual_seed(0)
    s = replace(s, queries=queries or s.queries)
    layout, points = layout_of(s), random_points(s, g, device)
    grids = grid_windows(*points, layout, *windows)
    weights = tuple((torch.rand(s.batch, s.queries, generator=g) * 2 - 1).to(device).requires_grad_() for _ in range(2))
    form = ClosedForm(*weights, torch.ones((), device=device), "uniform", MAX_BIAS)

    def geometry() -> WindowBias:
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


def tiled_rows(settings: Settings, which: str, emit: Emit) -> None:
    """Rows by size, queries, windows and mode, the most useful first; errors against float64 at the end."""
    for dtype in DTYPES:
        for size in settings.attention:
            for queries in settings.queries:
                for windows in WINDOWS:
                    _rows_of_case(settings, size, queries, windows, dtype, emit)
        compare_bias(settings, settings.parity[0], "cross", dtype, ["tiled"], emit)


def _rows_of_case(
    settings: Settings, size: str, queries: int | None, windows: tuple[int, int], dtype: str, emit: Emit
) -> None:
    layer, geometry = make_layer(size, queries, windows, settings.device, getattr(torch, dtype))
    named = {
        "size": size,
        "queries": queries or SIZES[size].queries,
        "keys": layer.bias.num_keys,
        "windows": "/".join(map(str, windows)),
        "dtype": dtype,
    }
    share = float(tile_geometry(layer.bias).table_BTS.float().mean())
    for mode in MODES:
        row = {**named, "mode": mode, "flagged": round(share, 3)}
        attempt(emit, row, functools.partial(_measure, settings, layer, mode == MODES[1]))
    attempt(emit, {**named, "mode": "once per forward pass"}, functools.partial(_geometry_time, settings, geometry))


def _measure(settings: Settings, layer: Layer, backward: bool) -> dict[str, Any]:
    """Time over attention without a bias, its kernel, additional peak memory, equality of two runs, host waits."""
    backends = {"none": None, "tiled": "tiled"}
    functions = {name: functools.partial(layer.run, backend, backward) for name, backend in backends.items()}
    times = interleaved(functions, 2, settings.rounds)
    facts: dict[str, Any] = {
        "latency_ms": summary(times["tiled"].wall_ms),
        "ratio": ratio(times["tiled"].wall_ms, times["none"].wall_ms),
        "kernel of none": kernels_of(functions["none"]),
        "two runs": "equal" if _equal(functions["tiled"](), functions["tiled"]()) else "differ",
    }
    if settings.device == "cpu":
        return {**facts, "host waits": "not checked on a CPU"}
    with _no_host_wait():
        functions["tiled"]()
    peaks = {name: added_peak_mb(function, settings.device) for name, function in functions.items()}
    return {**facts, "host waits": "none", "more peak_mb": round(peaks["tiled"] - peaks["none"], 1)}


def _geometry_time(settings: Settings, geometry: Callable[[], Any]) -> dict[str, Any]:
    return {"latency_ms": summary(interleaved({"": geometry}, 2, settings.rounds)[""].wall_ms)}


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@contextmanager
def _no_host_wait() -> Iterator[None]:
    """An error where the host waits for the GPU."""
    synchronise()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
