"""Samples per second here and as published, each with its machine: for context, in no order of speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from aqr_bench.records.record import Record, read_records
from aqr_bench.report.page import Chapter
from aqr_bench.report.statistics import number
from aqr_bench.report.tables.study import Table
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.schema import repository_root
from aqr_bench.study.spec import Study, Tier

FILES = ("cmt_main", "missing_modality_and_clean_baselines")
HERE, NO_VOXELS = "here", "none: cameras alone"
TEXT = (
    "Speed depends on the machine, the batch, the precision and on what is timed: rows of different machines say "
    "nothing about each other. The tables before this one compare variants, on one machine and in turns."
)


def speed_chapter(tier: Tier, studies: Sequence[Study], records: Path, figures: Path) -> list[Chapter]:
    """Published speeds beside those measured here; no chapter where nothing was measured."""
    ours = [row for study in studies for row in measured_rows(tier, study, records)]
    if not ours:
        return []
    return [Chapter("speed", "Speed, here and published", TEXT, (speed_table([*ours, *published_speeds()]),))]


def measured_rows(tier: Tier, study: Study, records: Path) -> list[dict[str, Any]]:
    """With and without voxelisation, of a study's baseline, or of its variants that have published names."""
    named = [v.name for v in study.variants.values() if v.published] or [study.baseline]
    rows = []
    for name in named:
        path = RunLayout(tier.name, records).measure(study.name, name)
        record = read_records(path)[-1] if path.is_file() else None
        if record is not None and record.ok and "throughput_per_s" in record.cost:
            rows += _rows_of(study.variants[name].published or f"{study.name}/{name}", record)
    return rows


def published_speeds() -> list[dict[str, Any]]:
    """Published samples per second on nuScenes val whose source names its machine, in the order of the files."""
    folder = repository_root() / "results" / "published"
    machines = pd.read_csv(folder / "speed_machines.csv").set_index("source")
    rows = []
    for name in FILES:
        found = pd.read_csv(folder / f"{name}.csv", dtype={"severity": str})
        found = found[(found["metric"] == "FPS") & (found["split"] == "val") & found["source"].isin(machines.index)]
        for row in found.itertuples():
            where = machines.loc[row.source]
            known = {"model": row.model, "samples_per_s": row.value, "source": row.source}
            voxelisation = NO_VOXELS if row.modality == "C" else where["voxelisation"]
            rows.append({**known, "machine": where["machine"], "voxelisation": voxelisation, "batch": None})
    return rows


def speed_table(rows: Sequence[dict[str, Any]]) -> Table:
    """All rows as they come: measured ones first, then the published ones."""
    columns = ["model", "samples_per_s", "machine", "batch", "voxelisation", "source"]
    data = pd.DataFrame(rows, columns=columns)
    shown = pd.DataFrame(
        {
            "Model": data["model"],
            "Samples per s": [number(float(v), 1) for v in data["samples_per_s"]],
            "Machine": data["machine"],
            "Batch": ["not stated" if pd.isna(v) else str(int(v)) for v in data["batch"]],
            "Voxelisation": data["voxelisation"],
            "Source": data["source"],
        }
    )
    note = (
        "Not a ranking. Published speeds: nuScenes val, results/published; rows whose source does not name its machine "
        "are left out. Loading of files is not timed here."
    )
    return Table("speed", "Samples per second", data, shown, note, numeric=frozenset(["Samples per s"]))


def _rows_of(model: str, record: Record) -> list[dict[str, Any]]:
    cost, machine = record.cost, record.provenance.get("machine") or {}
    where = str(machine.get("gpu") or machine.get("cpu") or "unknown")
    if not machine.get("gpu") and cost.get("threads"):
        where += f", {cost['threads']} {'thread' if cost['threads'] == 1 else 'threads'}"
    batch = cost.get("batch_size")
    common = {"model": model, "machine": where, "batch": batch, "source": f"{HERE}, tier {record.tier}"}
    left_out = cost.get("without_voxelisation") or {}
    timed = NO_VOXELS if left_out.get("status") == "not_applicable" else "timed"
    rows = [{**common, "samples_per_s": cost.get("throughput_per_s"), "voxelisation": timed}]
    if "latency_ms" in left_out and batch:
        speed = 1000 * batch / left_out["latency_ms"]["median"]
        rows.append({**common, "samples_per_s": speed, "voxelisation": "left out"})
    return rows
