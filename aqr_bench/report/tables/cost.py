"""What the variants cost: latency, memory, FLOPs; training steps; throughput over batches; time by stage.

Older records have fewer numbers: an empty column or table is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import pandas as pd

from aqr_bench.report.collect import Results
from aqr_bench.report.score_statistics import number, summarise
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.spec import Study

UNCOUNTED = 3  # operators that are named in the note; the records have them all
NAN = float("nan")
# Columns that are left out where they are empty: on the page, and in the CSV.
OPTIONAL = frozenset(["Ratio, quartiles", "Ratio, CPU time", "Without voxelisation, ms", "GPU memory, MB", "GFLOP"])
OPTIONAL_DATA = frozenset(
    [
        "latency_ratio_low",
        "latency_ratio_high",
        "latency_cpu_ratio",
        "without_voxelisation_ms",
        "without_voxelisation_ratio",
        "gpu_allocated_mb",
        "gpu_reserved_mb",
        "gflops",
    ]
)


def latency_ratio(study: Study, results: Results, variant: str) -> float:
    """Latency relative to the baseline: measured alternately, else the ratio of the medians; NaN where neither is."""
    measures = results.measures.set_index("variant")
    ratio = float(measures["latency_ratio"].get(variant, NAN))
    if math.isfinite(ratio):
        return ratio
    latency, baseline = (float(measures["latency_ms"].get(name, NAN)) for name in (variant, study.baseline))
    return latency / baseline if baseline > 0 else NAN


def measured_costs(results: Results) -> dict[str, Mapping[str, Any]]:
    """The ``cost`` of measure records by variant, also of those of which a part failed."""
    return {r.variant: r.cost for r in results.records if r.kind == "measure"}


def cost_tables(study: Study, results: Results) -> dict[str, ReportTable]:
    """Every table of cost by its key on the page; those without a row are left out, ``cost`` never."""
    costs = measured_costs(results)
    tables = {
        "cost": cost_table(study, results),
        "training_cost": training_cost_table(study, costs),
        "stages": stages_table(study, costs),
        "throughput": throughput_table(study, costs),
    }
    return {key: table for key, table in tables.items() if key == "cost" or len(table)}


def cost_table(study: Study, results: Results) -> ReportTable:
    """Parameters, training time, latency, throughput, memory and FLOPs per variant."""
    costs = measured_costs(results)
    rows = [_cost_row(study, results, variant, costs.get(variant, {})) for variant in study.variants]
    note = f"Ratio: latency relative to '{study.baseline}'. Memory: the process' peak resident set while measuring."
    note += _flops_note(costs)
    note += "".join(
        f" {part} of '{name}': {reason}."
        for name in study.variants
        for part, reason in _failed_parts(costs.get(name, {})).items()
    )
    return _table(f"{study.name}_cost", "Cost", rows, note, {"Variant", "Measured"})


def _cost_row(study: Study, results: Results, variant: str, cost: Mapping[str, Any]) -> Row:
    trained = results.trainings[(results.trainings["variant"] == variant) & (results.trainings["status"] == "ok")]
    measured = results.measures.set_index("variant").loc[variant]
    parameters = measured["parameters"]
    if pd.isna(parameters) and trained["parameters"].notna().any():
        parameters = trained["parameters"].dropna().iloc[0]
    failed = _failed_parts(cost)
    status = ", without ".join([measured["status"], *([", ".join(failed)] if failed else [])])
    data = {
        "variant": variant,
        "parameters": parameters,
        "training_minutes": summarise(list(trained["minutes"])).mean,
        "latency_median_ms": measured["latency_ms"],
        "latency_p95_ms": measured["latency_p95_ms"],
        "latency_ratio": latency_ratio(study, results, variant),
        **_optional_columns(cost),
        "throughput_per_s": measured["throughput_per_s"],
        "peak_rss_mb": measured["peak_rss_mb"],
        "measured": status,
    }
    text = {
        "Variant": variant,
        "Parameters": "–" if pd.isna(parameters) else f"{int(parameters):,}".replace(",", " "),
        "Training, min": number(data["training_minutes"], 1),
        "Latency median, ms": number(data["latency_median_ms"], 1),
        "p95, ms": number(data["latency_p95_ms"], 1),
        "Ratio": number(data["latency_ratio"], 2),
        "Ratio, quartiles": _span(data["latency_ratio_low"], data["latency_ratio_high"]),
        "Ratio, CPU time": number(data["latency_cpu_ratio"], 2),
        "Without voxelisation, ms": number(data["without_voxelisation_ms"], 1),
        "Samples per s": number(data["throughput_per_s"], 1),
        "Peak memory, MB": number(data["peak_rss_mb"], 0),
        "GPU memory, MB": number(data["gpu_allocated_mb"], 0),
        "GFLOP": number(data["gflops"], 2),
        "Measured": status,
    }
    return Row(data, text, status != "ok")


def training_cost_table(study: Study, costs: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """A training step per variant: its parts, its ratio to the baseline's, and its peak memory."""
    rows = [_training_cost_row(v, costs[v]) for v in study.variants if costs.get(v, {}).get("training")]
    note = (
        f"Ratio: time of a step relative to '{study.baseline}', measured alternately. Files are loaded beforehand; "
        "hooks and averaged weights are left out. GFLOP: of one sample."
    )
    texts = {"Variant", "Precision", "Measured"}
    return _table(f"{study.name}_training_cost", "Cost of a training step", rows, note, texts)


