"""A pretended GPU: tensors that are on 'cuda:0' and hold CPU data, for tests on machines without a GPU.

It shows what CUDA would refuse or answer wrongly, and where the host waits. It does not show speed, the rounding of
real kernels, cuDNN, nccl, spconv's CUDA kernels or torch.compile. Only in processes with the environment of
``guard.environment``; see README.md in the folder above.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from .guard import EVENTS, REPORT, environment, library, unavailable

__all__ = ["cpu_alone", "enable", "environment", "library", "unavailable"]
MEMORY_BYTES = 10**10
_modes: list[Any] = []


def enable() -> None:
    """From now on device 'cuda' works in this thread, and ``torch.cuda`` reports one GPU. Idempotent.

    The guard has to be loaded before torch is imported; ``startup/sitecustomize.py`` does both.
    """
    if _modes:
        return
    import torch
    import torch.cuda.amp.common

    from . import attention, counters
    from .tensor import CudaTensor, PretendedCuda

    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.autograd.grad_mode.set_multithreading_enabled(False)  # a mode belongs to one thread
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # .data cannot change a tensor's type
    on_cpu = torch.nn.functional.scaled_dot_product_attention

    def attend(query: Any, *args: Any, **kwargs: Any) -> Any:
        on_gpu = isinstance(query, CudaTensor)
        return (attention.scaled_dot_product_attention if on_gpu else on_cpu)(query, *args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = attend
    torch.load = _load_to_gpu(torch.load)
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _from_numbers(getattr(torch, name)))
        torch.jit._builtins._register_builtin(
            getattr(torch, name), f"aten::{name}"
        )  # in scripted functions it is torch's
    for name, function in _cuda_functions(counters).items():
        setattr(torch.cuda, name, function)
    torch._C._show_config = lambda: "pretended CUDA"
    _modes.append(PretendedCuda())
    _modes[0].__enter__()
    if os.environ.get(EVENTS):
        atexit.register(counters.write_events, os.environ[EVENTS])
    if os.environ.get(REPORT):
        atexit.register(lambda: print(counters.current.text(), file=sys.stderr))


def _load_to_gpu(load: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.load`` whose ``map_location`` may be the GPU, for which there are no storages."""
    import torch
    from torch.utils._pytree import tree_map_only

    def load_to_gpu(file: Any, map_location: Any = None, **options: Any) -> Any:
        if not isinstance(map_location, str | torch.device) or torch.device(map_location).type != "cuda":
            return load(file, map_location, **options)
        return tree_map_only(torch.Tensor, lambda x: x.to("cuda"), load(file, "cpu", **options))

    return load_to_gpu


def _from_numbers(make: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.tensor`` for lists that hold CUDA tensors, whose numbers torch fetches one by one, below any dispatch."""
    from .tensor import CudaTensor

    def fetched(data: Any) -> Any:
        if isinstance(data, CudaTensor):
            return data.tolist() if data.dim() else data.item()
        return type(data)(map(fetched, data)) if type(data) in (list, tuple) else data

    def from_numbers(data: Any, *args: Any, **options: Any) -> Any:
        return make(fetched(data) if type(data) in (list, tuple) else data, *args, **options)

    return from_numbers


@contextmanager
def cpu_alone() -> Iterator[None]:
    """Nothing in this block is new on the GPU: a reference on the CPU runs without the price of dispatch."""
    _modes[0].__exit__(None, None, None)
    try:
        yield
    finally:
        _modes[0].__enter__()


def _cuda_functions(counters: Any) -> dict[str, Any]:
    """What replaces functions of ``torch.cuda``: one GPU of compute capability 9.0 that uses no memory."""
    import torch

    def constant(value: Any) -> Any:
        return lambda *_, **__: value  # a function each: dynamo has a table by function

    properties = SimpleNamespace(
        name="pretended GPU", uuid="0", multi_processor_count=1, total_memory=MEMORY_BYTES, major=9, minor=0
    )
    without_effect = (
        "set_device", "empty_cache", "reset_peak_memory_stats", "manual_seed", "manual_seed_all", "set_rng_state",
    )  # fmt: skip
    zero = ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved", "current_device")
    true = ("is_available", "is_initialized", "is_bf16_supported")
    functions = {name: constant(None) for name in (*without_effect, "_lazy_init")}
    functions |= {name: constant(0) for name in zero} | {name: constant(True) for name in true}
    functions |= {
        "device": lambda index: nullcontext(),
        "device_count": constant(1),
        "synchronize": lambda *_, **__: counters.wait("synchronize"),
        "get_device_name": constant(properties.name),
        "get_device_properties": constant(properties),
        "get_device_capability": constant((9, 0)),
        "mem_get_info": constant((MEMORY_BYTES, MEMORY_BYTES)),
        "get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
    }
    return functions
