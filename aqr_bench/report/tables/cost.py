"""What the variants cost: latency, memory, arithmetic; training steps; throughput over batches; time by stage.

Older records know less: a column or table that no variant has anything for is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from aqr_bench.report.collect import Results
from aqr_bench.report.statistics import number, summarise
from aqr_bench.report.tables.study import Table
from aqr_bench.study.spec import Study

UNCOUNTED = 3  # operators that are named; the records have them all
NOTHING = float("nan")
# Left out where no variant has anything there: on the page, and in the CSV.
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
    """Latency relative to the baseline: measured in turns with it, else of the two medians; NaN where neither is."""
    measures = results.measures.set_index("variant")
    ratio = float(measures["latency_ratio"].get(variant, NOTHING))
    if math.isfinite(ratio):
        return ratio
    own, baseline = (float(measures["latency_ms"].get(name, NOTHING)) for name in (variant, study.baseline))
    return own / baseline if baseline > 0 else NOTHING


def measured_costs(results: Results) -> dict[str, Mapping[str, Any]]:
    """What was measured by variant, also of measurements of which a part failed."""
    return {r.variant: r.cost for r in results.records if r.kind == "measure"}


def cost_tables(study: Study, results: Results) -> dict[str, Table]:
    """Every table of cost by its key on the page; those without a row are left out, ``cost`` never."""
    costs = measured_costs(results)
    tables = {
        "cost": cost_table(study, results),
        "training_cost": training_cost_table(study, costs),
        "stages": stages_table(study, costs),
        "throughput": throughput_table(study, costs),
    }
    return {key: table for key, table in tables.items() if key == "cost" or len(table.shown)}


def cost_table(study: Study, results: Results) -> Table:
    """Parameters, training time, latency, throughput, memory and arithmetic per variant."""
    costs = measured_costs(results)
    measures = results.measures.set_index("variant")
    rows, shown, marked = [], [], set()
    for name in study.variants:
        trained = results.trainings[(results.trainings["variant"] == name) & (results.trainings["status"] == "ok")]
        measured = measures.loc[name]
        parameters = measured["parameters"]
        if pd.isna(parameters) and trained["parameters"].notna().any():
            parameters = trained["parameters"].dropna().iloc[0]
        ratio, more = latency_ratio(study, results, name), _later_columns(costs.get(name, {}))
        without = _failed_parts(costs.get(name, {}))
        status = ", without ".join([measured["status"], *([", ".join(without)] if without else [])])
        if status != "ok":
            marked.add(len(rows))
        row = {
            "variant": name,
            "parameters": parameters,
            "training_minutes": summarise(list(trained["minutes"])).mean,
            "latency_median_ms": measured["latency_ms"],
            "latency_p95_ms": measured["latency_p95_ms"],
            "latency_ratio": ratio,
            **more,
            "throughput_per_s": measured["throughput_per_s"],
            "peak_rss_mb": measured["peak_rss_mb"],
            "measured": status,
        }
        rows.append(row)
        shown.append(
            {
                "Variant": name,
                "Parameters": "–" if pd.isna(parameters) else f"{int(parameters):,}".replace(",", " "),
                "Training, min": number(row["training_minutes"], 1),
                "Latency median, ms": number(row["latency_median_ms"], 1),
                "p95, ms": number(row["latency_p95_ms"], 1),
                "Ratio": number(ratio, 2),
                "Ratio, quartiles": _span(more["latency_ratio_low"], more["latency_ratio_high"]),
                "Ratio, CPU time": number(more["latency_cpu_ratio"], 2),
                "Without voxelisation, ms": number(more["without_voxelisation_ms"], 1),
                "Samples per s": number(row["throughput_per_s"], 1),
                "Peak memory, MB": number(row["peak_rss_mb"], 0),
                "GPU memory, MB": number(more["gpu_allocated_mb"], 0),
                "GFLOP": number(more["gflops"], 2),
                "Measured": row["measured"],
            }
        )
    note = f"Ratio: latency relative to '{study.baseline}'. Memory: the process' peak resident set while measuring."
    note += _arithmetic_note(costs)
    note += "".join(
        f" {part} of '{name}': {reason}."
        for name in study.variants
        for part, reason in _failed_parts(costs.get(name, {})).items()
    )
    return _table(f"{study.name}_cost", "Cost", rows, shown, note, marked, {"Variant", "Measured"})


def training_cost_table(study: Study, costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """A training step per variant: its parts, its ratio to the baseline's, and its peak memory."""
    rows, shown, marked = [], [], set()
    for name in study.variants:
        found = costs.get(name, {}).get("training")
        if not found:
            continue
        memory = (costs[name].get("memory") or {}).get("training") or {}
        low, high = found.get("latency_ratio_quartiles") or (NOTHING, NOTHING)
        row = {
            "variant": name,
            "batch_size": found.get("batch_size"),
            "step_median_ms": _number(found, "latency_ms", "median"),
            **{f"{part}_ms": _number(found, f"{part}_ms", "median") for part in ("forward", "backward", "optimiser")},
            "step_ratio": _number(found, "latency_ratio"),
            "step_ratio_low": low,
            "step_ratio_high": high,
            "step_cpu_ratio": _number(found, "latency_cpu_ratio"),
            "peak_rss_mb": _number(memory, "rss_peak_mb"),
            "gpu_allocated_mb": _number(memory, "torch_allocated_mb"),
            "gflops": _gflops(costs[name], "training"),
            "precision": found.get("precision"),
            "measured": found["status"] if found["status"] == "ok" else f"{found['status']}: {found.get('reason')}",
        }
        if found["status"] != "ok":
            marked.add(len(rows))
        rows.append(row)
        shown.append(
            {
                "Variant": name,
                "Batch": "–" if row["batch_size"] is None else str(row["batch_size"]),
                "Step median, ms": number(row["step_median_ms"], 1),
                "Forward, ms": number(row["forward_ms"], 1),
                "Backward, ms": number(row["backward_ms"], 1),
                "Optimiser, ms": number(row["optimiser_ms"], 1),
                "Ratio": number(row["step_ratio"], 2),
                "Ratio, quartiles": _span(low, high),
                "Ratio, CPU time": number(row["step_cpu_ratio"], 2),
                "Peak memory, MB": number(row["peak_rss_mb"], 0),
                "GPU memory, MB": number(row["gpu_allocated_mb"], 0),
                "GFLOP": number(row["gflops"], 2),
                "Precision": row["precision"] or "–",
                "Measured": row["measured"],
            }
        )
    note = (
        f"Ratio: time of a step relative to '{study.baseline}', in turns with it. Files are loaded beforehand, hooks "
        "and averaged weights left out. GFLOP: of one sample."
    )
    texts = {"Variant", "Precision", "Measured"}
    return _table(f"{study.name}_training_cost", "Cost of a training step", rows, shown, note, marked, texts)


