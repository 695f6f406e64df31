"""Many cases in one process, each with a result: RUNNER OUT.json [NAME ...]; importing mmdet3d costs more than a case.

A case is a function that returns facts (numbers, texts) or raises. It also fails if anything was refused or answered
wrongly by the pretended GPU, even where the product caught the error.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Case = Callable[[], dict[str, Any]]
LAST_LINES = 30  # of a traceback


def main(cases: Mapping[str, Case], argv: list[str] | None = None) -> int:
    """Run the named cases (default: all) and write ``{name: {"error", "facts", "cpu_s"}}`` after each of them."""
    out, *names = sys.argv[1:] if argv is None else argv
    results: dict[str, dict[str, Any]] = {}
    for name in names or cases:
        results[name] = run(cases[name])
        Path(out).write_text(json.dumps(results))
    return 0


def run(case: Case) -> dict[str, Any]:
    """Result of one case: ``error`` is None or a text for the reader of a failed test; ``cpu_s`` is for information."""
    from pretended_cuda import counters

    error, facts, start = None, {}, time.process_time()
    with counters.counted() as events:
        try:
            facts = case()
        except Exception:
            error = "\n".join(traceback.format_exc().splitlines()[-LAST_LINES:])
    wrong = [f"{text} at {place}" for text, place in (*events.mismatches, *events.faults)]
    if wrong and error is None:
        error = "not right on a GPU: " + "; ".join(wrong)
    return {"error": error, "facts": facts, "cpu_s": round(time.process_time() - start, 2)}
