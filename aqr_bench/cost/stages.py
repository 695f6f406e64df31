"""How long each stage of the detector takes: hooks around its parts, each charged with its own time alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from aqr_bench.cost.timing import synchronise

# Stage -> the parts of the detector, by their official names. What lies inside another stage is charged to itself only:
# the head without its decoder and its router is the head.
PARTS = {
    "preprocess": ("data_preprocessor",),
    "voxelise": ("pts_voxel_layer", "data_preprocessor.voxel_layer"),
    "image_backbone": ("img_backbone", "img_neck"),
    "lidar_backbone": ("pts_voxel_encoder", "pts_middle_encoder", "pts_backbone", "pts_neck"),
    "router": ("pts_bbox_head.aqr",),
    "decoder": ("pts_bbox_head.transformer",),
    "head": ("pts_bbox_head",),
}
DECODE = "decode"
DECODERS = ("get_bboxes", "predict_by_feat")  # methods of a head that make boxes of its output: CMT's, mmdet3d's
OTHER = "other"
NOTE = (
    "router: the router, the geometry of its windows and the bias that it generates. decoder: all attention, its bias "
    "and the locality prior. head: what is left of the head, embeddings and output layers. other: between the stages. "
    "Waiting for the device between stages makes the whole a little slower than a plain inference."
)


class Stages:
    """Times the stages of a detector in each run of ``time``; removes its hooks at the end of the block.

    ``clock``: seconds; the wall's, or ``time.process_time``, which other processes disturb less.
    """

    def __init__(self, model: Any, clock: Callable[[], float] | None = None) -> None:
        self.model, self._clock = model, clock or time.perf_counter
        self.runs: list[dict[str, float]] = []
        self._own: dict[str, float] = {}
        self._open: list[list[Any]] = []  # [stage, start, time of the stages inside]
        self._handles: list[Any] = []

    def __enter__(self) -> Stages:
        for stage, names in PARTS.items():
            for name in names:
                part = _part(self.model, name)
                if part is not None:
                    self._handles.append(part.register_forward_pre_hook(lambda *_, stage=stage: self._start(stage)))
                    self._handles.append(part.register_forward_hook(lambda *_: self._stop()))
        head = _part(self.model, "pts_bbox_head")
        self._decoder = next((name for name in DECODERS if hasattr(head, name)), None)
        if self._decoder is not None:
            setattr(head, self._decoder, self._around(getattr(head, self._decoder)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self._decoder is not None:
            delattr(self.model.pts_bbox_head, self._decoder)  # the instance's own, which hides the class's

    def time(self, function: Callable[[], Any]) -> None:
        """Run ``function`` once and keep what each stage of it took."""
        self._own, self._open = {}, []
        synchronise()
        start = self._clock()
        function()
        synchronise()
        whole = 1000 * (self._clock() - start)
        self.runs.append({**self._own, OTHER: whole - sum(self._own.values()), "whole": whole})

    def facts(self) -> dict[str, Any]:
        """Median milliseconds by stage in the order of the data, the whole, and the share that has a name."""
        names = [*PARTS, DECODE, OTHER, "whole"]
        seen = [name for name in names if any(name in run for run in self.runs)]
        medians = {name: statistics.median(run.get(name, 0.0) for run in self.runs) for name in seen}
        named = statistics.median(1 - run[OTHER] / run["whole"] for run in self.runs)
        return {"median_ms": medians, "named_share": named, "runs": len(self.runs), "note": NOTE}

    def _start(self, stage: str) -> None:
        synchronise()
        self._open.append([stage, self._clock(), 0.0])

    def _stop(self) -> None:
        synchronise()
        stage, start, inside = self._open.pop()
        took = 1000 * (self._clock() - start)
        self._own[stage] = self._own.get(stage, 0.0) + took - inside
        if self._open:
            self._open[-1][2] += took

    def _around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def around(*args: Any, **kwargs: Any) -> Any:
            self._start(DECODE)
            try:
                return method(*args, **kwargs)
            finally:
                self._stop()

        return around


def _part(model: Any, dotted: str) -> Any:
    """A submodule, or None where the model has none of that name."""
    for name in dotted.split("."):
        model = getattr(model, name, None)
    return model
