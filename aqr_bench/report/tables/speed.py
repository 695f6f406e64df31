"""Samples per second here and as published, each with its machine: for context, in no order of speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from aqr_bench.folders import shipped
from aqr_bench.records.record import Record, read_records
from aqr_bench.report.score_statistics import number
from aqr_bench.report.section import ReportSection
from aqr_bench.report.stale import StaleRecords, find_stale
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.spec import Study, Tier

FILES = ("cmt_main", "missing_modality_and_clean_baselines")
HERE, NO_VOXELS = "here", "none: cameras alone"
TEXT = (
    "Speed depends on the machine, the batch, the precision and the timed scope: rows of different machines cannot be "
    "compared. The tables before this one compare variants, measured alternately on one machine."
)


@dataclass(frozen=True)
class Speed:
    """One row of the table; ``batch``: None where the source does not state it."""

    model: str
    samples_per_s: float
    machine: str
    batch: int | None
    voxelisation: str
    source: str


def speed_section(tier: Tier, studies: Sequence[Study], records: Path) -> list[ReportSection]:
    """Published speeds beside those measured here; no section where nothing was measured."""
    stale = find_stale(records, tier, studies)
    ours = [row for study in studies for row in measured_rows(tier, study, records, stale)]
    if not ours:
        return []
    return [ReportSection("speed", "Speed, here and published", TEXT, (speed_table([*ours, *published_speeds()]),))]


def measured_rows(tier: Tier, study: Study, records: Path, stale: StaleRecords) -> list[Speed]:
    """With and without voxelisation, of a study's baseline, or of its variants that have published names."""
    named = [v.name for v in study.variants.values() if v.published] or [study.baseline]
    rows = []
    for name in named:
        path = RunLayout(tier.name, records).measure(study.name, name)
        record = read_records(path)[-1] if path.is_file() else None
        if record is not None and record.ok and "throughput_per_s" in record.cost:
            why = stale.reasons("measure", study.name, name)
            note = f", stale: {'; '.join(why)}" if why else ""
            speeds = _rows_of(study.variants[name].published or f"{study.name}/{name}", record)
            rows += [replace(speed, source=f"{speed.source}{note}") for speed in speeds]
    return rows


def published_speeds() -> list[Speed]:
    """Published samples per second on nuScenes val whose source names its machine, in the order of the files."""
    folder = shipped("results/published")
    machines = pd.read_csv(folder / "speed_machines.csv").set_index("source")
    rows = []
    for name in FILES:
        table = pd.read_csv(folder / f"{name}.csv", dtype={"severity": str})
        table = table[(table["metric"] == "FPS") & (table["split"] == "val") & table["source"].isin(machines.index)]
        for row in table.itertuples():
            machine = machines.loc[row.source]
            voxelisation = NO_VOXELS if row.modality == "C" else machine["voxelisation"]
            rows.append(Speed(row.model, row.value, machine["machine"], None, voxelisation, row.source))
    return rows


def speed_table(speeds: Sequence[Speed]) -> ReportTable:
    """All rows in the order given: measured ones first, then the published ones."""
    rows = [
        Row(
            vars(speed),
            {
                "Model": speed.model,
                "Samples per s": number(speed.samples_per_s, 1),
                "Machine": speed.machine,
                "Batch": "not stated" if speed.batch is None else str(speed.batch),
                "Voxelisation": speed.voxelisation,
                "Source": speed.source,
            },
        )
        for speed in speeds
    ]
    note = (
        "Not a ranking. Published speeds: nuScenes val, results/published; rows whose source does not name its machine "
        "are left out. Loading of files is not timed here."
    )
    return make_table("speed", "Samples per second", rows, note, ["Samples per s"])


def _rows_of(model: str, record: Record) -> list[Speed]:
    """With voxelisation and, where that was measured, without."""
    cost, machine = record.cost, record.provenance.get("machine") or {}
    name = str(machine.get("gpu") or machine.get("cpu") or "unknown")
    if not machine.get("gpu") and cost.get("threads"):
        name += f", {cost['threads']} {'thread' if cost['threads'] == 1 else 'threads'}"
    batch, without = cost.get("batch_size"), cost.get("without_voxelisation") or {}
    timed = NO_VOXELS if without.get("status") == "not_applicable" else "timed"
    speed = Speed(model, cost["throughput_per_s"], name, batch, timed, f"{HERE}, tier {record.tier}")
    if "latency_ms" not in without or not batch:
        return [speed]
    samples_per_s = 1000 * batch / without["latency_ms"]["median"]
    return [speed, replace(speed, samples_per_s=samples_per_s, voxelisation="left out")]
