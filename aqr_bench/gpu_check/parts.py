"""The parts of the check, and the worker that runs one of them in a process of its own."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench import runtime
from aqr_bench.gpu_check.settings import Settings, one_line

Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Part:
    """One part: what it tells, the seconds that it may take, and whether it needs the wheels of the head."""

    name: str
    title: str
    budget_s: float
    needs_head: bool


def parts_of(settings: Settings) -> list[Part]:
    """In the order in which they run: what is worth most comes first, in case that time runs out."""
    first, *others = zip(settings.attention, settings.heads, strict=True)
    parts = [
        Part("devices", "Devices, versions and plain speed", 40, False),
        Part("bias_parity", "Bias: the device against float64 on the CPU", 60, False),
        Part(f"attention {first[0]}", f"Attention backends, size {first[0]}", 90, False),
        Part("head_parity", f"Head of {settings.parity_head}: the device against the CPU", 80, True),
        Part(f"head {first[1]}", f"Head of {first[1]}: inference and training", 80, True),
    ]
    for size, config in others:
        parts.append(Part(f"attention {size}", f"Attention backends, size {size}", 90, False))
        parts.append(Part(f"head {config}", f"Head of {config}: inference and training", 80, True))
    return [*parts, Part("decoder_compile", "torch.compile on the decoder", 90, True)]


def run_part(name: str, settings: Settings, emit: Emit) -> None:
    """Run the part called ``name``, giving each row to ``emit`` as soon as it is there; errors go through."""
    kind, _, which = name.partition(" ")
    if kind == "devices":
        from aqr_bench.gpu_check.devices import device_rows

        device_rows(settings, emit)
    elif kind == "bias_parity":
        from aqr_bench.gpu_check.parity import bias_rows

        bias_rows(settings, emit)
    elif kind == "attention":
        from aqr_bench.gpu_check.attention_table import attention_rows

        attention_rows(settings, which, emit)
    elif kind == "head_parity":
        from aqr_bench.gpu_check.parity import head_rows

        head_rows(settings, emit)
    elif kind == "head":
        from aqr_bench.gpu_check.head_cost import cost_rows

        cost_rows(settings, which, emit)
    elif kind == "decoder_compile":
        from aqr_bench.gpu_check.decoder import compile_rows

        compile_rows(settings, emit)
    else:
        raise ValueError(f"no part '{name}'")


def work(name: str, settings: Settings, file: Path) -> int:
    """Run a part and write its rows, one JSON line each; the last line is its error if it failed. 1 if so."""
    if settings.device == "cpu":
        runtime.use_threads()  # a GPU's host keeps torch's own number: it has the float64 references to compute
    with file.open("w", encoding="utf-8") as out:

        def emit(row: dict[str, Any]) -> None:
            out.write(json.dumps(row) + "\n")
            out.flush()

        try:
            run_part(name, settings, emit)
        except Exception as error:
            emit({"error": one_line(error), "traceback": traceback.format_exc()})
            return 1
    return 0
