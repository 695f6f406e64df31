"""Cost tables: what records say is there, what older records lack is left out, and published speeds are not ranked."""

from __future__ import annotations

import pandas as pd
import pytest
from report_records import fill, make_study

from aqr_bench.records.record import Record, write_records
from aqr_bench.report.collect import collect_study
from aqr_bench.report.page import build_report
from aqr_bench.report.tables.cost import cost_table, cost_tables
from aqr_bench.report.tables.speed import published_speeds, speed_section
from aqr_bench.study.load import load_study, load_tier

pytestmark = pytest.mark.usefixtures("no_figures")


def times(median: float, ratio: float) -> dict:
    return {
        "latency_ms": {"median": median, "p95": median + 2, "values": [median]},
        "latency_ratio": ratio,
        "latency_ratio_quartiles": [ratio - 0.01, ratio + 0.01],
        "latency_cpu_ratio": ratio + 0.02,
    }


def full_cost(median: float, ratio: float, **changes) -> dict:
    """What `measure` writes, made up."""
    parts = {f"{part}_ms": {"median": 20.0, "values": [20.0]} for part in ("forward", "backward", "optimiser")}
    memory = {"rss_peak_mb": 700.0, "torch_allocated_mb": None, "torch_reserved_mb": None}
    return {
        **times(median, ratio),
        "throughput_per_s": 1000 / median,
        "batch_size": 1,
        "threads": 1,
        "inference_peak_rss_mb": 600.0,
        "without_voxelisation": {"status": "ok", **times(median - 1, ratio)},
        "memory": {"inference": memory, "training": memory},
        "flops": {
            "inference": {"total": 2.5e9, "uncounted": {"aten.view": 9, "aten.relu": 2}},
            "training": {"total": 7.5e9, "uncounted": {}},
        },
        "stages": {"median_ms": {"voxelise": 1.0, "decoder": 12.0, "other": 0.5, "whole": 13.5}},
        "throughput": [
            {"asked": 1, "batch_size": 1, "status": "ok", "samples_per_s": 20.0},
            {"asked": 4, "batch_size": 2, "status": "oom", "samples_per_s": 30.0},
        ],
        "training": {"status": "ok", "batch_size": 2, "precision": "float32", **times(60.0, 1.3), **parts},
        **changes,
    }


@pytest.fixture
def place(tmp_path):
    """Results of a made-up study whose measurements are as rich as they get; 'cross' cannot train."""
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    machine = {"machine": {"cpu": "Some CPU", "gpu": None}}
    failed = {"status": "failed", "reason": "no backward on a CPU"}
    stages = {"median_ms": {"voxelise": 1.0, "router": 3.0, "decoder": 12.0, "other": 0.5, "whole": 16.5}}
    costs = {"none": full_cost(10.0, 1.0), "cross": full_cost(12.0, 1.2, training=failed, stages=stages)}
    for variant, cost in costs.items():
        record = Record("measure", "ok", "smoke", study.name, variant, cost=cost, provenance=machine)
        write_records(tmp_path / "results" / "smoke" / study.name / variant / "measure.jsonl", [record])
    return tmp_path, study


def results_of(place):
    folder, study = place
    return collect_study(folder / "results", load_tier("smoke"), study)


