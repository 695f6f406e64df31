"""A page or comparison never shows a number of another identity without saying so in its row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from report_records import fill, make_study

from aqr_bench.folders import shipped_folder
from aqr_bench.records.freshness import page_identity
from aqr_bench.records.record import read_records, write_records
from aqr_bench.report import __main__ as report
from aqr_bench.report import page
from aqr_bench.report.collect import collect_study
from aqr_bench.report.compare import main as compare
from aqr_bench.report.result_sets import read_set
from aqr_bench.report.stale import find_stale
from aqr_bench.report.tables.speed import speed_section
from aqr_bench.report.tables.study import classes_table, metrics_table, runs_table, scores_table
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.plan import with_variants
from aqr_bench.study.runs import limit_seeds
from aqr_bench.world.spec import read_tier

pytestmark = pytest.mark.usefixtures("no_figures")

REFERENCE = shipped_folder() / "results" / "reference" / "quick_0.1.0" / "records"
WINDOW = "a cross -> b"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Records of a study, whose variant 'cross' has another config since."""
    folder = tmp_path_factory.mktemp("stale")
    path = make_study(folder)
    fill(folder / "results", path)
    study = yaml.safe_load(path.read_text())
    study["variants"]["cross"]["config"] = {"a": "b"}
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


def marks(table, **columns) -> list[str]:
    rows = table.data
    for column, value in columns.items():
        rows = rows[rows[column] == value]
    return sorted(set(rows["stale"]))


def test_a_world_of_other_settings_makes_all_stale_before_info_files_are_rebuilt(tmp_path):
    path = make_study(tmp_path)
    fill(tmp_path / "results", path)
    tier, study = load_tier("smoke"), load_study(path)
    assert find_stale(tmp_path / "results", tier, [study]).verdicts == ()
    marker = RunLayout("smoke", tmp_path / "results").world_marker
    marker.parent.mkdir()
    marker.write_text(json.dumps({"sha256": read_tier(tier.path).sha256}))
    assert find_stale(tmp_path / "results", tier, [study]).verdicts == ()
    marker.write_text(json.dumps({"sha256": "0" * 64}))
    stale = find_stale(tmp_path / "results", tier, [study])
    assert stale.verdicts == stale.judged
    assert {reason for verdict in stale.verdicts for reason in verdict.reasons if "world changed" in reason} == {
        "info files rebuilt (world changed)"
    }


def test_rows_of_a_changed_variant_are_marked_and_no_others(place):
    tier, study = load_tier("smoke"), load_study(place / "made_up.yaml")
    results, stale = collect_study(place / "results", tier, study), find_stale(place / "results", tier, [study])
    for build in (scores_table, metrics_table, runs_table):
        table = stale.mark(build(study, results), study, "evaluate", {study.suite.name})
        (mark,) = marks(table, variant="cross")
        assert mark == f"stale: {WINDOW}"
        assert marks(table, variant="none") == [""]
        assert table.text["Stale"].str.startswith("stale: a cross -> b").sum() == (table.data["stale"] != "").sum()
        assert table.data["stale"].notna().all() and "Stale" in table.markdown()
    seed = stale.mark(runs_table(study, results), study, "evaluate")
    assert marks(seed, variant="cross", seed=1) == [f"stale: {WINDOW}"]
    wide = stale.mark(classes_table(study, results), study, "evaluate")  # a column a variant
    assert all(mark.startswith(f"stale (cross): {WINDOW}") for mark in wide.data["stale"])
    plain = scores_table(study, results)
    assert stale.mark(plain, study, "evaluate", {"another_suite"}) is plain


def test_a_difference_to_a_stale_baseline_is_marked(place):
    tier, study = load_tier("smoke"), load_study(place / "made_up.yaml")
    turned = replace(study, baseline="cross")
    results, stale = collect_study(place / "results", tier, turned), find_stale(place / "results", tier, [turned])
    (mark,) = marks(stale.mark(scores_table(turned, results), turned, "evaluate"), variant="none")
    assert mark.startswith(f"stale (cross): {WINDOW}")


def test_a_changed_condition_marks_its_rows_alone(place):
    tier, study = load_tier("smoke"), load_study(place / "made_up.yaml")
    study = replace(study, variants={"none": study.variants["none"]})
    clean, lidar, cameras = study.suite.conditions
    changed = replace(study, suite=replace(study.suite, conditions=(clean, replace(cameras, name=lidar.name), cameras)))
    results, stale = collect_study(place / "results", tier, changed), find_stale(place / "results", tier, [changed])
    table = stale.mark(scores_table(changed, results), changed, "evaluate")
    assert marks(table, condition=clean.name) == marks(table, condition=cameras.name) == [""]
    assert "condition" in marks(table, condition=lidar.name)[0]


