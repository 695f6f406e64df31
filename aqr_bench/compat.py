"""Make mmdet3d and worker processes usable here: call prepare() before any import of mmcv, mmdet or mmdet3d."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import logging
import multiprocessing
import os
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aqr_bench.errors import UserError, require_file, short
from aqr_bench.foreign_files import HEAD_BYTES, placeholder

GUARD_FLAG = "__aqr_bench_guard__"


class MissingOperatorError(RuntimeError):
    """A compiled operator of mmcv was called, and mmcv-lite has none; ``operator`` is its name."""

    def __init__(self, operator: str) -> None:
        self.operator = operator
        super().__init__(
            f"mmcv's compiled operator '{operator}' was called, but mmcv-lite has none. "
            "Install compiled mmcv (pip install mmcv==2.1.0) or use a config that does not need it."
        )


class _MissingOps(types.ModuleType):
    """Stands in for ``mmcv._ext`` with mmcv-lite: every op exists and raises when it is called."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args, **_kwargs):
            raise MissingOperatorError(name)

        missing.__name__ = name
        return missing


def has_compiled_mmcv() -> bool:
    """True if a real ``mmcv._ext`` extension is installed."""
    if getattr(sys.modules.get("mmcv._ext"), GUARD_FLAG, False):
        return False
    spec = importlib.util.find_spec("mmcv")
    if spec is None or not spec.submodule_search_locations:
        return False
    return importlib.machinery.PathFinder.find_spec("mmcv._ext", spec.submodule_search_locations) is not None


def prepare() -> None:
    """Install the ``mmcv._ext`` guard if needed, quiet known noise, and import the model registries.

    mmdet3d 1.4 imports ``mmcv.ops`` unconditionally; with mmcv-lite that fails at import although
    nothing here calls a compiled op. Idempotent.
    """
    for message in (".*torch.meshgrid.*", ".*Unsupported operator.*", ".*pkg_resources.*", ".*timm.models.layers.*"):
        warnings.filterwarnings("ignore", message=message)
    if "mmcv._ext" not in sys.modules and not has_compiled_mmcv():
        guard = _MissingOps("mmcv._ext")
        setattr(guard, GUARD_FLAG, True)
        guard.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
        sys.modules["mmcv._ext"] = guard
    _log_warnings_to_stderr()
    _allow_checkpoint_classes()
    _register_safe_pickle()
    _use_nonreentrant_checkpointing()


def _is_no_noise(record: logging.LogRecord) -> bool:
    """Not what mmengine says of every data set: its metainfo has a version, which could have been a file's name."""
    return "is not a meta file" not in record.getMessage()


def _log_warnings_to_stderr() -> None:
    """Keep stdout for what a command prints: mmengine's default logger writes tables of every data set to it.

    It holds on to the stdout at the time of its creation, which a later redirect_stdout does not change. The logger of
    a Runner is another one, with the level of its config.
    """
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance("mmengine")
    if logging.lastResort not in logger.handlers:
        logger.filters = [*logger.handlers[0].filters, _is_no_noise]  # the first: no warning twice
        logger.handlers = [logging.lastResort]  # warnings, to stderr as it is at the time of the message


def use_threads(count: int | None = None) -> int:
    """Limit torch to ``count`` intra-op threads (default: AQR_THREADS or OMP_NUM_THREADS or 1).

    One thread per process is the fast setting on small machines: two spinning OpenMP threads ran a small
    training four times slower than one.
    """
    import torch

    if count is None:
        count = int(os.environ.get("AQR_THREADS") or os.environ.get("OMP_NUM_THREADS") or 1)
    torch.set_num_threads(count)
    return count


def use_one_thread() -> None:
    """Limit torch and OpenCV to one thread: for worker processes that share the cores."""
    import cv2

    use_threads(1)
    cv2.setNumThreads(1)