def stages_table(study: Study, costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Median milliseconds of every stage of an inference, and the whole."""
    rows, shown = [], []
    for name in study.variants:
        found = costs.get(name, {}).get("stages")
        if found and "median_ms" in found:
            rows.append({"variant": name, **{f"{stage}_ms": ms for stage, ms in found["median_ms"].items()}})
    stages = list(dict.fromkeys(key for row in rows for key in row if key != "variant"))
    # Not every model has every sensor, and not every variant a router.
    if "other_ms" in stages:
        stages = [*(s for s in stages if s not in ("other_ms", "whole_ms")), "other_ms", "whole_ms"]
    for row in rows:
        texts = {_heading(stage): number(row.get(stage, NOTHING), 2) for stage in stages}
        shown.append({"Variant": row["variant"], **texts})
    rows = [{"variant": row["variant"], **{stage: row.get(stage) for stage in stages}} for row in rows]
    note = (
        "Median milliseconds. Router: with the geometry of its windows and the bias that it generates. Decoder: with "
        "biased attention. Head: what is left of it. Medians do not add up exactly; waiting for the device between "
        "stages makes the whole a little slower than a plain inference."
    )
    return _table(f"{study.name}_stages", "Time by stage", rows, shown, note, set(), {"Variant"})


def throughput_table(study: Study, costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Samples per second by variant and batch size; where memory did not suffice, which batch it shrank to."""
    rows, shown, marked = [], [], set()
    for name in study.variants:
        for found in costs.get(name, {}).get("throughput") or []:
            if found["status"] != "ok":
                marked.add(len(rows))
            keys = ("asked", "batch_size", "samples_per_s", "status")
            rows.append({"variant": name, **{key: found.get(key) for key in keys}})
            used = found.get("batch_size")
            shown.append(
                {
                    "Variant": name,
                    "Batch": str(found["asked"]),
                    "Used": "–" if used is None else str(used),
                    "Samples per s": number(found.get("samples_per_s"), 1),
                    "Status": "out of memory" if found["status"] == "oom" else found["status"],
                }
            )
    note = "Median of three runs of each batch. Out of memory: the batch was halved until it fitted ('Used')."
    return _table(f"{study.name}_throughput", "Throughput", rows, shown, note, marked, {"Variant", "Status"})


def _table(
    name: str, title: str, rows: list, shown: Sequence[Mapping], note: str, marked: set[int], texts: set[str]
) -> Table:
    """A table without the columns that nothing is known for."""
    data, page = pd.DataFrame(rows), pd.DataFrame(list(shown))
    if rows:
        optional = [c for c in page.columns if c in OPTIONAL and (page[c] == "–").all()]
        page = page.drop(columns=optional)
        data = data.drop(columns=[c for c in data.columns if c in OPTIONAL_DATA and data[c].isna().all()])
    return Table(name, title, data, page, note, frozenset(marked), frozenset(page.columns) - texts)


def _failed_parts(cost: Mapping[str, Any]) -> dict[str, str]:
    """Why parts of a measurement failed, by part; those of training stand in its own table."""
    found = cost.get("failed_parts") or {}
    return {part: f"{why['status']}: {why['reason']}" for part, why in found.items() if not part.endswith("training")}


def _later_columns(cost: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that records have had for a while only; NaN where there are none."""
    low, high = cost.get("latency_ratio_quartiles") or (NOTHING, NOTHING)
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


def _number(found: Mapping[str, Any], *path: str) -> float:
    """A number at the end of a path of keys, or NaN."""
    value: Any = found
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return NOTHING if value is None else float(value)


def _gflops(cost: Mapping[str, Any], what: str) -> float:
    return _number(cost, "flops", what, "total") / 1e9


def _arithmetic_note(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """What the column GFLOP holds, and what torch's counter left out."""
    left_out: dict[str, int] = {}
    for cost in costs.values():
        found = (cost.get("flops") or {}).get("inference") or {}
        for operator, calls in (found.get("uncounted") or {}).items():
            left_out[operator] = max(calls, left_out.get(operator, 0))
    if not left_out:
        return ""
    most = sorted(left_out, key=lambda operator: -left_out[operator])[:UNCOUNTED]
    return (
        " GFLOP: arithmetic of one sample, by torch's counter, a multiplication with its addition as two; "
        f"{len(left_out)} operators are not counted ({', '.join(most)} most often), all named in the records."
    )


def _span(low: float, high: float) -> str:
    return f"{number(low, 2)} to {number(high, 2)}" if math.isfinite(low) and math.isfinite(high) else "–"


def _heading(stage: str) -> str:
    """``lidar_backbone_ms`` -> ``Lidar backbone``."""
    return stage.removesuffix("_ms").replace("_", " ").capitalize()
