"""What a sensor is worth: pairs of conditions, changes against the baseline, floors, notices, and the page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_records import fill, made_up_matches, make_study

from aqr_bench.records.record import read_records, write_records
from aqr_bench.report.collect import collect_study
from aqr_bench.report.figures.sensor_worth import worth_figure
from aqr_bench.report.figures.style import palette_of
from aqr_bench.report.sensor_worth import (
    DECORATIVE,
    FEW,
    HARMFUL,
    NOTHING,
    USED,
    ScoredInput,
    study_inputs,
    worth_alarms,
    worth_rows,
    worth_sentence,
)
from aqr_bench.report.tables.sensor_worth import worth_table
from aqr_bench.study.load import load_study, load_suite, load_tier, resolve_condition

CONDITIONS = {
    "clean": {},
    "no_lidar": {},
    "no_cameras": {},
    "beams_4": {"corruption": "nuscenes_r.beam_reduction", "severity": 3},
    "dark": {"corruption": "multicorrupt.dark", "severity": 3},
    "beams_4-no_cameras": {
        "corruptions": [{"corruption": "nuscenes_r.beam_reduction", "severity": 3}, {"corruption": "no_cameras"}]
    },
}
SCORES = {"clean": 0.5, "no_lidar": 0.2, "no_cameras": 0.4, "beams_4": 0.45, "dark": 0.48, "beams_4-no_cameras": 0.1}


def evaluations(model="both", seeds=(0, 1, 2), unused=(), scores=SCORES, spread=0.001, matches=None):
    return [
        ScoredInput(
            model,
            seed,
            name,
            resolve_condition(name, **CONDITIONS[name]).corruption,
            score + spread * seed * (1 + 3 * k),
            matches,
            frozenset(unused),
        )
        for k, (name, score) in enumerate(scores.items())
        for seed in seeds
    ]


def by_key(rows):
    return {(row.condition, row.sensor): row for row in rows}


def test_each_condition_is_paired_with_itself_without_the_sensor():
    rows = by_key(worth_rows(evaluations(), {}))
    worth = {key: round(row.worth.mean, 2) for key, row in rows.items()}
    assert worth == {
        ("clean", "lidar"): 0.3,
        ("clean", "camera"): 0.09,
        ("beams_4", "lidar"): 0.26,  # without the LiDAR, few beams are no LiDAR
        ("beams_4", "camera"): 0.34,
        ("dark", "camera"): 0.09,  # and there is none for dark without the LiDAR: it was not evaluated
    }
    assert all(row.verdict == USED and row.change is None and row.floor is None for row in rows.values())
    assert rows["clean", "lidar"].without.mean == pytest.approx(0.203 + 0.001) and rows["clean", "lidar"].worth.n == 3


def test_a_sensor_that_moves_nothing_is_decorative_and_noticed():
    scores = {"clean": 0.5, "no_lidar": 0.501, "no_cameras": 0.6}
    rows = worth_rows(evaluations(scores=scores), {})
    assert {row.sensor: row.verdict for row in rows} == {"lidar": DECORATIVE, "camera": HARMFUL}
    (notice,) = worth_alarms(rows, "study", "mAP")
    assert notice.severity == "notice" and "LiDAR" in notice.sentence and "study both clean" in notice.where
    assert "mAP, 95 % interval" in notice.where
    for seeds in ((0,), (0, 1)):
        few = worth_rows(evaluations(scores={"clean": 0.5, "no_lidar": 0.501}, seeds=seeds), {})
        assert {row.verdict for row in few} == {FEW} and not worth_alarms(few, "study", "mAP")
    dead = worth_rows(evaluations(scores=dict.fromkeys(scores, 0.0), spread=0), {})
    assert {row.verdict for row in dead} == {NOTHING} and not worth_alarms(dead, "study", "mAP")


def test_a_change_is_the_difference_of_two_worths_paired_by_seed():
    more = {"clean": 0.6, "no_lidar": 0.2, "no_cameras": 0.5}
    plain = {name: SCORES[name] for name in more}
    rows = worth_rows([*evaluations("none", scores=plain), *evaluations("aqr", scores=more)], {"aqr": "none"})
    changes = {(row.model, row.sensor): row.change for row in rows}
    assert changes["none", "lidar"] is None and changes["aqr", "lidar"].comparisons == 2
    assert changes["aqr", "lidar"].mean == pytest.approx(0.1) and changes["aqr", "camera"].mean == pytest.approx(0)
    assert changes["aqr", "lidar"].survives and not changes["aqr", "camera"].survives
    sentence = worth_sentence(rows, {"aqr": "none"}, "mAP")
    assert sentence.startswith("To 'aqr' the LiDAR under clean is worth more than to 'none' (+0.100 mAP")
    equal = worth_rows([*evaluations("none", scores=plain), *evaluations("aqr", scores=plain)], {"aqr": "none"})
    assert "No variant changes" in worth_sentence(equal, {"aqr": "none"}, "mAP")
    assert worth_sentence(worth_rows(evaluations(), {}), {}, "mAP") == ""


def test_the_floor_is_the_model_that_never_has_the_sensor_on_the_same_input():
    cameras = {"clean": 0.25, "dark": 0.22}  # few beams do not concern it: no evaluation is needed
    lidar = {"clean": 0.38, "beams_4": 0.33}
    rows = worth_rows(
        [
            *evaluations(),
            *evaluations("cameras", scores=cameras, unused=["lidar"], spread=0),
            *evaluations("lidar", scores=lidar, unused=["camera"], spread=0),
        ],
        {"cameras": "both"},
    )
    assert {row.model for row in rows} == {"both"}
    floors = {key: row.floor and (row.floor[0], round(row.floor[1].mean, 9)) for key, row in by_key(rows).items()}
    assert floors == {
        ("clean", "lidar"): ("cameras", 0.25),
        ("clean", "camera"): ("lidar", 0.38),
        ("beams_4", "lidar"): ("cameras", 0.25),
        ("beams_4", "camera"): ("lidar", 0.33),
        ("dark", "camera"): ("lidar", 0.38),
    }
    table = worth_table("worth", "mAP", rows)
    assert "0.250 (cameras)" in set(table.text["Single-sensor model"])
    assert set(worth_table("worth", "mAP", worth_rows(evaluations(), {})).text["Single-sensor model"]) == {""}


def test_a_worth_is_paired_by_scene_where_there_are_matches(tmp_path):
    entries = []
    for model, effect in (("none", 0.0), ("aqr", 0.1)):
        for seed in (0, 1, 2):
            for k, name in enumerate(("clean", "no_lidar")):
                matches = made_up_matches(effect - 0.3 * k, seed, scenes=12)
                path = matches.save(tmp_path / f"{model}{seed}{name}.npz")
                corruption = resolve_condition(name).corruption
                entries.append(ScoredInput(model, seed, name, corruption, float(matches.map()[0]), path))
    rows = {row.model: row for row in worth_rows(entries, {"aqr": "none"})}
    worth = rows["none"].worth
    assert worth.scenes.scenes == 12 and worth.scenes.low < worth.mean < worth.scenes.high
    assert worth.scenes.mean == pytest.approx(worth.mean)
    change = rows["aqr"].change
    assert change.scenes.mean == pytest.approx(change.mean) and change.scenes.low < change.scenes.high
    other = [replace(e, score=e.score + 0.01) if e.seed == 0 and e.condition == "clean" else e for e in entries]
    rows = {row.model: row for row in worth_rows(other, {"aqr": "none"})}
    assert rows["none"].worth.scenes is None, "matches of another evaluation"


def test_records_of_every_suite_count(tmp_path):
    study = load_study(make_study(tmp_path, seeds=(0, 1, 2)))
    fill(tmp_path / "results", study.path)
    suite = load_suite("sensor_worth")
    for path in (tmp_path / "results").rglob("evaluate.missing_sensors.jsonl"):
        if "base" not in path.parts:
            template = read_records(path)[0]
            records = [
                replace(template, suite=suite.name, condition=c.name, scores={**template.scores, "mAP": 0.3 - 0.01 * k})
                for k, c in enumerate(suite.conditions)
            ]
            records = [replace(r, provenance={**r.provenance, "input_sha256": r.condition}) for r in records]
            write_records(path.with_name(f"evaluate.{suite.name}.jsonl"), records)
    tier = load_tier("smoke")
    results = collect_study(tmp_path / "results", tier, study)
    rows = worth_rows(study_inputs(tmp_path / "results", tier, study, results, "mAP"), {"cross": "none"})
    assert {(row.condition, row.sensor) for row in rows} == {
        (condition, sensor)
        for condition in ("clean", "beams_4", "dark_3", "fog_3", "extrinsic_noise")
        for sensor in ("lidar", "camera")
    }
    # Clean input and single sensors are in both suites: the study's own counts.
    assert by_key(rows)["clean", "lidar"].worth.mean == pytest.approx(0.2, abs=0.02)
    figure = worth_figure(rows, palette_of(study.variants, "none"), "mAP")
    assert [axis.get_title() for axis in figure.axes] == ["LiDAR", "Cameras"]