def use_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 for float32 matrix products and convolutions of this process, before it uses CUDA.

    PyTorch's defaults differ: off for products, on for cuDNN's convolutions. Here one setting is for both.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def spawn_pool(
    workers: int, initializer: Callable[[], None] | None = None, note: str = ""
) -> Iterator[ProcessPoolExecutor]:
    """Fresh worker processes, which end when this process does, however it ends. Leaving the block cancels what waits.

    A fork would copy the threads of OpenCV, BLAS and torch in whatever state they are in.

    Args:
        initializer: called in each worker before its first task; a module's function.
        note: added to the message when a worker was killed.
    Raises:
        UserError: a worker process was killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(initializer,))
    try:
        yield pool
    except BrokenProcessPool:
        what = "a worker process was killed, perhaps because memory ran out"
        raise UserError(f"{what}; run the same command again with fewer --workers{note}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(initializer: Callable[[], None] | None) -> None:
    end_with_parent()
    if initializer is not None:
        initializer()


def end_with_parent() -> None:
    """Make a worker process end when its parent does: otherwise it would wait for work forever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _allow_checkpoint_classes() -> None:
    """Let weights-only torch.load read the classes in mmengine's own checkpoints (message hub, history)."""
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.optim.scheduler import param_scheduler as scheduler

    scalar_types = [type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    arrays = [np.core.multiarray._reconstruct, np.core.multiarray.scalar, np.ndarray, np.dtype]
    torch.serialization.add_safe_globals([HistoryBuffer, *arrays, *scalar_types])
    # History buffers and one-cycle schedules pickle their own methods through getattr.
    schedulers = [c for c in vars(scheduler).values() if isinstance(c, type)]
    torch.serialization.add_safe_globals([*schedulers, (_method_of_checkpoint, "builtins.getattr")])


def to_cpu(sample: Any) -> Any:
    """A data sample with all its tensors and boxes on the CPU.

    mmengine's ``cpu()`` leaves mmdet3d's boxes where they are: it moves tensors and data elements, which they are not.
    """
    return sample.to("cpu")


def _use_nonreentrant_checkpointing() -> None:
    """Let activation checkpointing (``with_cp``) be non-reentrant wherever a model does not choose.

    torch still takes the reentrant kind there, a backward pass inside the backward pass. DistributedDataParallel then
    marks parameters ready twice where it looks for unused ones, as it has to here: a sensor may be missing in all
    samples that a process sees. Both kinds give the same gradients.
    """
    from torch.utils import checkpoint as module

    original = module.checkpoint
    if getattr(original, GUARD_FLAG, False):
        return

    @functools.wraps(original)
    def checkpoint(function, *args, use_reentrant=None, **options):
        return original(function, *args, use_reentrant=bool(use_reentrant), **options)

    setattr(checkpoint, GUARD_FLAG, True)
    module.checkpoint = checkpoint


def _register_safe_pickle() -> None:
    """Let mmengine, and with it every data set, sampler and metric of mmdet3d, execute nothing in an info file.

    mmengine's handler unpickles whatever a file asks for, and info files may come from anywhere.
    """
    from mmengine.fileio import PickleHandler, register_handler

    class SafePickleHandler(PickleHandler):
        def load_from_fileobj(self, file, **_options):
            return read_safe_pickle(file)

    register_handler(["pkl", "pickle"])(SafePickleHandler)


def _method_of_checkpoint(owner: object, name: str) -> object:
    """The few methods that mmengine pickles by name; a stand-in for ``getattr`` that returns nothing else."""
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    allowed = {
        HistoryBuffer: ("min", "max", "mean", "current"),
        OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
    }
    if owner not in allowed or name not in allowed[owner]:
        raise ValueError(f"the checkpoint asks for '{name}' of {owner!r}, which no training checkpoint needs")
    return getattr(owner, name)


def load_safe_pickle(path: str | Path, what: str = "pickle", remedy: str = "Check the path.") -> Any:
    """Read a pickle file of plain data, whoever wrote it.

    Files written with numpy 1.x and 2.x can be read: they differ only in the names of numpy's modules.

    Args:
        path: the file.
        what: what the file is, for messages ("ground-truth database").
        remedy: how to get a valid one, for messages.
    Returns:
        None, bools, numbers, strings, bytes, tuples, lists, dicts, sets, numpy arrays, dtypes and scalars.
    Raises:
        UserError: the file is missing, truncated or damaged, or asks for anything else by name.
    """
    path = require_file(path, what, remedy)
    with path.open("rb") as handle, with_pickle_name(f"{what} {path}", remedy):
        return read_safe_pickle(handle)


class PickleError(UserError):
    """A pickle that is damaged, or no plain data; it does not name the file, see :func:`with_pickle_name`."""


@contextmanager
def with_pickle_name(name: str, remedy: str = "") -> Iterator[None]:
    """Add the file's name and the remedy to a PickleError of :func:`read_safe_pickle`."""
    try:
        yield
    except PickleError as error:
        raise UserError(f"{name} {error.message}", error.remedy or remedy) from error


def read_safe_pickle(handle: BinaryIO) -> Any:
    """Plain data out of an open file, as :func:`load_safe_pickle`; raises PickleError, which names no file."""
    start = handle.tell() if handle.seekable() else None
    try:
        return _RestrictedUnpickler(handle).load()
    except _RefusedError as error:
        raise PickleError(f"asks for '{error}', which is no plain data; nothing of it was executed") from None
    except Exception as error:  # a damaged stream can fail in any opcode
        if start is not None:
            handle.seek(start)
            if (kind := placeholder(handle.read(HEAD_BYTES))) is not None:
                raise PickleError(f"is {kind.name}", kind.remedy) from error
        raise PickleError(f"is truncated or damaged ({type(error).__name__}: {short(error, 160)})") from error


class _RefusedError(Exception):
    """Holds the name of the refused global."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((_ALIASES.get(module, module), name))
        if allowed is None:
            raise _RefusedError(f"{module}.{name}")
        return allowed


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for ``_codecs.encode``: protocols 0 to 2 write bytes as latin-1 text, and need no other codec."""
    if encoding != "latin1":
        raise ValueError(f"codec '{encoding}'")
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Stands in for numpy's function of this name, by which protocol 5 writes arrays."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


# Taken from pickles rather than imported: the modules' names differ between numpy 1 and numpy 2.
_reconstruct: Callable = np.zeros(1).__reduce__()[0]
_scalar: Callable = np.float64(0).__reduce__()[0]

_ALIASES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
}