def test_speeds_of_a_stale_measurement_are_marked(place):
    tier, study = load_tier("smoke"), load_study(place / "made_up.yaml")
    turned = replace(study, baseline="cross")
    table = speed_section(tier, [turned], place / "results")[0].tables[0]
    assert table.data["source"][0] == f"here, tier smoke, stale: baseline.a none -> b; {WINDOW}"
    assert "stale" not in speed_section(tier, [study], place / "results")[0].tables[0].data["source"][0]


def test_the_command_says_it_on_page_and_terminal(place, tmp_path, capsys):
    arguments = ["--tier", "smoke", "--study", str(place / "made_up.yaml"), "--records", str(place / "results")]
    assert report.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    head = "5 of 14 record files are not of what is asked for now, and marked as stale"
    assert head in printed and f"stale: {WINDOW}: " in printed
    for file in (tmp_path / "index.html", tmp_path / "made_up" / "index.html"):
        text = file.read_text(encoding="utf-8")
        assert head in text and "<td>stale: a cross -&gt; b" in text
    scores = pd.read_csv(tmp_path / "tables" / "made_up_scores.csv", keep_default_na=False)
    assert set(scores[scores["variant"] == "none"]["stale"]) == {""}
    cost = pd.read_csv(tmp_path / "tables" / "made_up_cost.csv", keep_default_na=False)
    assert list(cost["stale"]) == ["", f"stale: {WINDOW}"]
    base = pd.read_csv(tmp_path / "tables" / "base.csv")
    assert "stale" not in base.columns
    assert json.loads((tmp_path / "made_from.json").read_text())["identity"]


def test_results_of_version_0_1_0_are_read_and_said_to_be_of_another_identity(tmp_path):
    (tmp_path / "quick").symlink_to(REFERENCE)
    # As it ran them: a tier of that name with base models, three seeds.
    tier = replace(load_tier("quick_prior"), name="quick")
    study = limit_seeds(load_study("bias_site"), tier, 3)
    results, stale = collect_study(tmp_path, tier, study), find_stale(tmp_path, tier, [study])
    assert (results.evaluations["status"] == "ok").all() and results.evaluations["mAP"].notna().all()
    head, line = stale.lines()
    assert head.split(" record files")[0] == "{0} of {0}".format(len(stale.verdicts))
    assert line.startswith("stale: record of an earlier version, which does not say what it was made from: ")
    table = stale.mark(scores_table(study, results), study, "evaluate")
    assert all(mark.startswith("stale: record of an earlier version") for mark in table.data["stale"])


# ---------------------------------------------------------------- compare


def test_compare_marks_rows_and_sets(tmp_path, capsys):
    path = make_study(tmp_path, seeds=(0, 1))
    for name in ("a", "b"):
        fill(tmp_path / name, path)
        for file in (tmp_path / name).rglob("*.jsonl"):
            facts = {"files": {"study": {"path": str(path), "sha256": "0" * 64}}}
            write_records(file, [replace(r, provenance={**r.provenance, **facts}) for r in read_records(file)])
    a, b = str(tmp_path / "a" / "smoke"), str(tmp_path / "b" / "smoke")
    assert compare([a, b]) == 0 and "stale" not in capsys.readouterr().out
    file = tmp_path / "b/smoke/made_up/cross/seed0/evaluate.missing_sensors.jsonl"
    rows = read_records(file)
    request = {**rows[0].provenance["request"]}
    request["settings"] = {**request["settings"], "config": {"a": "other"}}
    write_records(file, [replace(rows[0], provenance={**rows[0].provenance, "request": request}), *rows[1:]])
    assert compare([a, b, "--out", str(tmp_path / "all.csv")]) == 0  # the scores are the same
    assert "stale in B: a other -> cross: 1 record of evaluate made_up/cross" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "all.csv", keep_default_na=False).query("variant == 'cross' and metric == 'mAP'")
    assert list(table["stale"]) == ["stale: B: a other -> cross", "", ""]


def test_compare_says_that_results_of_version_0_1_0_are_of_another_identity():
    results = read_set(REFERENCE)
    assert len(results.stale) == len(results.records) > 100
    assert {why[0].split(",")[0] for why in results.stale.values()} >= {"record of an earlier version"}


def test_the_page_of_some_variants_is_known_by_them(place, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "build_report", lambda *arguments: tmp_path / "index.html")
    arguments = ["--tier", "smoke", "--study", str(place / "made_up.yaml"), "--records", str(place / "results")]
    assert report.main([*arguments, "--out", str(tmp_path), "--variants", "none"]) == 0
    study = load_study(place / "made_up.yaml")
    limited, root = with_variants([study], ["none"]), place / "results" / "smoke"
    identity = json.loads((tmp_path / "made_from.json").read_text())["identity"]
    assert identity == page_identity(root, limited) != page_identity(root, [study])
    # Where stale rows are marked, the page is another one than that of current records.
    assert report.main([*arguments, "--out", str(tmp_path)]) == 0
    identity = json.loads((tmp_path / "made_from.json").read_text())["identity"]
    assert identity != page_identity(root, [study])
