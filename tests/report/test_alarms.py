"""Sanity alarms: each raised by what it is for, silent about what only looks like it, and about the shipped records."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_records import fill, made_up_matches, make_study

from aqr_bench.corruptions import CORRUPTIONS
from aqr_bench.folders import shipped_folder
from aqr_bench.metrics.matches import ClassMatches
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.report.alarms import (
    ALARM,
    NOTICE,
    alarms_sentence,
    alarms_table,
    base_alarms,
    recall_and_precision,
    study_alarms,
)
from aqr_bench.report.collect import collect_base, collect_study
from aqr_bench.report.page import build_report
from aqr_bench.study.load import load_study, load_tier, resolve_condition
from aqr_bench.study.runs import limit_seeds

pytestmark = pytest.mark.usefixtures("no_figures")

TIER = load_tier("smoke")
CONDITION_NAMES = ("clean", "no_lidar", "no_cameras")
INPUTS = {
    "clean": {"samples": 8, "points": 900.0, "range_m": 15.0, "views": 6.0, "brightness": 90.0},
    "no_lidar": {"samples": 8, "points": 900.0, "range_m": 0.0, "views": 6.0, "brightness": 90.0},
    "no_cameras": {"samples": 8, "points": 900.0, "range_m": 15.0, "views": 6.0, "brightness": 0.0},
}


def healthy(study, scratch: bool = False) -> list[Record]:
    """Records of two variants and two seeds that nothing is wrong with."""
    records = []
    for v, variant in enumerate(study.variants):
        for seed in study.seeds:
            run = dict(tier="smoke", study=study.name, variant=variant, seed=seed)
            curve = [[10 * i, 9.0 - 0.5 * i] for i in range(8)]
            proof = {"config_sha256": variant, "data_sha256": "d"}
            records.append(Record("train", "ok", **run, cost={"iterations": 80}, curve=curve, provenance=proof))
            for k, condition in enumerate(CONDITION_NAMES):
                score = 0.5 / (k + 1) + 0.01 * v + 0.001 * seed
                errors = {"mATE": 0.4, "mASE": 0.3, "mAOE": 0.5, "mAVE": 0.6, "mAAE": 0.2}
                scores = {"mAP": score, "NDS": score, **errors, "classes": {"car": {"AP": score}}}
                more = {"extra": {"inputs": INPUTS[condition]}, "provenance": {**proof, "input_sha256": condition}}
                records.append(
                    Record("evaluate", "ok", **run, condition=condition, suite="missing_sensors", scores=scores, **more)
                )
    return records


@pytest.fixture
def study(tmp_path):
    return load_study(make_study(tmp_path, init="scratch", iterations=80))


def changed(records, change, **wanted):
    """The records with ``change`` applied to those whose fields are as wanted."""
    return [change(r) if all(getattr(r, k) == v for k, v in wanted.items()) else r for r in records]


def with_file(records, kind: str):
    """The records, of which the evaluations of `cross` name a file of this kind beside them."""
    extra = {kind: {"file": f"{kind}.npz"}}
    return changed(records, lambda r: replace(r, extra={**r.extra, **extra}), kind="evaluate", variant="cross")


def scored(**scores):
    return lambda r: replace(r, scores={**r.scores, **scores})


def raised(study, records, root: Path = Path("nowhere")):
    return [(a.check, a.severity) for a in study_alarms(root, TIER, study, records)]


def test_healthy_records_raise_nothing(study):
    assert raised(study, healthy(study)) == [] and alarms_sentence([]) == ""
    assert study_alarms(Path("nowhere"), TIER, study, []) == []


# ---------------------------------------------------------------- scores


def test_headings_that_say_nothing(study):
    clean = {"kind": "evaluate", "variant": "cross", "condition": "clean"}
    wrong = changed(healthy(study), scored(mAOE=1.57), **clean)
    assert raised(study, wrong) == [("headings", ALARM)] * 2
    result = study_alarms(Path("x"), TIER, study, wrong)
    assert "mixed-up box axes" in result[0].sentence and result[0].where == "made_up cross seed 0 clean (mAOE 1.57)"
    # Velocities are lost as well: a short training rather than mixed-up axes.
    assert raised(study, changed(healthy(study), scored(mAOE=1.43, mAVE=2.7), **clean)) == [("headings", NOTICE)] * 2
    assert raised(study, changed(healthy(study), scored(mAOE=1.57, mAP=0.1), **clean)) == []
    assert raised(study, changed(healthy(study), scored(mAOE=0.9), **clean)) == []
    assert raised(study, changed(healthy(study), scored(mAOE=3.0), **clean)) == []


@pytest.mark.parametrize(("metric", "severity"), [("mAP", ALARM), ("NDS", ALARM), ("mAOE", NOTICE)])
def test_a_missing_score(metric, severity, study):
    where = {"kind": "evaluate", "variant": "none", "seed": 1, "condition": "no_lidar"}
    assert raised(study, changed(healthy(study), scored(**{metric: None}), **where)) == [("missing score", severity)]
    assert raised(study, changed(healthy(study), scored(**{metric: float("nan")}), **where)) == [
        ("missing score", severity)
    ]


def test_the_same_scores_with_and_without_a_corruption(study):
    records = healthy(study)
    clean = next(r for r in records if (r.variant, r.seed, r.condition) == ("cross", 1, "clean"))
    where = {"kind": "evaluate", "variant": "cross", "seed": 1, "condition": "no_lidar"}
    assert raised(study, changed(records, lambda r: replace(r, scores=clean.scores), **where)) == [
        ("unchanged scores", ALARM)
    ]
    nearly = {**clean.scores, "classes": {"car": {"AP": 0.1234}}}
    assert raised(study, changed(records, lambda r: replace(r, scores=nearly), **where)) == []


def test_a_model_that_finds_nothing_raises_one_notice_instead(study):
    nothing = lambda r: replace(r, scores={**dict.fromkeys(r.scores, 1.0), "mAP": 0.0, "NDS": 0.0})  # noqa: E731
    records = changed(healthy(study), nothing, kind="evaluate")
    assert raised(study, records) == [("nothing found", NOTICE)] * 4


def test_recall_far_above_precision(study, tmp_path):
    records = with_file(healthy(study), "matches")
    work = tmp_path / "smoke" / "work" / "made_up" / "cross"
    matches = made_up_matches(0.2, 0)
    car = matches.classes["car"]
    # Every object is found by the last of five boxes around it.
    tp = np.zeros((5 * len(car.tp), 4), bool)
    tp[4::5] = True
    fivefold = replace(matches, classes={"car": ClassMatches(np.repeat(car.score, 5), np.repeat(car.scene, 5), tp, car.positives)})  # fmt: skip  # noqa: E501
    matches.save(work / "seed0" / "detections" / "clean" / "matches.npz")
    fivefold.save(work / "seed1" / "detections" / "clean" / "matches.npz")
    fivefold.save(work / "seed0" / "detections" / "no_lidar" / "matches.npz")  # a blind model may well guess
    result = study_alarms(tmp_path, TIER, study, records)
    assert [(a.check, a.severity) for a in result] == [("recall far above precision", ALARM)]
    assert result[0].where == "made_up cross seed 1 clean (recall 1.00, precision 0.20)"
    recall, precision = recall_and_precision(work / "seed0" / "detections" / "clean" / "matches.npz")
    assert 0.5 < recall <= 1 and precision > 0.5
    for score, expected in ((0.1, [NOTICE]), (0.0, [])):  # hardly trained; learnt nothing, for which there is a notice
        weak = [replace(r, scores={**r.scores, "mAP": score}) if r.scores else r for r in records]
        severity = [
            a.severity for a in study_alarms(tmp_path, TIER, study, weak) if a.check == "recall far above precision"
        ]
        assert severity == expected
    (work / "seed1" / "detections" / "clean" / "matches.npz").write_bytes(b"PK no file")
    assert raised(study, records, tmp_path) == [("damaged file", ALARM)]


def test_router_weights_that_are_not_finite(study, tmp_path):
    records = with_file(healthy(study), "router")
    folder = tmp_path / "smoke" / "work" / "made_up" / "cross" / "seed0" / "detections" / "clean"
    folder.mkdir(parents=True)
    np.savez(folder / "router.npz", weight=np.ones((2, 3, 2), np.float16))
    assert raised(study, records, tmp_path) == []
    np.savez(folder / "router.npz", weight=np.full((2, 3, 2), np.nan, np.float16))
    assert raised(study, records, tmp_path) == [("damaged file", ALARM)]


# ---------------------------------------------------------------- twins


def as_baseline(records, **wanted):
    """The records with the scores of the baseline where they are as wanted."""
    scores = {(r.seed, r.condition): r.scores for r in records if r.variant == "none" and r.kind == "evaluate"}
    return changed(
        records,
        lambda r: replace(r, scores=scores[r.seed, r.condition]),
        kind="evaluate",
        variant="cross",
        **wanted,
    )


def test_a_variant_equal_to_the_baseline(study):
    assert raised(study, as_baseline(healthy(study), seed=0)) == [("equal to the baseline", ALARM)]
    partly = as_baseline(healthy(study), seed=0, condition="no_lidar")
    assert raised(study, partly) == [("equal to the baseline", NOTICE)]
    result = study_alarms(Path("x"), TIER, study, partly)[0]
    assert result.where == "made_up cross seed 0 no_lidar" and "some conditions only" in result.sentence


def test_equal_for_a_reason(study):
    same = as_baseline(healthy(study))
    taken = lambda run: lambda r: replace(r, extra={**r.extra, "same_as": run})  # noqa: E731
    assert raised(study, changed(same, taken("made_up/none/seed0"), variant="cross", seed=0)) == [
        ("equal to the baseline", ALARM)
    ]  # seed 1 is not explained
    assert Counter(raised(study, changed(same, taken("made_up/none/seed0"), variant="cross"))) == {
        ("equal to the baseline", ALARM): 1
    }  # nor does the other seed's run explain it
    both = changed(changed(same, taken("other/a/seed0"), seed=0), taken("other/a/seed1"), seed=1)
    assert raised(study, both) == []
    untrained = lambda r: replace(r, cost={"iterations": 0}, provenance={"config_sha256": "same"}, curve=())  # noqa: E731
    assert raised(study, changed(same, untrained, kind="train")) == []
    trained = lambda r: replace(r, provenance={"config_sha256": "same"})  # noqa: E731  a variant that changes nothing
    assert raised(study, changed(same, trained, kind="train")) == [("equal to the baseline", ALARM)] * 2
    other = lambda r: replace(r, cost={"iterations": 0}, curve=())  # noqa: E731
    assert raised(study, changed(same, other, kind="train")) == [("equal to the baseline", ALARM)] * 2


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("condition", "change", "words"),
    [
        ("clean", {"brightness": 0.0}, "the cameras gave nothing, which the condition does not cause"),
        ("clean", {"range_m": 0.0}, "the LiDAR gave nothing"),
        (
            "clean",
            {"without_points": 2},
            "the LiDAR gave nothing in 2 of 8 samples, which the condition does not cause",
        ),
        ("no_lidar", {"without_images": 1}, "the cameras gave nothing in 1 of 8 samples"),
        ("clean", {"points": 3.0}, "the mean of 'points' is 3"),
        ("clean", {"brightness": 255.0}, "the mean of 'brightness' is 255: not from 2 to 253"),
        ("no_lidar", {"range_m": 15.0}, "the LiDAR should give nothing, but did"),
        ("no_lidar", {"brightness": 80.0}, "Condition 'no_lidar' changes the cameras, which it should not"),
        ("no_cameras", {"samples": 7}, "other samples were evaluated"),
    ],
)
def test_inputs_that_cannot_be(condition, change, words, study):
    where = {"kind": "evaluate", "variant": "cross", "seed": 0, "condition": condition}
    inputs = lambda r: replace(r, extra={"inputs": {**INPUTS[condition], **change}})  # noqa: E731
    result = study_alarms(Path("x"), TIER, study, changed(healthy(study), inputs, **where))
    hits = [a for a in result if words in a.sentence]
    assert [(a.check, a.severity, a.where) for a in hits] == [("inputs", ALARM, f"made_up cross seed 0 {condition}")]
    # A wrong reference is a difference to it, too; nothing else is raised.
    assert condition == "clean" or len(result) == 1


def test_a_model_of_one_sensor_is_a_notice(study):
    def blind(record):
        inputs = {**record.extra["inputs"], "views": 0.0, "brightness": 0.0}
        return replace(record, extra={"inputs": inputs})

    records = changed(healthy(study), blind, kind="evaluate", variant="cross")
    assert raised(study, records) == [("single sensor", NOTICE)] * 2


def test_models_that_were_given_different_inputs(study):
    other = lambda r: replace(r, provenance={**r.provenance, "input_sha256": "x"})  # noqa: E731
    where = {"kind": "evaluate", "variant": "cross", "seed": 1, "condition": "no_lidar"}
    assert raised(study, changed(healthy(study), other, **where)) == [("other inputs", NOTICE)]


def test_what_conditions_may_do_to_sensors():
    assert resolve_condition("clean").corruption.changed_sensors == frozenset()
    lost = {c.key for c in CORRUPTIONS.every() if c.removed_sensors}
    assert {"no_lidar", "no_cameras", "no_lidar_random_cameras", "no_lidar_absent"} <= lost
    assert not lost & {"clean", "no_cam_front", "random_cameras", "key_frame_only"}
    assert resolve_condition("x", "no_lidar_random_cameras", 2).corruption.removed_sensors == {"lidar"}


# ---------------------------------------------------------------- training


def test_a_loss_that_does_not_fall(study, tmp_path):
    flat = lambda r: replace(r, curve=[[i, 7.0 + 0.1 * (-1) ** i] for i in range(12)])  # noqa: E731
    where = {"kind": "train", "variant": "cross", "seed": 0}
    assert raised(study, changed(healthy(study), flat, **where)) == [("training loss", ALARM)]
    constant = lambda r: replace(r, curve=[[i, 7.0] for i in range(12)])  # noqa: E731
    assert raised(study, changed(healthy(study), constant, **where)) == [("training loss", ALARM)]
    broken = lambda r: replace(r, curve=[[1, 7.0], [2, None]])  # noqa: E731
    assert raised(study, changed(healthy(study), broken, **where)) == [("training loss", ALARM)]
    short = lambda r: replace(r, curve=[[1, 7.0], [2, 7.5]])  # noqa: E731
    assert raised(study, changed(healthy(study), short, **where)) == []
    # A training that starts from a trained model need not fall; a rise is implausible.
    (tmp_path / "warm").mkdir()
    warm = load_study(make_study(tmp_path / "warm", init="base"))
    assert raised(warm, changed(healthy(warm), flat, **where)) == []
    rising = lambda r: replace(r, curve=[[i, 7.0 + 0.1 * i] for i in range(12)])  # noqa: E731
    assert raised(warm, changed(healthy(warm), rising, **where)) == [("training loss", ALARM)]


def test_base_models_are_looked_at_too(study):
    flat = Record("train", "ok", "smoke", seed=0, curve=[[i, 7.0 + 0.1 * (-1) ** i] for i in range(12)])
    result = base_alarms(Path("x"), TIER, [study.suite], [flat])
    assert [(a.check, a.where) for a in result] == [("training loss", "base seed 0")]


# ---------------------------------------------------------------- the shipped records, and the page


def test_the_shipped_records_raise_no_false_alarm(tmp_path):
    """Of the detectors with a locality prior, as version 0.1.0 trained them: headings are not learnt, which is true."""
    (tmp_path / "quick").symlink_to(shipped_folder() / "results" / "reference" / "quick_0.1.0" / "records")
    tier, kinds, count = replace(load_tier("quick_prior"), name="quick"), Counter(), 0
    for name in ("bias_site", "windows"):
        study = limit_seeds(load_study(name), tier, 3)
        records = collect_study(tmp_path, tier, study).records
        base = collect_base(tmp_path, tier, [study]).records
        result = study_alarms(tmp_path, tier, study, records) + base_alarms(tmp_path, tier, [study.suite], base)
        kinds.update((a.check, a.severity) for a in result)
        count += len(records) + len(base)
    assert count > 80 and set(kinds) == {("headings", NOTICE)}, kinds


def test_the_page_tells_alarms_near_its_top_and_as_a_table(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    quiet = build_report(TIER, [study], tmp_path / "results", tmp_path / "out").read_text()
    assert "mAOE" in pd.read_csv(tmp_path / "out" / "tables" / "sanity_alarms.csv")["what"][0]  # it has none
    file = tmp_path / "results" / "smoke" / "made_up" / "cross" / "seed0" / "evaluate.missing_sensors.jsonl"
    rows = read_records(file)
    write_records(file, [rows[0], replace(rows[1], scores=rows[0].scores), rows[2]])
    page = build_report(TIER, [study], tmp_path / "results", tmp_path / "out").read_text()
    assert "1 alarm and 1 notice" in page and "1 alarm" not in quiet
    assert page.index("1 alarm and") < page.index("Is &lt;b&gt;this&lt;/b&gt; escaped?</h2>")
    table = pd.read_csv(tmp_path / "out" / "tables" / "sanity_alarms.csv")
    assert list(table["check"]) == ["unchanged scores", "missing score"] and table["severity"][0] == "alarm"
    assert table["where"][0] == "made_up cross seed 0 no_lidar" and table["count"][1] == 18
    assert "and 12 more" in (tmp_path / "out" / "tables" / "sanity_alarms.md").read_text()


def test_nothing_to_say_leaves_an_empty_table_and_no_box(tmp_path):
    study = load_study(make_study(tmp_path))
    shutil.rmtree(tmp_path / "results", ignore_errors=True)
    (tmp_path / "results").mkdir()
    page = build_report(TIER, [study], tmp_path / "results", tmp_path / "out").read_text()
    assert 'id="alarms"' not in page
    assert list(alarms_table("sanity", []).data.columns) == ["severity", "check", "what", "count", "where"]
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "sanity_alarms.csv")) == 0
