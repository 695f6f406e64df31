"""Time of each stage of the detector: hooks around its modules, without the time of the stages inside."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from aqr_bench.cost.timing import synchronise

# Stage -> modules of the detector, by their official names. A stage inside another one counts only once: the head is
# without its decoder and its router.
PARTS = {
    "preprocess": ("data_preprocessor",),
    "voxelise": ("pts_voxel_layer", "data_preprocessor.voxel_layer"),
    "image_backbone": ("img_backbone", "img_neck"),
    "lidar_backbone": ("pts_voxel_encoder", "pts_middle_encoder", "pts_backbone", "pts_neck"),
    "router": ("pts_bbox_head.aqr", "pts_bbox_head.transformer.encoder"),
    "decoder": ("pts_bbox_head.transformer",),
    "head": ("pts_bbox_head",),
}
DECODE = "decode"
DECODERS = ("get_bboxes", "predict_by_feat")  # methods of a head that decode boxes: CMT's, mmdet3d's
OTHER = "other"
NOTE = (
    "router: the router, the geometry of its windows and the bias that it generates. decoder: all attention, its bias "
    "and the locality prior. head: the rest of the head, embeddings and output layers. other: between the stages. "
    "Waiting for the device between stages makes the total a little slower than a plain inference."
)


class Stages:
    """Times the stages of a detector in each run of ``time``; removes its hooks at the end of the block.

    ``clock``: seconds; the wall's, or ``time.process_time``, which other processes disturb less.
    """

    def __init__(self, model: Any, clock: Callable[[], float] | None = None) -> None:
        self.model, self._clock = model, clock or time.perf_counter
        self.runs: list[dict[str, float]] = []
        self._times: dict[str, float] = {}
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
            delattr(self.model.pts_bbox_head, self._decoder)  # the instance's attribute, which hides the method

    def time(self, function: Callable[[], Any]) -> None:
        """Run ``function`` once and record the time of each stage."""
        self._times, self._open = {}, []
        synchronise()
        start = self._clock()
        function()
        synchronise()
        total = 1000 * (self._clock() - start)
        self.runs.append({**self._times, OTHER: total - sum(self._times.values()), "whole": total})

    def facts(self) -> dict[str, Any]:
        """Median milliseconds by stage in the order of the data, in total, and the share of the named stages."""
        names = [*PARTS, DECODE, OTHER, "whole"]
        timed = [name for name in names if any(name in run for run in self.runs)]
        medians = {name: statistics.median(run.get(name, 0.0) for run in self.runs) for name in timed}
        named = statistics.median(1 - run[OTHER] / run["whole"] for run in self.runs)
        return {"median_ms": medians, "named_share": named, "runs": len(self.runs), "note": NOTE}

    def _start(self, stage: str) -> None:
        synchronise()
        self._open.append([stage, self._clock(), 0.0])

    def _stop(self) -> None:
        synchronise()
        stage, start, inside = self._open.pop()
        took = 1000 * (self._clock() - start)
        self._times[stage] = self._times.get(stage, 0.0) + took - inside
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
