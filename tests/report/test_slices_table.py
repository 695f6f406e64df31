"""Slices in the report: from the matches of a study's evaluations to rows with intervals and differences."""

from __future__ import annotations

import pandas as pd
import pytest
from report_records import EFFECT, made_up_matches, make_study, with_properties

from aqr_bench.metrics.matches import Matches
from aqr_bench.metrics.slices import ALL, slice_scores
from aqr_bench.report.collect import Results
from aqr_bench.report.slice_scores import load_slices, slice_difference, slice_rows
from aqr_bench.report.tables.slices import slices_table
from aqr_bench.study.load import load_study


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    """Two variants of two seeds, with slices of all but one evaluation."""
    rows, files = [], {}
    for variant, effect in EFFECT.items():
        for seed in (0, 1):
            matches = made_up_matches(effect, seed, scenes=20)
            matches = matches if (variant, seed) == ("cross", 1) else with_properties(matches)
            file = tmp_path_factory.mktemp("matches") / "matches.npz"
            files[variant, seed, "clean"] = matches.save(file)
            rows.append((variant, seed, "clean", "ok", float(matches.map()[0])))
    evaluations, empty = pd.DataFrame(rows, columns=["variant", "seed", "condition", "status", "mAP"]), pd.DataFrame()
    return Results(evaluations, empty, empty, empty, empty, empty, (), match_files=files)


@pytest.fixture(scope="module")
def table(results, tmp_path_factory):
    return slices_table(load_study(make_study(tmp_path_factory.mktemp("study"))), results)


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


def test_all_is_the_score_of_the_record(table, results):
    scores = results.evaluations[results.evaluations["variant"] == "none"]["mAP"]
    rows = table.data[(table.data["criterion"] == "all") & (table.data["variant"] == "none")]
    assert rows["mAP_mean"].item() == pytest.approx(scores.mean(), abs=1e-12)


def test_older_matches_and_those_of_another_evaluation_have_no_slices(results):
    older, newer = results.match_files["cross", 1, "clean"], results.match_files["none", 0, "clean"]
    score = float(Matches.load(newer).map()[0])
    assert load_slices(newer, score)[ALL].value == score
    assert load_slices(older, float(Matches.load(older).map()[0])) is None
    assert load_slices(newer, score + 0.01) is None and load_slices(None, score) is None


def test_differences_are_paired_by_scene(results):
    scores = slice_scores(Matches.load(results.match_files["none", 0, "clean"]), 50)
    same = {seed: scores["range", "0-20 m"] for seed in (0, 1)}
    delta = slice_difference(same, same)
    assert (delta.mean, delta.n, delta.scenes.low, delta.scenes.high) == (0, 2, 0, 0)
    rows = {row.model: row for row in slice_rows({"a": {0: scores}, "b": {0: scores}}, {"b": "a"}) if row.key == ALL}
    assert rows["a"].difference is None and rows["b"].difference.mean == 0 and rows["b"].difference.p_holm is None
