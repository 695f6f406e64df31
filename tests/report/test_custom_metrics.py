"""Numbers of metrics of the user stand beside nuScenes' in the table of all metrics."""

from __future__ import annotations

from dataclasses import replace

from report_records import fill, make_study

from aqr_bench.records.record import read_records, write_records
from aqr_bench.report.collect import collect_study
from aqr_bench.report.tables.study import metrics_table
from aqr_bench.study.load import load_study, load_tier


def test_the_table_of_all_metrics_has_a_column_for_each_number(tmp_path):
    path = make_study(tmp_path)
    fill(tmp_path / "results", path)
    tier, study = load_tier("smoke"), load_study(path)
    assert "recall" not in metrics_table(study, collect_study(tmp_path / "results", tier, study)).data
    for file in (tmp_path / "results").rglob("cross/seed*/evaluate.*.jsonl"):
        custom = {"recall": 0.25 if "seed0" in str(file) else 0.75, "undefined": None}
        records = [replace(r, scores={**r.scores, "custom": custom}) for r in read_records(file)]
        write_records(file, records)
    table = metrics_table(study, collect_study(tmp_path / "results", tier, study))
    cross, none = (table.data[table.data["variant"] == name] for name in ("cross", "none"))
    assert set(cross["recall"]) == {0.5} and none["recall"].isna().all() and table.data["undefined"].isna().all()
    assert "Metrics of the user: recall, undefined." in table.note and {"recall", "undefined"} <= table.numeric
    assert set(table.text[table.text["Variant"] == "none"]["recall"]) == {"–"}
