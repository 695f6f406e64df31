"""Noise over seeds and over scenes together: what counts as a finding, what a study can resolve, and the gate."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_records import fill, made_up_matches, make_study
from scipy import stats

from aqr_bench.metrics.bootstrap import SceneInterval
from aqr_bench.report import page as report_page
from aqr_bench.report.answer import answer
from aqr_bench.report.collect import Results, collect_study
from aqr_bench.report.detectable_difference import (
    detectable_difference_sentence,
    detectable_difference_table,
    detectable_differences,
)
from aqr_bench.report.gate import gate, gate_passed, gate_sentence
from aqr_bench.report.score_statistics import paired_difference, phrase, verdict
from aqr_bench.report.tables.study import by_seed, differences, scores_table
from aqr_bench.study.load import load_study, load_tier

pytestmark = pytest.mark.usefixtures("no_figures")

TIER = load_tier("smoke")
SCENES = SceneInterval(seeds=3, scenes=64, mean=0.05, low=0.03, high=0.07, sd=0.01)


def collected(tmp_path, variants=("none", "cross"), seeds=(0, 1, 2), metric="mAP", **filling):
    study = load_study(make_study(tmp_path, variants, seeds, metric=metric))
    fill(tmp_path / "results", study.path, **filling)
    return study, collect_study(tmp_path / "results", TIER, study)


def scored(values: dict[tuple[str, str], list[float]], study):
    """Results with these scores by (variant, condition), one per seed; ``gate`` and the tables look at no more."""
    rows = [
        {"variant": v, "condition": c, "seed": s, "status": "ok", study.metric: score}
        for (v, c), scores in values.items()
        for s, score in enumerate(scores)
    ]
    empty = pd.DataFrame()
    return Results(pd.DataFrame(rows), empty, empty, empty, empty, empty, ())


# ---------------------------------------------------------------- both intervals


def test_a_finding_needs_both_intervals():
    sure = paired_difference({0: 0.45, 1: 0.451, 2: 0.449}, {0: 0.4, 1: 0.4, 2: 0.4})
    assert verdict(sure, True) == "better" and sure.sd == pytest.approx(0.001)
    assert verdict(replace(sure, scenes=SCENES), True) == "better"
    assert verdict(replace(sure, scenes=replace(SCENES, low=-0.001)), True) == "within the noise"
    noisy = paired_difference({0: 0.45, 1: 0.5, 2: 0.4}, {0: 0.4, 1: 0.4, 2: 0.4})
    assert verdict(replace(noisy, scenes=SCENES), True) == "within the noise"
    single = paired_difference({0: 0.45}, {0: 0.4})
    assert verdict(replace(single, scenes=SCENES), True) == "one seed, noise unknown"


def test_a_phrase_names_both_intervals():
    sure = paired_difference({0: 0.45, 1: 0.451, 2: 0.449}, {0: 0.4, 1: 0.4, 2: 0.4})
    output = phrase(replace(sure, scenes=SCENES), "mAP")
    assert output == "+0.050 mAP, 95 % interval +0.048 to +0.052 over 3 seeds, +0.030 to +0.070 over 64 scenes"
    single = replace(paired_difference({0: 0.45}, {0: 0.4}), scenes=SCENES)
    assert phrase(single, "mAP") == "+0.050 mAP, 1 seed, 95 % interval +0.030 to +0.070 over 64 scenes"


def test_matches_beside_the_records_give_the_interval_over_scenes(tmp_path):
    study, results = collected(tmp_path, scenes=12, effects={"cross": 0.2})
    assert set(results.scenes) == {("cross", c.name) for c in study.suite.conditions}
    delta = differences(study, results)["cross", "clean"]
    assert (delta.scenes.seeds, delta.scenes.scenes) == (3, 12) and delta.scenes.low < delta.mean < delta.scenes.high
    assert delta.scenes.mean == pytest.approx(delta.mean)
    table = scores_table(study, results)
    assert list(table.data["scenes"].dropna()) == [12] * 3 and "over scenes" in table.note
    assert "over 3 seeds" in answer(study, results) and "over 12 scenes" in answer(study, results)
    assert (table.text["95 %, scenes"] == "–").sum() == 3  # the baseline's rows


def test_a_missing_damaged_or_other_file_leaves_a_dash_and_the_old_verdict(tmp_path):
    study, _ = collected(tmp_path, scenes=12, effects={"cross": 0.2})
    work = tmp_path / "results" / "smoke" / "work" / "made_up" / "cross"
    seed0, seed1 = (work / seed / "detections/missing_sensors" for seed in ("seed0", "seed1"))
    (seed0 / "clean/matches.npz").unlink()
    (seed1 / "no_lidar/matches.npz").write_bytes(b"PK no file")
    made_up_matches(0.4, 1).save(seed1 / "no_cameras/matches.npz")
    results = collect_study(tmp_path / "results", TIER, study)
    assert results.scenes == {}
    table = scores_table(study, results)
    assert set(table.text["95 %, scenes"]) == {"–"} and "either contains 0" not in table.note
    shutil.rmtree(tmp_path / "results" / "smoke" / "work")
    assert list(scores_table(study, collect_study(tmp_path / "results", TIER, study)).text["Verdict"]) == list(
        table.text["Verdict"]
    )


def test_runs_that_failed_do_not_hide_the_pairs_that_are_left(tmp_path):
    study, results = collected(tmp_path, scenes=12, effects={"cross": 0.2}, fail={("cross", 2)})
    assert {s.seeds for s in results.scenes.values()} == {2} and len(results.scenes) == 3
    assert differences(study, results)["cross", "clean"].scenes is not None


@pytest.mark.parametrize("more", [{"metric": "NDS", "scenes": 12}, {"scenes": 5}, {"scenes": 0}])
def test_no_interval_over_scenes_for_other_metrics_few_scenes_or_old_records(more, tmp_path):
    study, results = collected(tmp_path, **more)
    assert results.scenes == {} and detectable_differences(study, results)[0].scene_half is None


# ---------------------------------------------------------------- what a study can resolve


def test_resolution_by_hand(tmp_path):
    study, results = collected(tmp_path, variants=("none", "a", "b"), scenes=12, effects={"a": 0.1, "b": 0.05})
    row = detectable_differences(study, results)[0]
    base = by_seed(results, "none", "clean", "mAP")
    deltas = [[by_seed(results, v, "clean", "mAP")[s] - base[s] for s in range(3)] for v in "ab"]
    variance = np.mean([np.var(d, ddof=1) for d in deltas])
    scenes = [results.scenes[v, "clean"] for v in "ab"]
    scene_sd = np.median([s.sd for s in scenes])
    assert (row.seeds, row.df, row.scenes) == (3, 4, 12) and row.pooled_sd == pytest.approx(math.sqrt(variance))
    assert row.seed_half == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(variance / 3))
    assert row.scene_half == pytest.approx(np.median([(s.high - s.low) / 2 for s in scenes]))
    factor = stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)
    assert row.smallest == pytest.approx(factor * math.sqrt(variance / 3 + scene_sd**2))
    assert row.baseline_sd == pytest.approx(np.std(list(base.values()), ddof=1))
    output = detectable_difference_sentence(study, results)
    assert output.startswith(f"Under 'clean', a true difference of {row.smallest:.3f} mAP") and "12 scenes" in output


def test_few_seeds_are_said(tmp_path):
    study, results = collected(tmp_path, seeds=(0, 1))
    assert set(detectable_difference_table(study, results).text["Seeds"]) == {"2, fewer than three"}
    assert "2 seeds (fewer than three), without the noise over scenes" in detectable_difference_sentence(study, results)
    study, results = collected(tmp_path, seeds=(0,))
    row = detectable_differences(study, results)[0]
    assert (row.seeds, row.df, row.pooled_sd, row.smallest, row.baseline_sd) == (1, 0, None, None, None)
    assert "unknown" in detectable_difference_sentence(study, results)


def test_runs_that_are_missing_leave_dashes(tmp_path):
    study = load_study(make_study(tmp_path, seeds=(0, 1, 2)))
    table = detectable_difference_table(study, collect_study(tmp_path, TIER, study))
    assert set(table.text["Smallest difference"]) == {"–"} and table.marked == {0, 1, 2}


# ---------------------------------------------------------------- the gate


def test_the_gate_is_passed_by_a_move_beyond_the_noise_of_the_seeds(tmp_path):
    study = load_study(make_study(tmp_path, variants=("none", "a", "b"), seeds=(0, 1, 2)))
    base = [0.30, 0.31, 0.32]  # sd 0.01
    values = {("none", c): base for c in ("clean", "no_lidar", "no_cameras")}
    for name, moves in (("a", (0.01, 0.025, -0.01)), ("b", (0.0, -0.03, -0.019))):
        for condition, move in zip(("clean", "no_lidar", "no_cameras"), moves, strict=True):
            values[name, condition] = [v + move for v in base]
    rows = gate(scored(values, study), study)
    assert [(r.condition, r.passed) for r in rows] == [("clean", False), ("no_lidar", True), ("no_cameras", False)]
    _, first, second = rows
    assert (first.variant, first.best, first.seeds, first.passed) == ("b", "a", 3, True)
    assert (first.move, first.gain, first.bar) == pytest.approx((-0.03, 0.025, 0.02))
    assert (second.variant, second.best, second.gain, second.passed) == ("b", None, None, False)
    output = gate_sentence(rows, study)
    assert gate_passed(rows) and output.startswith("Passed: 'b' moves mAP by −0.030 under 'no_lidar' (worse)")
    assert gate_passed(rows[2:]) is False and gate_sentence(rows[2:], study).startswith("Not passed: no fixed bias")


def test_the_gate_says_nothing_without_seeds_and_is_not_passed_by_dust(tmp_path):
    study = load_study(make_study(tmp_path))
    conditions = [c.name for c in study.suite.conditions]
    single = gate(scored({(v, c): [0.3] for v in ("none", "cross") for c in conditions}, study), study)
    assert [r.passed for r in single] == [None] * len(conditions) and "No verdict" in gate_sentence(single, study)
    dust = {("none", c): [0.0, 0.0] for c in conditions} | {("cross", c): [0.0002, 0.0002] for c in conditions}
    assert gate_passed(gate(scored(dust, study), study)) is False
    # A baseline that learns nothing has no noise; the variant's own counts.
    noisy = {("none", c): [0.0, 0.0] for c in conditions} | {("cross", c): [0.0, 0.1] for c in conditions}
    assert gate_passed(gate(scored(noisy, study), study)) is False
    alone = gate(scored({("none", c): [0.3, 0.4] for c in conditions}, study), study)
    assert gate_passed(alone) is None and alone[0].variant is None


def test_the_page_shows_the_resolution_always_and_the_gate_where_asked(tmp_path, monkeypatch):
    study, _ = collected(tmp_path, scenes=12, effects={"cross": 0.2})
    page = report_page.build_report(TIER, [study], tmp_path / "results", tmp_path / "out").read_text()
    assert "What this study can resolve" in page and 'id="made_up-gate"' not in page
    assert (tmp_path / "out" / "tables" / "made_up_resolution.csv").is_file()

    object.__setattr__(study, "gate", True)  # as the study file's own key does
    page = report_page.build_report(TIER, [study], tmp_path / "results", tmp_path / "out").read_text()
    assert 'id="made_up-gate"' in page and "Passed: &#39;cross&#39; moves mAP by +" in page
    assert (tmp_path / "out" / "tables" / "made_up_gate.md").read_text().startswith("### Gate")
