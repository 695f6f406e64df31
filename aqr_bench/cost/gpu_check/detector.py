"""The camera model with its image backbone: training steps in mixed precision, and as one process of DDP."""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from aqr_bench.cost.batches import free_memory
from aqr_bench.cost.full_head import CAMERAS as VIEWS
from aqr_bench.cost.full_head import head_size, make_inputs
from aqr_bench.cost.gpu_check.head_cost import with_batch_size
from aqr_bench.cost.gpu_check.parity import HEADS
from aqr_bench.cost.gpu_check.settings import CAMERAS, NOTE, Emit, Settings, attempt, model_config
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.timing import Timings, summary, timed
from aqr_bench.cost.training import TrainingStep

WARMUP = 3  # GradScaler halves its first scales and skips steps that overflow


@dataclass
class RandomInputModel:
    """A detector with batches of noise; the interface of ``BenchmarkModel`` that ``TrainingStep`` needs."""

    model: Any
    config: Any

    def training_batches(self, size: int) -> list[dict[str, Any]]:
        """One batch: six images a sample, cameras and objects."""
        pixels = head_size(self.config).pixels
        generator = torch.Generator().manual_seed(0)
        images = [torch.randint(0, 256, (VIEWS, 3, *pixels), generator=generator).float() for _ in range(size)]
        samples = make_inputs(self.config, size, truth=True).samples
        return [{"inputs": {"img": images}, "data_samples": samples}]


def build_detector(settings: Settings, name: str, backbone_of: str | None = None, **backbone: Any) -> RandomInputModel:
    """The published camera model with a head of ``parity.HEADS``; ``backbone_of``: another config's image branch."""
    from aqr_bench import compat

    compat.prepare()
    from mmdet3d.registry import MODELS
    from mmengine.registry import init_default_scope

    import aqr_bench.cmt  # noqa: F401

    config = model_config(CAMERAS, settings.size == "tiny")
    if backbone_of is not None:
        other = model_config(backbone_of, settings.size == "tiny")
        config.model.img_backbone, config.model.img_neck = other.model.img_backbone, other.model.img_neck
        config.test_dataloader.dataset.pipeline = other.test_dataloader.dataset.pipeline
    config.model.img_backbone.update(backbone)
    config.model.pts_bbox_head.update(copy.deepcopy(HEADS[name]))
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    return RandomInputModel(MODELS.build(config.model).to(settings.device), config)


def amp_rows(settings: Settings, which: str, emit: Emit) -> None:
    """One row per head: images per second and peak memory of the config's own training step with GradScaler."""
    for name in ("plain", "cross"):
        cost = functools.partial(_amp, settings, build_detector(settings, name))
        attempt(emit, {"config": CAMERAS, "head": name}, functools.partial(with_batch_size, settings.batch, cost))
        del cost
        free_memory()


def _amp(settings: Settings, detector: RandomInputModel, batch: int) -> dict[str, Any]:
    step, times = TrainingStep(detector, batch), Timings()
    before = [p.detach().clone() for p in detector.model.pts_bbox_head.parameters()]
    try:
        for _ in range(WARMUP):
            step()
        with PeakMemory() as memory:
            step()
        for _ in range(settings.rounds):
            timed(step, times)
    finally:
        step.close()
    latency = summary(times.wall_ms)
    facts = {"precision": step.precision, "latency_ms": latency, "memory": memory.facts}
    facts["images_per_s"] = 1000 * VIEWS * batch / latency["median"]
    after = list(detector.model.pts_bbox_head.parameters())
    if not all(torch.isfinite(p).all() for p in after):
        facts["failed"] = "weights are no longer finite"
    elif all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        facts["failed"] = "every step was skipped: gradients overflow at every loss scale that was tried"
    return facts


def ddp_rows(settings: Settings, which: str, emit: Emit) -> None:
    """One row per pair of settings: two steps in a group of one process, nccl on a GPU and gloo on a CPU.

    A training of several processes has both: the published ResNet's checkpointing (``with_cp``), and
    ``find_unused_parameters``, since not every process sees every sensor. The other pairs show which of the two is
    the cause of a failure.
    """
    backend = "nccl" if settings.device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(str(Path(folder) / "store"), 1)
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            for with_cp, find_unused in itertools.product((True, False), repeat=2):
                row = {"backend": backend, "with_cp": with_cp, "find_unused_parameters": find_unused}
                attempt(emit, row, functools.partial(_ddp, settings, with_cp, find_unused))
                free_memory()
        finally:
            distributed.destroy_process_group()


def _ddp(settings: Settings, with_cp: bool, find_unused: bool) -> dict[str, Any]:
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import OptimWrapper

    detector = build_detector(settings, "cross", NOTE, with_cp=with_cp)
    model = MMDistributedDataParallel(
        detector.model.train(), device_ids=None, broadcast_buffers=False, find_unused_parameters=find_unused
    )
    optimiser = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-6))
    (batch,) = detector.training_batches(1)
    timings = Timings()
    for _ in range(2):
        timed(lambda: model.train_step(copy.copy(batch), optimiser), timings)
    return {"latency_ms": summary(timings.wall_ms[1:])}
