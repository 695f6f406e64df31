"""Numbers of custom metrics: beside nuScenes' in the table of all metrics, as a study's metric, in a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_records import fill, make_study

from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records, write_records
from aqr_bench.report.collect import collect_study
from aqr_bench.report.compare import main as compare
from aqr_bench.report.folded import study_inputs
from aqr_bench.report.tables.study import metrics_table, scores_table
from aqr_bench.study.load import load_study, load_tier


def add_custom(results: Path, pattern: str, numbers) -> None:
    """Give the evaluations that are ok in files of a pattern the custom scores that ``numbers(record)`` returns."""
    for file in results.rglob(pattern):
        records = [replace(r, scores={**r.scores, "custom": numbers(r)}) if r.ok else r for r in read_records(file)]
        write_records(file, records)


def test_the_table_of_all_metrics_has_a_column_for_each_number(tmp_path):
    path = make_study(tmp_path)
    fill(tmp_path / "results", path)
    tier, study = load_tier("smoke"), load_study(path)
    assert "recall" not in metrics_table(study, collect_study(tmp_path / "results", tier, study)).data
    numbers = lambda record: {"recall": 0.25 if record.seed == 0 else 0.75, "undefined": None}  # noqa: E731
    add_custom(tmp_path / "results", "cross/seed*/evaluate.*.jsonl", numbers)
    table = metrics_table(study, collect_study(tmp_path / "results", tier, study))
    cross, none = (table.data[table.data["variant"] == name] for name in ("cross", "none"))
    assert set(cross["recall"]) == {0.5} and none["recall"].isna().all() and table.data["undefined"].isna().all()
    assert "Metrics of the user: recall, undefined." in table.note and {"recall", "undefined"} <= table.numeric
    assert set(table.text[table.text["Variant"] == "none"]["recall"]) == {"–"}


@pytest.mark.parametrize(("lower", "verdict"), [(False, "better"), (True, "worse")])
def test_a_study_is_judged_by_a_custom_metric(tmp_path, lower, verdict):
    path, results = (
        make_study(tmp_path, seeds=(0, 1, 2), metric="custom.distance_m", lower_is_better=lower),
        tmp_path / "r",
    )
    fill(results, path, fail={("cross", 2)})
    add_custom(results, "evaluate.*.jsonl", lambda r: {"distance_m": 3.0 + (r.variant == "cross") + 0.01 * r.seed})
    tier, study = load_tier("smoke"), load_study(path)
    collected = collect_study(results, tier, study)
    rows = scores_table(study, collected).data.set_index(["condition", "variant"]).loc["clean"]
    assert rows.loc["cross", "custom.distance_m_mean"] == pytest.approx(4.005) and rows.loc["cross", "ok"] == 2
    assert rows.loc["cross", "difference"] == pytest.approx(1) and rows.loc["cross", "verdict"] == verdict
    assert {entry.score for entry in study_inputs(results, tier, study, collected, study.metric)} >= {3.0, 4.01}


def test_a_record_without_the_metric_of_its_study_is_refused_by_name(tmp_path):
    path, results = make_study(tmp_path, metric="custom.recall"), tmp_path / "r"
    fill(results, path)
    tier, study = load_tier("smoke"), load_study(path)
    with pytest.raises(UserError, match=r"no 'custom.recall' in the record of .*none.* it has no custom metric\. Name"):
        collect_study(results, tier, study)
    add_custom(results, "evaluate.*.jsonl", lambda r: {"recal": 0.1} if r.variant == "cross" else {"recall": None})
    with pytest.raises(UserError, match=r"no 'custom.recall' .*cross.*; did you mean 'custom.recal'\?"):
        collect_study(results, tier, study)
    add_custom(results, "evaluate.*.jsonl", lambda r: {"recall": None})
    table = scores_table(study, collect_study(results, tier, study))
    assert (table.data["ok"] == 0).all(), "undefined everywhere is a dash"


def test_a_study_of_which_nothing_ran_has_a_table(tmp_path):
    path = make_study(tmp_path, metric="custom.recall")
    study = load_study(path)
    collected = collect_study(tmp_path / "nowhere", load_tier("smoke"), study)
    assert (scores_table(study, collected).data["ok"] == 0).all()
    assert study_inputs(tmp_path / "nowhere", load_tier("smoke"), study, collected, study.metric) == []


def test_two_folders_are_compared_in_a_custom_metric(tmp_path, capsys):
    path = make_study(tmp_path)
    for name, shift in (("a", 0.0), ("b", 0.5)):
        fill(tmp_path / name, path)
        add_custom(tmp_path / name, "evaluate.*.jsonl", lambda r, s=shift: {"recall": s + 0.01 * r.seed})
    folders = [str(tmp_path / name / "smoke") for name in "ab"]
    compare([*folders, "--metric", "custom.recall", "--json"])
    scores = json.loads(capsys.readouterr().out)["comparisons"][0]["scores"]
    assert {s["metric"] for s in scores} == {"custom.recall"} and scores[0]["difference"] == pytest.approx(0.5)
    with pytest.raises(UserError, match=r"--metric: no record in .*a/smoke or .*b/smoke has 'custom.recal'"):
        compare([*folders, "--metric", "mAP", "custom.recal"])
    with pytest.raises(SystemExit):
        compare([*folders, "--metric", "recall"])
    assert "invalid choice: 'recall'" in capsys.readouterr().err
