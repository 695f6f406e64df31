"""Many comparisons: p-values over seeds and over scenes, Holm's correction, the verdict by it, and the noise floor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from report_records import fill, make_study
from scipy import stats

from aqr_bench.metrics.bootstrap import SceneInterval
from aqr_bench.report.answer import answer
from aqr_bench.report.collect import collect_study
from aqr_bench.report.detectable_difference import detectable_difference_sentence, detectable_differences
from aqr_bench.report.score_statistics import (
    correct,
    corrected_verdict,
    holm,
    p_text,
    paired_difference,
    scene_p_value,
    verdict,
)
from aqr_bench.report.tables.study import by_seed, differences, scores_table
from aqr_bench.study.load import load_study, load_tier

TIER = load_tier("smoke")


def collected(tmp_path, variants=("none", "cross"), seeds=(0, 1, 2), **filling):
    study = load_study(make_study(tmp_path, variants, seeds))
    fill(tmp_path / "results", study.path, **filling)
    return study, collect_study(tmp_path / "results", TIER, study)


def test_holm_by_hand_and_in_any_order():
    # Steps 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1: never below an earlier one, never above 1.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


def test_holm_keeps_the_chance_of_a_single_false_finding():
    rng = np.random.default_rng(0)
    hits = [min(holm(list(rng.uniform(size=12)))) < 0.05 for _ in range(2000)]
    assert 0.035 < np.mean(hits) < 0.065  # without it: 1 - 0.95 ** 12 = 0.46


def test_p_over_seeds_is_scipys_paired_test():
    a, b = [0.45, 0.47, 0.44], [0.40, 0.41, 0.42]
    result = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    assert result.p == result.p_seeds == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_difference({0: 0.5}, {0: 0.4}).p is None
    assert paired_difference({0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25}).p == 0.0
    assert paired_difference({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}).p == 1.0


def test_p_over_scenes_agrees_with_the_percentile_interval():
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.02, 0.05):
        scenes = rng.normal(shift, 0.1, 64)
        draws = scenes[rng.integers(0, 64, (4000, 64))].mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        p = scene_p_value(SceneInterval(3, 64, scenes.mean(), low, high, draws.std(ddof=1)))
        assert p == pytest.approx(stats.ttest_1samp(scenes, 0).pvalue, rel=0.2, abs=1e-3)
        assert (p < 0.05) == (low > 0 or high < 0)
    assert scene_p_value(SceneInterval(3, 64, 0.0, 0.0, 0.0, 0.0)) == 1.0


def test_a_finding_needs_both_p_values():
    sure = paired_difference({0: 0.45, 1: 0.451, 2: 0.449}, {0: 0.4, 1: 0.4, 2: 0.4})
    shaky = replace(sure, scenes=SceneInterval(3, 64, 0.05, 0.001, 0.1, 0.025))
    assert sure.p < 0.001 and shaky.p == shaky.p_scenes == pytest.approx(0.05, abs=0.01)


def test_the_correction_can_take_a_finding_away_and_never_makes_one():
    base = {0: 0.40, 1: 0.41, 2: 0.42}
    weak = {s: v + d for (s, v), d in zip(base.items(), (0.010, 0.013, 0.016), strict=True)}  # p about 0.02
    none = {s: v + d for (s, v), d in zip(base.items(), (0.010, -0.01, 0.001), strict=True)}
    deltas = {"weak": paired_difference(weak, base), "none": paired_difference(none, base)}
    alone = correct({"weak": deltas["weak"], "absent": None, "single": paired_difference({0: 1.0}, {0: 0.5})})
    assert alone["weak"].p_holm == deltas["weak"].p and alone["weak"].comparisons == 1
    assert alone["absent"] is None and alone["single"].p_holm is None
    assert corrected_verdict(alone["weak"], True) == "better" and corrected_verdict(alone["weak"], False) == "worse"
    many = correct({**deltas, "a": deltas["none"], "b": deltas["none"]})
    assert many["weak"].p_holm == pytest.approx(4 * deltas["weak"].p) and many["weak"].comparisons == 4
    assert verdict(many["weak"], True) == "better" and corrected_verdict(many["weak"], True) == "within the noise"
    assert corrected_verdict(many["none"], True) == "within the noise"
    assert corrected_verdict(alone["single"], True) == "one seed, noise unknown"
    assert corrected_verdict(None, True) == "not comparable"


def test_one_family_is_a_study_in_its_metric(tmp_path):
    study, results = collected(tmp_path, variants=("none", "cross", "flat"), fail={("flat", 1), ("flat", 2)})
    deltas = differences(study, results)
    assert {d.comparisons for d in deltas.values() if d.p is not None} == {3}  # 'flat' has one pair: no test
    expected = holm([deltas["cross", c.name].p for c in study.suite.conditions])
    assert [deltas["cross", c.name].p_holm for c in study.suite.conditions] == expected


def test_table_and_answer_show_both_verdicts(tmp_path):
    study, results = collected(tmp_path, scenes=12, effects={"cross": 0.25})
    table = scores_table(study, results)
    for row, shown in zip(table.data.itertuples(), table.text.to_dict("records"), strict=True):
        finding = row.verdict in ("better", "worse")
        assert (shown["Verdict"], shown["Corrected"]) == (row.verdict, row.verdict_holm if finding else "–")
        if row.variant == "cross":
            assert row.p_holm >= max(row.p_seeds, row.p_scenes)
            assert shown["p, Holm"] == p_text(row.p_holm) and row.verdict_holm in (row.verdict, "within the noise")
    assert "3 comparisons are made" in table.note and "Corrected: findings that remain" in table.note
    assert "after correction for 3 comparisons (Holm)" in answer(study, results)


def test_answer_names_what_is_left_of_its_findings(tmp_path):
    study, results = collected(tmp_path, variants=("none", "cross", "flat"), spread=0.0001)
    assert "; still so after correction for 6 comparisons (Holm);" in answer(study, results)
    frame = results.evaluations
    weak = [
        0.4 + (v == "flat") * (0.010, 0.013, 0.016)[s] for s, v in zip(frame["seed"], frame["variant"], strict=True)
    ]
    flat = frame["variant"] == "flat"
    frame.loc[flat, "mAP"] = [w for w, here in zip(weak, flat, strict=True) if here]
    frame.loc[frame["variant"] == "none", "mAP"] = 0.4
    output = answer(study, results)
    # Three clear differences of 'cross' are tested first; what is left of 6 comparisons for 'flat' is 3 x 0.018.
    assert "still so after correction for 6 comparisons (Holm): 'cross' under 'clean', 'cross' under" in output
    assert output.endswith("'cross' under 'no_cameras' only.")
    frame["mAP"] = weak
    output = answer(study, results)
    assert "'flat' is better than 'none'" in output and "within the noise after correction for 6 comparisons" in output
    assert set(scores_table(study, results).data["verdict_holm"]) == {"baseline", "within the noise"}


def test_few_seeds_are_said_in_the_table(tmp_path):
    study, results = collected(tmp_path, seeds=(0, 1))
    assert set(scores_table(study, results).text["Runs"]) == {"2 of 2, fewer than three"}
    study, results = collected(tmp_path, seeds=(0, 1, 2), fail={("none", 2)})
    shown = scores_table(study, results).text
    assert list(shown["Runs"][:2]) == ["2 of 3, fewer than three", "3 of 3, 2 paired, fewer than three"]
    study, results = collected(tmp_path, seeds=(0, 1, 2))
    assert set(scores_table(study, results).text["Runs"]) == {"3 of 3"}


def test_the_noise_floor_is_the_baseline_against_itself(tmp_path):
    study, results = collected(tmp_path)
    scores = list(by_seed(results, "none", "clean", "mAP").values())
    apart = [abs(a - b) for i, a in enumerate(scores) for b in scores[i + 1 :]]
    row = detectable_differences(study, results)[0]
    assert (row.floor, row.floor_most) == pytest.approx((np.mean(apart), max(apart))) and row.baseline_runs == 3
    output = detectable_difference_sentence(study, results)
    assert f"are {row.floor:.3f} mAP apart on average, at most {row.floor_most:.3f} (3 pairs)" in output
    study, results = collected(tmp_path, seeds=(0, 1))
    assert "(one pair of seeds, fewer than three seeds)" in detectable_difference_sentence(study, results)
    study, results = collected(tmp_path, seeds=(0,))
    assert "The noise floor is unknown: 'none' has fewer than two finished seeds" in detectable_difference_sentence(
        study, results
    )


@pytest.mark.parametrize(("p", "text"), [(None, "–"), (math.nan, "–"), (0.0, "< 0.001"), (0.0456, "0.046")])
def test_p_for_people(p, text):
    assert p_text(p) == text