def _training_cost_row(variant: str, cost: Mapping[str, Any]) -> Row:
    step = cost["training"]
    memory = (cost.get("memory") or {}).get("training") or {}
    low, high = step.get("latency_ratio_quartiles") or (NAN, NAN)
    data = {
        "variant": variant,
        "batch_size": step.get("batch_size"),
        "step_median_ms": _number(step, "latency_ms", "median"),
        **{f"{part}_ms": _number(step, f"{part}_ms", "median") for part in ("forward", "backward", "optimiser")},
        "step_ratio": _number(step, "latency_ratio"),
        "step_ratio_low": low,
        "step_ratio_high": high,
        "step_cpu_ratio": _number(step, "latency_cpu_ratio"),
        "peak_rss_mb": _number(memory, "rss_peak_mb"),
        "gpu_allocated_mb": _number(memory, "torch_allocated_mb"),
        "gflops": _gflops(cost, "training"),
        "precision": step.get("precision"),
        "measured": step["status"] if step["status"] == "ok" else f"{step['status']}: {step.get('reason')}",
    }
    text = {
        "Variant": variant,
        "Batch": "–" if data["batch_size"] is None else str(data["batch_size"]),
        "Step median, ms": number(data["step_median_ms"], 1),
        "Forward, ms": number(data["forward_ms"], 1),
        "Backward, ms": number(data["backward_ms"], 1),
        "Optimiser, ms": number(data["optimiser_ms"], 1),
        "Ratio": number(data["step_ratio"], 2),
        "Ratio, quartiles": _span(low, high),
        "Ratio, CPU time": number(data["step_cpu_ratio"], 2),
        "Peak memory, MB": number(data["peak_rss_mb"], 0),
        "GPU memory, MB": number(data["gpu_allocated_mb"], 0),
        "GFLOP": number(data["gflops"], 2),
        "Precision": data["precision"] or "–",
        "Measured": data["measured"],
    }
    return Row(data, text, step["status"] != "ok")


