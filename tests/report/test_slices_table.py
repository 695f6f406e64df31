"""Slices in the report: from the matches of a study's evaluations to rows with intervals and differences."""

from __future__ import annotations

import pytest
from report_records import fill, make_study, with_properties

from aqr_bench.metrics.matches import Matches
from aqr_bench.metrics.slices import ALL, slice_scores
from aqr_bench.report.collect import collect_study
from aqr_bench.report.slice_scores import load_slices, slice_difference, slice_rows
from aqr_bench.report.tables.slices import slices_table
from aqr_bench.study.load import load_study, load_tier


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    """Results of a study of two variants and two seeds, with slices of all but one evaluation."""
    folder = tmp_path_factory.mktemp("slices")
    path = make_study(folder)
    fill(folder / "results", path, scenes=20)
    for file in sorted((folder / "results").rglob("clean/matches.npz")):
        if "cross/seed1" not in file.as_posix():
            with_properties(Matches.load(file)).save(file)
    return folder, load_study(path)


@pytest.fixture(scope="module")
def table(study_folder):
    folder, study = study_folder
    return slices_table(study, collect_study(folder / "results", load_tier("smoke"), study))


def test_every_slice_of_every_variant_is_a_row(table):
    rows = table.data.set_index(["criterion", "slice", "variant"])
    assert {key for key in rows.index if key[0] in ("range", "light")} == {
        (criterion, name, variant)
        for criterion, names in (("range", ("0-20 m", "30-50 m")), ("light", ("day", "night")))
        for name in names
        for variant in ("none", "cross")
    }
    assert (
        rows.loc[("range", "0-20 m", "none"), "objects"] == 100 and rows.loc[("light", "night", "none"), "scenes"] == 10
    )
    row = rows.loc[("range", "0-20 m", "cross")]
    assert row["scenes_low95"] < row["mAP_mean"] < row["scenes_high95"]
    assert row["difference_scenes_low95"] <= row["difference"] <= row["difference_scenes_high95"]
    assert row["seeds"] == 1 and rows.loc[("range", "0-20 m", "none"), "seeds"] == 2
    assert "1 evaluations without slices are left out" in table.note and "lower bounds" in table.note


def test_all_is_the_score_of_the_record(table, study_folder):
    folder, study = study_folder
    scores = collect_study(folder / "results", load_tier("smoke"), study).evaluations
    scores = scores[(scores["variant"] == "none") & (scores["condition"] == "clean")]["mAP"]
    rows = table.data[(table.data["criterion"] == "all") & (table.data["variant"] == "none")]
    assert rows["mAP_mean"].item() == pytest.approx(scores.mean(), abs=1e-12)


def test_older_matches_and_those_of_another_evaluation_have_no_slices(study_folder):
    files = sorted((study_folder[0] / "results").rglob("clean/matches.npz"))
    older = next(file for file in files if "cross/seed1" in file.as_posix())
    newer = next(file for file in files if "none/seed0" in file.as_posix())
    score = float(Matches.load(newer).map()[0])
    assert load_slices(newer, score)[ALL].value == score
    assert load_slices(older, float(Matches.load(older).map()[0])) is None
    assert (
        load_slices(newer, score + 0.01) is load_slices(None, score) is load_slices(newer.with_name("x"), score) is None
    )


def test_differences_are_paired_by_scene(study_folder):
    file = next((study_folder[0] / "results").rglob("none/seed0/**/clean/matches.npz"))
    scores = slice_scores(Matches.load(file), 50)
    same = {seed: scores["range", "0-20 m"] for seed in (0, 1)}
    delta = slice_difference(same, same)
    assert (delta.mean, delta.n, delta.scenes.low, delta.scenes.high) == (0, 2, 0, 0)
    rows = {row.model: row for row in slice_rows({"a": {0: scores}, "b": {0: scores}}, {"b": "a"}) if row.key == ALL}
    assert rows["a"].difference is None and rows["b"].difference.mean == 0 and rows["b"].difference.p_holm is None
