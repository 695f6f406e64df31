"""FlexAttention, run only where asked for: its errors, its times beside no bias, and what it compiles."""

from __future__ import annotations

from aqr_bench.cost.gpu_check.attention_table import WINDOWS, timed_rows
from aqr_bench.cost.gpu_check.head_cost import TrainingHead
from aqr_bench.cost.gpu_check.parity import compare_bias
from aqr_bench.cost.gpu_check.settings import DTYPES, NOTE, Emit, Settings, attempt
from aqr_bench.cost.gpu_check.training import changing


def flex_rows(settings: Settings, which: str, emit: Emit) -> None:
    """Its errors, then its times beside no bias, then graphs compiled where the number of queries changes."""
    from aqr_bench.cmt.attention import set_backend

    for dtype in DTYPES:
        compare_bias(settings, settings.parity[0], "cross", dtype, ["flex"], emit)
    for size in settings.attention:
        for dtype in DTYPES:
            timed_rows(settings, size, None, WINDOWS[0], dtype, ("none", "flex"), emit)
    if settings.device == "cpu":
        emit({"check": "changing queries", "backend": "flex", "not possible": "no gradient on a CPU"})
        return
    step = TrainingHead(settings, NOTE, "aqr, masked", settings.batch)
    set_backend(step.head.transformer, "flex")
    attempt(emit, {"check": "changing queries", "backend": "flex"}, lambda: changing(settings, "flex", step))
