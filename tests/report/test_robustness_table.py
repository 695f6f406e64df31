"""The robustness table from records: by hand, with failed, missing and foreign records, on the page."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from report_records import make_study

from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, write_records
from aqr_bench.report import collect, robustness_scores
from aqr_bench.report.__main__ import main as report
from aqr_bench.report.figures.robustness import MEAN, degradation_figure, resistance, resistance_figure
from aqr_bench.report.robustness_scores import collect_suite_scores, corrupts, families
from aqr_bench.report.section import Output
from aqr_bench.report.tables.robustness import corruptions_table, published_table, robustness_parts, summary_table
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.load import resolve_condition as condition
from aqr_bench.study.spec import Suite

CONDITIONS = ["clean", "random_cameras_1", "random_cameras_2", "no_lidar"]
# mAP by condition; NDS is 0.1 more. RA of 'none': (0.4 + 0.2) / 2 / 0.5 = 0.6 and 0.1 / 0.5 = 0.2.
NONE = {"clean": 0.5, "random_cameras_1": 0.4, "random_cameras_2": 0.2, "no_lidar": 0.1}
CROSS = {"clean": 0.4, "random_cameras_1": 0.4, "random_cameras_2": 0.32, "no_lidar": 0.2}


def made_up_suite(folder: Path) -> Suite:
    cameras = [{"name": f"random_cameras_{s}", "corruption": "random_cameras", "severity": s} for s in (1, 2)]
    data = {"name": "graded", "summary": "x", "conditions": [{"name": "clean"}, *cameras, {"name": "no_lidar"}]}
    path = folder / "graded.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_suite(path)


def put(
    results: Path, variant: str, seed: int, scores: dict, suite: str = "graded", study: str = "made_up", tier="smoke"
) -> None:
    """Records of one run; a score that is text is the reason of a failure, None one without a number."""
    rows = []
    for name, score in scores.items():
        bad = isinstance(score, str)
        result = {} if bad else {"mAP": score, "NDS": None if score is None else score + 0.1}
        rows.append(
            Record(
                "evaluate", "failed" if bad else "ok", tier, study, variant, seed, name, suite,
                reason=score if bad else None, scores=result, provenance={"input_sha256": name},
            )
        )  # fmt: skip
    write_records(results / tier / study / variant / f"seed{seed}" / f"evaluate.{suite}.jsonl", rows)


def scores_of(folder: Path, variants=("none", "cross"), seeds=(0, 1), single_sensor_suite: Suite | None = None):
    return collect_suite_scores(
        folder, "smoke", made_up_suite(folder), "made_up", variants, "none", seeds, single_sensor_suite
    )


def row(frame: pd.DataFrame, **values) -> pd.Series:
    for key, value in values.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


# ---------------------------------------------------------------- suites


def test_conditions_of_one_corruption_belong_together():
    suite = Suite(
        "s",
        "",
        (
            condition("clean"),
            condition("fog_1", "multicorrupt.fog", 1),
            condition("fog_key_1", "multicorrupt.fog", 1),
            condition("fog_2", "multicorrupt.fog@2"),
            condition("heavy", "multicorrupt.snow_scatter", 3),
            condition("level_0", "key_frame_only"),
        ),
        Path("s.yaml"),
    )
    assert families(suite) == {
        "fog": {1: "fog_1", 2: "fog_2"},
        "fog_key": {1: "fog_key_1"},
        "snow_scatter": {3: "heavy"},
        "level_0": {0: "level_0"},
    }


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([condition("no_lidar"), condition("clean")], "the first one must be 'clean'"),
        (
            [condition("clean"), condition("a", "multicorrupt.fog", 1), condition("b", "multicorrupt.fog", 1)],
            "'b' is the same .* as 'a'",
        ),
    ],
)
def test_suites_that_robustness_makes_no_sense_of(conditions, message):
    with pytest.raises(UserError, match=message):
        families(Suite("s", "", tuple(conditions), Path("s.yaml")))


def test_which_suites_the_page_takes_up(tmp_path):
    assert corrupts(made_up_suite(tmp_path))
    plain = Suite("s", "", (condition("clean"), condition("no_lidar")), Path("s.yaml"))
    assert not corrupts(plain)


# ---------------------------------------------------------------- numbers


def test_by_hand(tmp_path):
    for seed in (0, 1):
        put(tmp_path, "none", seed, NONE)
        put(tmp_path, "cross", seed, CROSS)
    scores = scores_of(tmp_path)
    none = row(scores.summary, metric="mAP", variant="none")
    assert (none["clean"], none["mRA"], none["mRRA"], none["mCE"]) == pytest.approx((0.5, 0.4, 0, 1))
    cross = row(scores.summary, metric="mAP", variant="cross")
    # RA 0.36 / 0.4 = 0.9 and 0.2 / 0.4 = 0.5; RRA 0.72 / 0.6 - 1 = 20 % and 100 %; CE 1.28 / 1.4 and 0.8 / 0.9.
    assert cross["mRA"] == pytest.approx(0.7) and cross["difference"] == pytest.approx(0.3)
    assert cross["mRRA"] == pytest.approx(60) and cross["mCE"] == pytest.approx((1.28 / 1.4 + 0.8 / 0.9) / 2)
    assert row(scores.summary, metric="NDS", variant="cross")["mRA"] == pytest.approx((0.46 / 0.5 + 0.3 / 0.5) / 2)
    table = corruptions_table(scores)
    cameras = row(table.data, corruption="random_cameras", variant="none")
    assert (cameras["mAP"], cameras["RA_mAP"], cameras["RA_NDS"]) == pytest.approx((0.3, 0.6, 0.4 / 0.6))
    assert (cameras["mAP_severity_1"], cameras["mAP_severity_2"]) == pytest.approx((0.4, 0.2))
    assert (cameras["severities"], cameras["seeds"], cameras["wanted"]) == (2, 2, 2)
    assert "| random_cameras | none | 0.300 | 0.400 / 0.200 | 0.600 |" in table.markdown()
    assert "Missing" not in table.text and not table.marked and scores.missing.empty


def test_means_are_over_seeds_each_by_itself(tmp_path):
    put(tmp_path, "none", 0, NONE)
    put(tmp_path, "none", 1, {k: v * 0.5 if k == "clean" else v for k, v in NONE.items()})
    none = row(scores_of(tmp_path).summary, metric="mAP", variant="none")
    # RA of seed 1 is twice that of seed 0: 0.4 and 0.8, not what the mean scores give (0.2 / 0.375).
    assert none["mRA"] == pytest.approx(0.6) and none["mRA_sd"] == pytest.approx(0.4 / math.sqrt(2))


def test_the_baseline_of_the_same_seed_counts(tmp_path):
    put(tmp_path, "none", 0, NONE)
    put(tmp_path, "cross", 1, CROSS)
    cross = row(scores_of(tmp_path).summary, metric="mAP", variant="cross")
    assert cross["seeds"] == 1 and cross["pairs"] == 0 and cross["mRA"] == pytest.approx(0.7)
    assert math.isnan(cross["mRRA"]) and math.isnan(cross["mCE"]) and math.isnan(cross["difference"])
    assert "seed 1: random_cameras: baseline, severity 1: no score" in cross["reason"]


# ---------------------------------------------------------------- missing and failed


def test_a_failed_severity_is_named_and_not_averaged_away(tmp_path):
    put(tmp_path, "none", 0, NONE)
    put(tmp_path, "none", 1, NONE)
    put(tmp_path, "cross", 0, CROSS)
    put(tmp_path, "cross", 1, {**CROSS, "random_cameras_2": "out of | memory"})
    scores = scores_of(tmp_path)
    summary, table = summary_table(scores), corruptions_table(scores)
    assert row(summary.data, metric="mAP", variant="cross")["seeds"] == 1
    assert row(summary.text, Metric="mAP", Variant="cross")["Missing"] == "random_cameras_2 (seed 1)"
    assert row(summary.text, Metric="mAP", Variant="none (baseline)")["Missing"] == ""
    assert len(summary.marked) == 2 and "1 evaluation is missing or failed" in summary.note
    cameras = row(table.data, corruption="random_cameras", variant="cross")
    assert cameras["seeds"] == 1 and cameras["RA_mAP"] == pytest.approx(0.9)  # seed 0 alone, not 1.0 of severity 1
    assert cameras["reason"] == "seed 1: severity 2: no score"
    assert row(table.text, Corruption="random_cameras", Variant="cross")["Seeds"] == "1 of 2"
    assert row(table.data, corruption="no_lidar", variant="cross")["seeds"] == 2
    gap = scores.missing.iloc[0]
    assert (gap["condition"], gap["seed"], gap["reason"]) == ("random_cameras_2", 1, "out of | memory")


def test_a_severity_that_no_seed_has_makes_a_dash(tmp_path):
    put(tmp_path, "none", 0, {**NONE, "random_cameras_1": None})
    scores = scores_of(tmp_path, ("none",), (0,))
    table = corruptions_table(scores)
    shown = row(table.text, Corruption="random_cameras", Variant="none")
    assert (shown["mAP"], shown["mAP by severity"], shown["RA mAP"]) == ("–", "– / 0.200", "–")
    assert math.isnan(row(scores.summary, metric="NDS", variant="none")["mRA"])
    assert scores.missing.iloc[0]["reason"] == "no mAP and no NDS"
    grid = resistance(scores, "mAP")
    assert np.isnan(grid).tolist() == [[True], [False], [True]]


def test_a_model_without_clean_score_has_no_resistance(tmp_path):
    put(tmp_path, "none", 0, {**NONE, "clean": "diverged"})
    scores = scores_of(tmp_path, ("none",), (0,))
    none = row(scores.summary, metric="mAP", variant="none")
    assert math.isnan(none["mRA"]) and math.isnan(none["clean"]) and "clean: no score" in none["reason"]
    assert resistance_figure(scores) is None


def test_equal_inputs_missing_files_and_foreign_records_do_not_count(tmp_path):
    put(tmp_path, "none", 0, NONE)
    rows = [
        Record("evaluate", "ok", "smoke", "made_up", "cross", 0, c, "graded", scores={"mAP": 0.4, "NDS": 0.4},
               provenance={"input_sha256": "all alike"})
        for c in CONDITIONS
    ]  # fmt: skip
    write_records(tmp_path / "smoke/made_up/cross/seed0/evaluate.graded.jsonl", rows)
    put(tmp_path, "self", 0, NONE, study="another")
    (tmp_path / "smoke/made_up/self").mkdir()
    (tmp_path / "smoke/another/self/seed0").rename(tmp_path / "smoke/made_up/self/seed0")
    scores = scores_of(tmp_path, ("none", "cross", "self", "both"), (0,))
    reasons = scores.missing.groupby("variant")["reason"].agg(list)
    assert len(reasons["cross"]) == 3 and all("left the inputs equal to 'clean'" in r for r in reasons["cross"])
    assert len(reasons["self"]) == 4 and all("record of another run" in r for r in reasons["self"])
    assert scores.left_out == ("both",) and scores.variants == ("none", "cross", "self")
    assert "Not evaluated under graded (made_up): both." in summary_table(scores).note


def test_single_modality_floor(tmp_path):
    single_sensor_suite = load_suite("missing_sensors")
    scores = dict.fromkeys((c.name for c in single_sensor_suite.conditions), 0.3) | {
        "no_lidar": 0.12,
        "no_cameras": 0.25,
    }
    put(tmp_path, "none", 0, NONE)
    put(tmp_path, "cross", 0, CROSS)
    put(tmp_path, "none", 0, scores, suite="missing_sensors")
    scores = scores_of(tmp_path, seeds=(0,), single_sensor_suite=single_sensor_suite)
    none, cross = (row(scores.summary, metric="NDS", variant=v) for v in ("none", "cross"))
    assert (none["no_lidar"], none["no_cameras"]) == pytest.approx((0.22, 0.35)) and math.isnan(cross["no_lidar"])
    shown = summary_table(scores)
    assert list(shown.text["no_lidar"]) == ["0.120", "0.220", "–", "–"] and "A dash there" in shown.note
    assert scores.missing.empty


# ---------------------------------------------------------------- page and figure


def test_on_the_page(tmp_path):
    suite, results = made_up_suite(tmp_path), tmp_path / "results"
    study = make_study(tmp_path, conditions=str(suite.path))
    for seed in (0, 1):
        put(results, "none", seed, NONE)
        put(results, "cross", seed, {**CROSS, "no_lidar": "<b>bad</b>"} if seed else CROSS)
    arguments = ["--tier", "smoke", "--study", str(study), "--records", str(results), "--out", str(tmp_path / "out")]
    assert report(arguments) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.startswith("<!doctype html>") and "Robustness, graded" in page and "Resistance RA under graded" in page
    assert "no_lidar (seed 1)" in page and "<b>bad" not in page
    tables = {p.name for p in (tmp_path / "out" / "tables").glob("*robustness*.csv")}
    assert tables == {f"made_up_robustness_graded{end}.csv" for end in ("", "_corruptions", "_gaps")}
    assert (tmp_path / "out" / "figures" / "made_up_robustness_graded.pdf").is_file()


def test_a_study_is_shown_under_every_suite_it_was_evaluated_under(tmp_path, monkeypatch):
    suite, study = made_up_suite(tmp_path), load_study(make_study(tmp_path))
    for module in (collect, robustness_scores):
        monkeypatch.setattr(module, "known_suites", lambda: ["graded", "missing_sensors"])
        monkeypatch.setattr(module, "load_suite", lambda name: suite if name == "graded" else load_suite(name))
    tier = load_tier("smoke")
    put(tmp_path, "none", 0, NONE, suite="missing_sensors")
    assert robustness_scores.all_suite_scores(tmp_path, tier, study) == []
    put(tmp_path, "none", 0, NONE)
    put(tmp_path, "none", 1, {**NONE, "clean": "oom"})
    (scores,) = robustness_scores.all_suite_scores(tmp_path, tier, study)
    assert (scores.suite, scores.baseline, scores.left_out) == ("graded", "none", ("cross",))
    assert row(scores.summary, metric="mAP", variant="none")["no_lidar"] == pytest.approx(0.1)
    # The page counts the records of further suites among its own.
    (part,) = robustness_parts(tmp_path, tier, study, Output(tmp_path, tmp_path))
    assert [r.ok for r in part.records].count(False) == 1 and len(part.records) == 8
    assert {t.name for t in part.tables} == {f"made_up_robustness_graded{e}" for e in ("", "_corruptions", "_gaps")}


def test_labels_of_the_figure_do_not_overlap(tmp_path):
    variants = ("none", "cross-seldom", "bev15-cam15", "supervised")
    for variant in variants:
        put(tmp_path, variant, 0, NONE)
    figure = resistance_figure(scores_of(tmp_path, variants, (0,)))
    figure.savefig(tmp_path / "x.png", bbox_inches="tight")
    renderer = figure.canvas.get_renderer()
    left = figure.axes[0]
    assert [t.get_text() for t in left.get_yticklabels()] == ["random cameras", "no lidar", MEAN]
    boxes = [t.get_window_extent(renderer) for t in left.get_yticklabels()]
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert max(box.x1 for box in boxes) <= left.get_window_extent(renderer).x0
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 300


def test_published_numbers_stand_by_themselves():
    table = published_table("multicorrupt")
    assert row(table.text, Model="MoME")["Clean NDS"] == "0.735" and len(table.data) == 12
    assert row(table.text, Model="BEVfusion")["mCE"] == "1.000" and "not to be ranked" in table.note
    assert published_table("graded") is None


def test_degradation_starts_clean_and_keeps_the_range_of_the_seeds(tmp_path):
    for seed in (0, 1):
        put(tmp_path, "none", seed, {k: v + 0.02 * seed for k, v in NONE.items()})
        put(tmp_path, "cross", seed, CROSS)
    figure = degradation_figure(scores_of(tmp_path))
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["random cameras"]  # a corruption without severities has no curve
    none, cross = shown[0].lines
    assert list(none.get_xdata()) == [0, 1, 2] and list(none.get_ydata()) == pytest.approx([0.61, 0.51, 0.31])
    assert list(cross.get_ydata()) == pytest.approx([0.5, 0.5, 0.42])
    band = shown[0].collections[0].get_paths()[0].vertices
    assert {round(y, 2) for x, y in band if x == 0} == {0.6, 0.62}
    (tmp_path / "empty").mkdir()
    put(tmp_path / "empty", "none", 0, dict.fromkeys(CONDITIONS))
    assert degradation_figure(scores_of(tmp_path / "empty", variants=("none",), seeds=(0,))) is None
