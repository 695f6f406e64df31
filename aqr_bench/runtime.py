"""Make mmdet3d usable here: call prepare() before any import of mmcv, mmdet or mmdet3d."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
import types
import warnings
from typing import Any

GUARD_FLAG = "__aqr_bench_guard__"


class _MissingOps(types.ModuleType):
    """Stands in for ``mmcv._ext`` with mmcv-lite: every op exists and raises when it is called."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args, **_kwargs):
            raise RuntimeError(
                f"mmcv's compiled operator '{name}' was called, but mmcv-lite has none. "
                "Install compiled mmcv (pip install mmcv==2.1.0) or use a config that does not need it."
            )

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
    _allow_checkpoint_classes()
    _read_pickles_as_plain_data()
    _recompute_without_reentry()


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


def use_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions on a GPU may use TF32; of this process, before it uses CUDA.

    PyTorch's defaults differ: off for products, on for cuDNN's convolutions. Here one setting says it for both.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


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


def _recompute_without_reentry() -> None:
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


def _read_pickles_as_plain_data() -> None:
    """Let mmengine, and with it every data set, sampler and metric of mmdet3d, execute nothing out of an info file.

    Its own handler unpickles whatever a file asks for, and info files come from anybody.
    """
    from mmengine.fileio import PickleHandler, register_handler

    from aqr_bench.data.plain_pickle import read_plain_pickle

    class PlainPickleHandler(PickleHandler):
        def load_from_fileobj(self, file, **_options):
            return read_plain_pickle(file)

    register_handler(["pkl", "pickle"])(PlainPickleHandler)


def _method_of_checkpoint(owner: object, name: str) -> object:
    """The few methods that mmengine pickles by name; a stand-in for ``getattr`` that gives out nothing else."""
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    known = {
        HistoryBuffer: ("min", "max", "mean", "current"),
        OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
    }
    if owner not in known or name not in known[owner]:
        raise ValueError(f"the checkpoint asks for '{name}' of {owner!r}, which no training checkpoint needs")
    return getattr(owner, name)
