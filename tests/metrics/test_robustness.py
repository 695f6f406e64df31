"""Robustness scores: worked by hand, against the published ones of MultiCorrupt, and with scores that are missing."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from aqr_bench.metrics.robustness import (
    Value,
    corruption_error,
    corruption_mean,
    relative_resistance,
    resistance_ability,
    robustness,
    severity_mean,
)

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
NAN = float("nan")


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / f"{name}.csv", dtype={"severity": str})


@pytest.fixture(scope="module")
def recomputed() -> tuple[pd.DataFrame, pd.DataFrame]:
    nds = read("multicorrupt_nds").rename(columns={"condition": "corruption", "value": "score"})
    by_corruption, by_model = robustness(nds.assign(score=nds["score"] / 100), "BEVfusion")
    assert len(by_corruption) == 12 * 10 and len(by_model) == 12
    assert set(by_corruption["severities"]) == {3} and (by_corruption["reason"] == "").all()
    return by_corruption.set_index(["model", "corruption"]), by_model.set_index("model")


def published(metric: str, severity: str = "mean") -> pd.DataFrame:
    rows = read("multicorrupt_ra_rra")
    return rows[(rows["metric"] == metric) & (rows["severity"] == severity)]


# ---------------------------------------------------------------- the published numbers
# RA by severity, mRA and RRA are published here with six decimals, the means in MultiCorrupt's README with three. Ours,
# rounded alike, are the same numbers; unrounded they are within half of the last digit.


@pytest.mark.parametrize("severity", ["1", "2", "3"])
def test_resistance_by_severity_is_the_published_one(severity):
    nds = read("multicorrupt_nds").set_index(["model", "condition", "severity"])["value"]
    clean = read("multicorrupt_nds").query("condition == 'clean'").set_index("model")["value"]
    rows = published("RA", severity)
    assert len(rows) == 120
    for row in rows.itertuples():
        ours = resistance_ability({severity: nds[row.model, row.condition, severity]}, clean[row.model]).value
        assert abs(round(ours, 6) - row.value) < 1e-9 and abs(ours - row.value) <= 5e-7, row


def test_relative_resistance_is_the_published_one(recomputed):
    rows = published("RRA")
    assert len(rows) == 120
    for row in rows.itertuples():
        ours = recomputed[0].loc[(row.model, row.condition), "RRA"]
        assert abs(round(ours, 6) - row.value) < 1e-9 and abs(ours - row.value) <= 5e-7, row


@pytest.mark.parametrize(("metric", "digits"), [("mRA", 6), ("mRRA", 3)])
def test_means_over_corruptions_are_the_published_ones(recomputed, metric, digits):
    rows = published(metric)
    assert len(rows) == 12
    for row in rows.itertuples():
        assert abs(round(recomputed[1].loc[row.model, metric], digits) - row.value) < 1e-9, row


def test_means_over_severities_are_the_published_ones(recomputed):
    rows = published("RA")
    assert len(rows) == 120
    for row in rows.itertuples():
        ours = recomputed[0].loc[(row.model, row.condition), "RA"]
        assert abs(round(ours, 3) - row.value) < 1e-9, row


def test_published_severity_means_of_robobev():
    """Two decimals of percent on both sides, so half a digit of the severities and half a digit of their mean."""
    rows = read("robobev_fusion").query("metric in ('NDS', 'mAP') and condition != 'clean'")
    checked = 0
    for _, group in rows.groupby(["model", "condition", "metric"]):
        values = dict(zip(group["severity"], group["value"], strict=True))
        assert severity_mean({s: values[s] for s in "123"}).value == pytest.approx(values["mean"], abs=0.0101)
        checked += 1
    assert checked == 36


def test_the_baseline_compared_with_itself(recomputed):
    base = recomputed[1].loc["BEVfusion"]
    assert abs(base["mRRA"]) < 1e-12 and base["mCE"] == pytest.approx(1)
    best = recomputed[1].loc["MoME"]
    assert best["mCE"] < 1 < recomputed[1].loc["DeepInteraction", "mCE"]


# ---------------------------------------------------------------- by hand


def test_by_hand():
    scores, base = {1: 0.6, 2: 0.4, 3: 0.2}, {1: 0.5, 2: 0.3, 3: 0.0}
    assert severity_mean(scores).value == pytest.approx(0.4)
    assert resistance_ability(scores, 0.8).value == pytest.approx(0.5)
    assert relative_resistance(scores, base).value == pytest.approx(50)  # 1.2 / 0.8 - 1
    assert corruption_error(scores, base).value == pytest.approx(1.8 / 2.2)
    assert corruption_mean({"a": Value(0.5), "b": Value(1.0)}).value == 0.75


def test_unit_does_not_matter_to_ratios_of_scores():
    percent, fraction = {1: 60.0, 2: 40.0}, {1: 0.6, 2: 0.4}
    assert resistance_ability(percent, 80.0).value == pytest.approx(resistance_ability(fraction, 0.8).value)
    with pytest.raises(ValueError, match="not percent"):
        corruption_error(percent, percent)


def test_every_corruption_has_the_same_weight():
    rows = [("m", "clean", NAN, 1.0), ("m", "a", 1, 0.0), ("m", "b", 1, 1.0), ("m", "b", 2, 1.0)]
    frame = pd.DataFrame(rows, columns=["model", "corruption", "severity", "score"])
    assert robustness(frame, None)[1].loc[0, "mRA"] == 0.5


# ---------------------------------------------------------------- missing scores


@pytest.mark.parametrize("missing", [None, NAN, pd.NA])
def test_a_missing_severity_is_named_and_not_averaged_away(missing):
    scores, base = {1: 0.6, 2: missing, 3: 0.2}, {1: 0.5, 2: 0.3, 3: 0.1}
    for value in (severity_mean(scores), resistance_ability(scores, 0.8), relative_resistance(scores, base)):
        assert math.isnan(value.value) and value.reasons == ("severity 2: no score",)
    assert corruption_error(scores, base).reasons == ("severity 2: no score",)
    assert corruption_error(base, scores).reasons == ("baseline, severity 2: no score",)
    mean = corruption_mean({"snow": Value(0.7), "fog": resistance_ability(scores, 0.8)})
    assert math.isnan(mean.value) and mean.reasons == ("fog: severity 2: no score",)


def test_severities_that_only_one_side_has_do_not_make_a_ratio():
    assert relative_resistance({1: 0.5, 2: 0.4}, {1: 0.5}).reasons == ("baseline, severity 2: no score",)
    assert relative_resistance({1: 0.5}, {1: 0.5, 2: 0.4}).reasons == ("severity 2: no score",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (resistance_ability({1: 0.5}, None), "clean: no score"),
        (resistance_ability({1: 0.5}, 0.0), "clean: score is 0"),
        (resistance_ability({}, 0.5), "no severity"),
        (relative_resistance({1: 0.5}, {1: 0.0}), "baseline: all scores are 0"),
        (corruption_error({1: 0.5}, {1: 1.0}), "baseline: all scores are 1"),
        (corruption_mean({}), "no corruption"),
        (relative_resistance({}, {}), "no severity"),
    ],
)
def test_what_cannot_be_had_is_nan_with_a_reason(value, reason):
    assert math.isnan(value.value) and value.reasons == (reason,)


@pytest.mark.parametrize("bad", [-0.1, math.inf])
def test_impossible_scores_are_refused(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        resistance_ability({1: bad}, 0.5)


def test_frames_name_what_a_model_lacks():
    rows = [("b", "clean", NAN, 0.5), ("b", "fog", 1, 0.4), ("b", "fog", 2, 0.3), ("b", "snow", 1, 0.2)]
    rows += [("m", "fog", 1, 0.5), ("m", "fog", 2, 0.4), ("m", "snow", 1, NAN)]
    frame = pd.DataFrame(rows, columns=["model", "corruption", "severity", "score"])
    by_corruption, by_model = robustness(frame, "b")
    by_corruption, by_model = by_corruption.set_index(["model", "corruption"]), by_model.set_index("model")
    assert by_corruption.loc[("m", "fog"), "RRA"] == pytest.approx((0.9 / 0.7 - 1) * 100)
    assert by_corruption.loc[("m", "fog"), "reason"] == "clean: no score"
    assert math.isnan(by_corruption.loc[("m", "fog"), "RA"])
    assert by_corruption.loc[("m", "snow"), "reason"] == "severity 1: no score; clean: no score"
    assert math.isnan(by_model.loc["m", "mRRA"]) and "snow: severity 1: no score" in by_model.loc["m", "reason"]
    assert by_model.loc["b", "mRA"] == pytest.approx((0.7 + 0.4) / 2)
    other = robustness(frame, "x")[1].set_index("model")
    assert other.loc["b", "reason"] == "fog: baseline 'x': no scores; snow: baseline 'x': no scores"
    assert math.isnan(other.loc["b", "mCE"]) and other.loc["b", "mRA"] == pytest.approx(0.55)


def test_two_scores_for_one_cell_are_refused():
    frame = pd.DataFrame([("m", "fog", 1, 0.4)] * 2, columns=["model", "corruption", "severity", "score"])
    with pytest.raises(ValueError, match="model 'm', corruption 'fog', severity 1: two scores"):
        robustness(frame, None)
