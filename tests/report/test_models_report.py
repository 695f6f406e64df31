"""A report on models without a tier: scores, robustness and slices, and what cannot be in one report."""

from __future__ import annotations

import pandas as pd
import pytest
from report_records import write_scored

from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.report.__main__ import main
from aqr_bench.report.robustness_scores import families
from aqr_bench.study.load import load_suite

SUITE = "multicorrupt_3"


def report(folder, *files) -> int:
    return main(["--records", *map(str, files), "--out", str(folder / "report")])


def test_scores_robustness_and_slices_of_two_models(tmp_path, capsys):
    conditions = [condition.name for condition in load_suite(SUITE).conditions][:2]
    files = [write_scored(tmp_path, name, effect, SUITE, conditions) for name, effect in (("cmt", 0), ("mome", 0.2))]
    assert report(tmp_path, *files) == 0
    tables = {file.stem: pd.read_csv(file) for file in (tmp_path / "report" / "tables").glob("*.csv")}
    assert set(tables) == {
        f"models_{SUITE}_scores",
        f"models_robustness_{SUITE}",
        f"models_robustness_{SUITE}_corruptions",
        f"models_{SUITE}_slices",
        f"models_{SUITE}_calibration",
    }
    scores = tables[f"models_{SUITE}_scores"].set_index(["condition", "model"])
    clean = {record.condition: record.scores["mAP"] for record in read_records(files[1])}["clean"]
    row = scores.loc[("clean", "mome")]
    assert len(scores) == 2 * len(conditions) and row["mAP"] == clean
    assert row["scenes_low95"] < clean < row["scenes_high95"]
    assert 0 < row["difference_low95"] < row["difference"] < row["difference_high95"]
    summary = tables[f"models_robustness_{SUITE}"].set_index(["variant", "metric"])
    assert (
        summary.loc[("mome", "mAP"), "clean"] == clean and summary.loc[("mome", "mAP"), "seeds"] == 0
    )  # not all are there
    corruptions = tables[f"models_robustness_{SUITE}_corruptions"].set_index(["corruption", "variant"])
    first, *others = families(load_suite(SUITE))
    assert corruptions.loc[(first, "mome"), "RA_mAP"] > corruptions.loc[(first, "cmt"), "RA_mAP"] > 0
    assert others and (corruptions.loc[others, "seeds"] == 0).all()
    assert set(tables[f"models_{SUITE}_slices"]["model"]) == {"cmt", "mome"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert (
        "Scores by condition and model" in page
        and "aqr-bench score cmt" in page
        and "report: " in capsys.readouterr().out
    )


def test_the_worth_of_a_sensor_to_each_model(tmp_path):
    conditions, models = ("clean", "no_lidar", "no_cameras"), (("a", 0), ("b", 0.2))
    files = [write_scored(tmp_path, name, effect, "missing_sensors", conditions) for name, effect in models]
    assert report(tmp_path, *files) == 0
    rows = pd.read_csv(tmp_path / "report" / "tables" / "models_missing_sensors_worth.csv").set_index(
        ["sensor", "model"]
    )
    scores = {record.condition: record.scores["mAP"] for record in read_records(files[1])}
    row = rows.loc[("lidar", "b")]
    assert row["worth"] == pytest.approx(scores["clean"] - scores["no_lidar"]) and row["verdict"] == "too few seeds"
    assert row["worth_scenes_low95"] <= row["worth"] <= row["worth_scenes_high95"]
    assert row["change"] == pytest.approx(row["worth"] - rows.loc[("lidar", "a"), "worth"]) and len(rows) == 4


def test_what_cannot_be_in_one_report(tmp_path):
    file, other = write_scored(tmp_path, "cmt", 0.0), write_scored(tmp_path / "again", "cmt", 0.1)
    with pytest.raises(UserError, match="two models of one name: cmt, cmt"):
        report(tmp_path, file, other)
    (record,) = read_records(other)
    elsewhere = Record(**{**vars(record), "tier": "mome", "provenance": {"data_sha256": "e" * 64}})
    with pytest.raises(UserError, match=r"cannot be in one report: .*different data"):
        report(tmp_path, file, write_records(tmp_path / "elsewhere.jsonl", [elsewhere]))
    of_tier = Record(**{**vars(record), "tier": "quick", "seed": 0})
    with pytest.raises(UserError, match="records of tier 'quick': name it with --tier"):
        report(tmp_path, write_records(tmp_path / "tier.jsonl", [of_tier]))
    with pytest.raises(UserError, match="needs --tier and one results folder"):
        main(["--tier", "quick", "--records", str(tmp_path), str(tmp_path), "--out", str(tmp_path)])
