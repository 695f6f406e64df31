"""The parts of the check with their shares of the time, and the worker that runs one of them in its own process."""

from __future__ import annotations

import importlib
import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.cost.gpu_check.settings import DTYPES, Settings
from aqr_bench.engine.job import one_line

CPU_FACTOR = 12  # a CPU gets this many times the seconds


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        name: its kind and, after a space, what it is applied to.
        rows: ``module.function`` in this package, called with settings, what follows the kind, and emit.
        budget_s: seconds on a GPU. Those of the parts that are not ``optional`` add up to less than eight minutes.
        optional: only run where ``--parts`` names it.
    """

    name: str
    title: str
    rows: str
    budget_s: float
    optional: bool = False


def parts_of(settings: Settings) -> list[Part]:
    """In the order in which they run, the most useful first; a part that may end a CUDA context is separate."""
    first, *others = settings.attention
    table = "Attention backends, size"
    return [
        Part("devices", "GPU facts and plain speed", "devices.device_rows", 15),
        Part("smoke", "Smoke tier from world to report", "end_to_end.tier_rows", 110),
        *(
            Part(f"bias_parity {dtype}", f"Bias in {dtype}: the device against float64 on the CPU",
                 "parity.bias_rows", 25 if dtype == "float32" else 20)
            for dtype in DTYPES
        ),
        *(
            Part(f"head_parity {dtype}", f"Head in {dtype}: the device against the CPU", "parity.head_rows", 20)
            for dtype in DTYPES
        ),
        Part(f"attention {first}", f"{table} {first}", "attention_table.attention_rows", 40),
        Part("amp", "Mixed precision: training step of the camera model", "detector.amp_rows", 40),
        Part("training", "Training step of the head: waits, queries, repeats, TF32", "training.step_rows", 40),
        Part("head_cost", "Heads at full size: time and memory", "head_cost.cost_rows", 45),
        Part("ddp", "One process of DistributedDataParallel", "detector.ddp_rows", 25),
        *(Part(f"attention {s}", f"{table} {s}", "attention_table.attention_rows", 40) for s in others),
        Part("flex", "FlexAttention", "training.flex_rows", 180, optional=True),
        *(
            Part(f"tiled {size}", f"Backend tiled over flash without a bias, size {size}", "tiled_table.tiled_rows",
                 270 if size == first else 200, optional=True)
            for size in settings.attention
        ),
        Part("quick", "Quick tier from world to report", "end_to_end.tier_rows", 580, optional=True),
    ]  # fmt: skip


def work(part: Part, settings: Settings, file: Path) -> int:
    """Run a part and append its rows, one JSON line each; its last line is its error if it failed. 1 if so."""
    from aqr_bench import compat

    if settings.device == "cpu":
        compat.use_threads()  # beside a GPU, torch's default: the host computes the float64 references
    with file.open("a", encoding="utf-8") as out:

        def emit(row: dict[str, Any]) -> None:
            out.write(json.dumps({"_part": part.name, **row}) + "\n")
            out.flush()

        try:
            module, _, function = part.rows.partition(".")
            rows = getattr(importlib.import_module(f"aqr_bench.cost.gpu_check.{module}"), function)
            kind, _, which = part.name.partition(" ")
            rows(settings, which or kind, emit)
        except Exception as error:
            facts = {"missing": error.name} if isinstance(error, ModuleNotFoundError) else {}
            emit({"error": one_line(error), "traceback": traceback.format_exc(), **facts})
            return 1
    return 0