def stages_table(study: Study, costs: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """Median milliseconds of every stage of an inference, and in total."""
    medians = {v: (costs.get(v, {}).get("stages") or {}).get("median_ms") for v in study.variants}
    medians = {variant: by_stage for variant, by_stage in medians.items() if by_stage is not None}
    stages = list(dict.fromkeys(stage for by_stage in medians.values() for stage in by_stage))
    # Not every model has every sensor, and not every variant a router.
    if "other" in stages:
        stages = [*(s for s in stages if s not in ("other", "whole")), "other", "whole"]
    rows = [
        Row(
            {"variant": variant, **{f"{stage}_ms": by_stage.get(stage) for stage in stages}},
            {"Variant": variant, **{_heading(stage): number(by_stage.get(stage, NAN), 2) for stage in stages}},
        )
        for variant, by_stage in medians.items()
    ]
    note = (
        "Median milliseconds. Router: with the geometry of its windows and the bias that it generates. Decoder: with "
        "biased attention. Head: the rest of it. Medians do not add up exactly; waiting for the device between stages "
        "makes the total a little slower than a plain inference."
    )
    return _table(f"{study.name}_stages", "Time by stage", rows, note, {"Variant"})


def throughput_table(study: Study, costs: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """Samples per second by variant and batch size; after running out of memory, with which smaller batch."""
    rows = []
    for variant in study.variants:
        for run in costs.get(variant, {}).get("throughput") or []:
            data = {key: run.get(key) for key in ("asked", "batch_size", "samples_per_s", "status")}
            text = {
                "Variant": variant,
                "Batch": str(run["asked"]),
                "Used": "–" if data["batch_size"] is None else str(data["batch_size"]),
                "Samples per s": number(data["samples_per_s"], 1),
                "Status": "out of memory" if run["status"] == "oom" else run["status"],
            }
            rows.append(Row({"variant": variant, **data}, text, run["status"] != "ok"))
    note = "Median of three runs of each batch. Out of memory: the batch was halved until it fitted ('Used')."
    return _table(f"{study.name}_throughput", "Throughput", rows, note, {"Variant", "Status"})


def _table(name: str, title: str, rows: Sequence[Row], note: str, texts: Set[str]) -> ReportTable:
    """A table without optional columns that are empty; ``texts``: columns that are not numeric."""
    table = make_table(name, title, rows, note)
    data, text = table.data, table.text
    text = text.drop(columns=[c for c in text.columns if c in OPTIONAL and (text[c] == "–").all()])
    data = data.drop(columns=[c for c in data.columns if c in OPTIONAL_DATA and data[c].isna().all()])
    return replace(table, data=data, text=text, numeric=frozenset(text.columns) - texts)


def _failed_parts(cost: Mapping[str, Any]) -> dict[str, str]:
    """Why parts of a measurement failed, by part; those of training are in the table of training steps."""
    failed = (cost.get("failed_parts") or {}).items()
    return {part: f"{why['status']}: {why['reason']}" for part, why in failed if not part.endswith("training")}


def _optional_columns(cost: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that older records do not have; NaN where there are none."""
    low, high = cost.get("latency_ratio_quartiles") or (NAN, NAN)
    without = cost.get("without_voxelisation") or {}
    memory = (cost.get("memory") or {}).get("inference") or {}
    return {
        "latency_ratio_low": low,
        "latency_ratio_high": high,
        "latency_cpu_ratio": _number(cost, "latency_cpu_ratio"),
        "without_voxelisation_ms": _number(without, "latency_ms", "median"),
        "without_voxelisation_ratio": _number(without, "latency_ratio"),
        "gpu_allocated_mb": _number(memory, "torch_allocated_mb"),
        "gpu_reserved_mb": _number(memory, "torch_reserved_mb"),
        "gflops": _gflops(cost, "inference"),
    }


def _number(entry: Mapping[str, Any], *path: str) -> float:
    """A number at the end of a path of keys, or NaN."""
    value: Any = entry
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return NAN if value is None else float(value)


def _gflops(cost: Mapping[str, Any], what: str) -> float:
    return _number(cost, "flops", what, "total") / 1e9


def _flops_note(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Meaning of the column GFLOP, and the operators that torch's counter left out."""
    left_out: dict[str, int] = {}
    for cost in costs.values():
        inference = (cost.get("flops") or {}).get("inference") or {}
        for operator, calls in (inference.get("uncounted") or {}).items():
            left_out[operator] = max(calls, left_out.get(operator, 0))
    if not left_out:
        return ""
    names = sorted(left_out, key=lambda operator: -left_out[operator])[:UNCOUNTED]
    return (
        " GFLOP: of one sample, by torch's counter, a multiplication with its addition as two; "
        f"{len(left_out)} operators are not counted ({', '.join(names)} most often), all listed in the records."
    )


def _span(low: float, high: float) -> str:
    return f"{number(low, 2)} to {number(high, 2)}" if math.isfinite(low) and math.isfinite(high) else "–"


def _heading(stage: str) -> str:
    """``lidar_backbone`` -> ``Lidar backbone``."""
    return stage.replace("_", " ").capitalize()
