"""Tensors that are on 'cuda:0' and hold CPU data, and the dispatch mode through which all operators go.

An operator with CPU and CUDA tensors is refused as CUDA refuses it, then computed on the CPU; what would make the host
wait for the GPU is counted with its place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from . import counters
from .attention import CPU_ONLY, STAND_INS

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default}
INDEX_PUTS = {
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
INDEXERS = {aten.index.Tensor, aten._unsafe_index.Tensor, *INDEX_PUTS}
# The size or the control flow of the result depends on numbers that are on the GPU.
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.nonzero_numpy.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.bincount.default: "bincount",
    aten._linalg_check_errors.default: "check of a linear solver",
}


class DeviceMismatchError(RuntimeError):
    """An operation with tensors of the CPU and of the GPU."""


class CudaTensor(Tensor):
    """A tensor on 'cuda:0'; ``inner`` holds its numbers on the CPU."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> CudaTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=False,
        )

    def __init__(self, inner: Tensor) -> None:
        assert type(inner) is Tensor and inner.device.type == "cpu", (type(inner), inner.device)
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> CudaTensor:
        return CudaTensor(inner["inner"])

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.inner!r})"

    def tolist(self) -> Any:
        counters.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy, at {counters.where()}")

    __array__ = numpy

    def __reduce_ex__(self, protocol: int) -> Any:
        counters.current.pickled[str(tuple(self.shape)), counters.where()] += 1
        return self.inner.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        else:
            copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return dispatch(func, args, kwargs or {})


class PretendedCuda(TorchDispatchMode):
    """Sees every operator, so that new tensors with ``device="cuda"`` become :class:`CudaTensor`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """One operator: checks, counts, and the result computed on the CPU."""
    on_gpu = _check_devices(func, args, kwargs)
    target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if not on_gpu and target != "cuda":
        return func(*args, **kwargs)
    if on_gpu:
        if func in CPU_ONLY:
            raise NotImplementedError(f"{func} does not exist on CUDA, at {counters.where()}")
        _count_wait(func, args)
    if func is aten._to_copy.default:
        return _moved(func, args, kwargs, target)
    if func is aten.copy_.default:
        into, source = args[:2]
        _count_copy(isinstance(source, CudaTensor), isinstance(into, CudaTensor))
        func(_inner(into), _inner(source), *args[2:])
        return into
    run = STAND_INS.get(func, func)
    options = {key: torch.device("cpu") if key == "device" else value for key, value in kwargs.items()}
    try:
        out = run(*map(_inner, args), **{key: _inner(value) for key, value in options.items()})
    except NotImplementedError as error:
        raise NotImplementedError(f"{func} at {counters.where()}: {error}") from error
    if target == "cpu":
        return out
    wrapped = _wrapped(out)
    if run is func and _aliases(func):
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    return wrapped


def _moved(func: Any, args: tuple, kwargs: dict[str, Any], target: str | None) -> Tensor:
    """``_to_copy``: to another device, dtype or memory format."""
    source = args[0]
    from_gpu = isinstance(source, CudaTensor)
    to_gpu = from_gpu if target is None else target == "cuda"
    _count_copy(from_gpu, to_gpu, bool(kwargs.get("non_blocking")))
    options = {key: torch.device("cpu") if key == "device" and value else value for key, value in kwargs.items()}
    copied = func(_inner(source), *args[1:], **options)
    if to_gpu:
        return CudaTensor(copied)
    return copied.clone() if copied is source.inner else copied


def _count_copy(from_gpu: bool, to_gpu: bool, non_blocking: bool = False) -> None:
    if from_gpu and not to_gpu:
        counters.wait("copy to the host")
    elif to_gpu and not from_gpu and not non_blocking:
        counters.upload("copy")


def _count_wait(func: Any, args: tuple) -> None:
    if func in WAITS:
        counters.wait(WAITS[func])
    elif func is aten.index.Tensor and _has_mask(args[1]):
        counters.wait("index by a mask")
    elif func in INDEX_PUTS and _has_mask(args[1]):
        counters.wait("assignment by a mask")


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _check_devices(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the operator runs on the GPU.

    Scalars (tensors without dimensions) may come from the CPU, and indices into a CUDA tensor are uploaded.

    Raises:
        DeviceMismatchError: it has tensors of both devices.
    """
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    gpu = [x for x in tensors if isinstance(x, CudaTensor)]
    cpu = [x for x in tensors if not isinstance(x, CudaTensor)]
    if not gpu or not cpu or func in COPIES:
        return bool(gpu)
    refused = [x for x in cpu if x.dim() > 0]
    if func in INDEXERS:
        indices = [x for x in args[1] if isinstance(x, Tensor)]
        if isinstance(args[0], CudaTensor):
            uploaded = [x for x in indices if not isinstance(x, CudaTensor)]
            if uploaded:
                counters.upload("index")
            refused = [x for x in refused if not any(x is index for index in uploaded)]
        elif any(isinstance(x, CudaTensor) for x in indices):
            refused = refused or [args[0]]
    if refused:
        shapes = [tuple(x.shape) for x in gpu], [tuple(x.shape) for x in refused]
        place, text = counters.where(), f"{func}: CUDA tensors {shapes[0]} and CPU tensors {shapes[1]}"
        counters.current.mismatches[text, place] += 1
        raise DeviceMismatchError(f"expected all tensors to be on the same device. {text}, at {place}")
    return bool(gpu)


# Arguments and results are tensors, or lists of them: no need for torch's general (and slow) trees.


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _inner(x: Any) -> Any:
    if isinstance(x, CudaTensor):
        return x.inner
    return type(x)(map(_inner, x)) if type(x) in (list, tuple) else x


def _wrapped(x: Any) -> Any:
    if type(x) is Tensor:
        return CudaTensor(x)
    return type(x)(map(_wrapped, x)) if type(x) in (list, tuple) else x


@functools.cache
def _aliases(func: Any) -> bool:
    """Whether the operator changes an argument or returns a view of one."""
    return any(part.alias_info is not None for part in (*func._schema.arguments, *func._schema.returns))