def test_older_records_still_give_the_table_they_gave(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    result = cost_tables(study, collect_study(tmp_path / "results", load_tier("smoke"), study))
    assert list(result) == ["cost"]
    assert "GFLOP" not in result["cost"].text and "gflops" not in result["cost"].data
    assert {"Ratio", "Peak memory, MB"} <= set(result["cost"].text)


def test_what_newer_records_know_has_columns(place):
    table = cost_table(place[1], results_of(place))
    row = table.data.set_index("variant").loc["cross"]
    assert (row["latency_ratio_low"], row["latency_cpu_ratio"]) == (1.19, 1.22)
    assert (row["without_voxelisation_ms"], row["gflops"]) == (11.0, 2.5)
    shown = table.text.set_index("Variant").loc["cross"]
    assert shown["Ratio, quartiles"] == "1.19 to 1.21" and shown["GFLOP"] == "2.50"
    # Without a GPU nobody asks for its memory.
    assert "GPU memory, MB" not in table.text and "gpu_allocated_mb" not in table.data
    assert "2 operators are not counted (aten.view, aten.relu most often)" in table.note


def test_training_steps_and_the_one_that_failed(place):
    table = cost_tables(place[1], results_of(place))["training_cost"]
    good, bad = (table.text.set_index("Variant").loc[name] for name in ("none", "cross"))
    assert (good["Step median, ms"], good["Ratio"], good["Batch"], good["GFLOP"]) == ("60.0", "1.30", "2", "7.50")
    assert bad["Step median, ms"] == "–" and bad["Measured"] == "failed: no backward on a CPU"
    assert table.marked == {list(table.data["variant"]).index("cross")}


def test_stages_of_variants_with_and_without_a_router(place):
    table = cost_tables(place[1], results_of(place))["stages"]
    assert list(table.text.columns)[-2:] == ["Other", "Whole"]
    rows = table.text.set_index("Variant")
    assert (rows.loc["cross", "Router"], rows.loc["none", "Router"]) == ("3.00", "–")


def test_throughput_says_where_memory_did_not_suffice(place):
    table = cost_tables(place[1], results_of(place))["throughput"]
    row = table.text[(table.text["Variant"] == "none") & (table.text["Batch"] == "4")].iloc[0]
    assert (row["Used"], row["Status"], row["Samples per s"]) == ("2", "out of memory", "30.0")
    assert len(table.marked) == 2


def test_the_page_has_them_all(place):
    folder, study = place
    tier, records = load_tier("smoke"), folder / "results"
    page = build_report(tier, [study], records, folder / "out", [speed_section]).read_text(encoding="utf-8")
    for name in ("cost", "training_cost", "stages", "throughput"):
        assert f'data-csv="made_up_{name}"' in page and (folder / "out" / "tables" / f"made_up_{name}.csv").is_file()
    assert "Speed, here and published" in page and "one NVIDIA A100" in page and "Some CPU, 1 thread" in page


def test_speeds_are_in_the_order_of_their_sources_and_each_has_a_machine(place):
    folder, study = place
    section = speed_section(load_tier("smoke"), [study], folder / "results")[0]
    table = section.tables[0].data
    ours = table[table["source"].str.startswith("here")]
    assert list(ours["model"]) == ["made_up/none"] * 2 and list(ours["samples_per_s"]) == [100.0, 1000 / 9]
    assert list(ours["voxelisation"]) == ["timed", "left out"]
    published = table.iloc[len(ours) :]
    assert published["machine"].notna().all() and list(published["samples_per_s"]) != sorted(published["samples_per_s"])
    assert "Not a ranking" in section.tables[0].note


def test_published_speeds_are_those_of_the_sources(place):
    rows = pd.DataFrame(published_speeds()).set_index("model")
    assert rows.loc["CMT-C vov_1600x640", "voxelisation"] == "none: cameras alone"
    speeds = rows["samples_per_s"]
    assert speeds["CMT voxel0100_r50_800x320"] == 14.2 and speeds["CMT voxel0075_vov_1600x640"] == 6.4
    assert speeds["MEFormer"] == 3.1 and "FUTR3D" not in speeds  # no machine is named for that one


def test_no_section_where_nothing_was_measured(tmp_path):
    study = load_study(make_study(tmp_path))
    assert speed_section(load_tier("smoke"), [study], tmp_path / "results") == []


def test_a_part_that_failed_is_named_and_the_others_are_there(place):
    folder, study = place
    why = {"status": "failed", "reason": "TypeError: no implementation for this operator"}
    cost = full_cost(12.0, 1.2, stages=why, flops={"inference": why, "training": why})
    cost["failed_parts"] = {"stages": why, "flops.inference": why, "flops.training": why}
    write(folder, study, "cross", "ok", cost)
    tables = cost_tables(study, results_of(place))
    row = tables["cost"].data.set_index("variant").loc["cross"]
    assert row["measured"] == "ok, without stages, flops.inference" and row["latency_median_ms"] == 12.0
    assert tables["cost"].marked == {list(tables["cost"].data["variant"]).index("cross")}
    assert "stages of 'cross': failed: TypeError: no implementation for this operator." in tables["cost"].note
    assert list(tables["stages"].data["variant"]) == ["none"]
    assert len(tables["training_cost"].data) == 2


def test_a_measurement_without_a_latency_shows_what_it_has(place):
    folder, study = place
    why = {"status": "oom", "reason": "MemoryError: no memory left"}
    row = {"asked": 1, "batch_size": None, "samples_per_s": None, "status": "failed", "reason": "of another cause"}
    lost = [*times(0, 0), "throughput_per_s", "without_voxelisation"]
    cost = {key: value for key, value in full_cost(12.0, 1.2, latency=why, throughput=[row]).items() if key not in lost}
    cost["failed_parts"] = {"latency": why}
    write(folder, study, "cross", "oom", cost, reason="latency: MemoryError: no memory left")
    tables = cost_tables(study, results_of(place))
    shown = tables["cost"].text.set_index("Variant").loc["cross"]
    assert shown["Measured"] == "oom, without latency"
    assert (shown["Latency median, ms"], shown["Ratio"], shown["GFLOP"]) == ("–", "–", "2.50")
    assert tables["training_cost"].data.set_index("variant").loc["cross", "measured"] == "ok"
    assert "failed" in set(tables["throughput"].text["Status"])
    tier, records = load_tier("smoke"), folder / "results"
    assert build_report(tier, [study], records, folder / "out", [speed_section]).is_file()


def write(folder, study, variant, status, cost, reason=None):
    record = Record("measure", status, "smoke", study.name, variant, reason=reason, cost=cost)
    write_records(folder / "results" / "smoke" / study.name / variant / "measure.jsonl", [record])
