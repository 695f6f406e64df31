"""Suites with each condition once more without each sensor: which ones are derived, and what they are no part of."""

from __future__ import annotations

import pytest
import yaml

from aqr_bench.errors import UserError
from aqr_bench.report.robustness_scores import families
from aqr_bench.study.load import load_suite

BEAMS = {"name": "beams", "corruption": "nuscenes_r.beam_reduction", "severity": 3}
FOG = {"name": "fog_3", "corruption": "multicorrupt.fog", "severity": 3}


def load(folder, *conditions, **changes):
    data = {"name": "mine", "summary": "x", "without_each_sensor": True, "conditions": list(conditions), **changes}
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    return load_suite(file)


def names(suite):
    return [condition.name for condition in suite.conditions]


def test_conditions_are_derived_that_give_another_input(tmp_path):
    suite = load(tmp_path, {"name": "clean"}, BEAMS, FOG)
    derived = ["no_lidar", "no_cameras", "beams-no_cameras", "fog_3-no_lidar", "fog_3-no_cameras"]
    assert names(suite) == ["clean", "beams", "fog_3", *derived] and suite.derived == set(derived)
    assert suite.conditions[3].settings == load_suite("missing_sensors").conditions[1].settings
    both = suite.conditions[6].corruption
    assert [str(part) for part in both.parts] == ["multicorrupt.fog@3", "no_lidar"] and both.removed_sensors == {
        "lidar"
    }


def test_what_the_file_lists_is_not_derived_again(tmp_path):
    without = {"name": "blind", "corruptions": [{"corruption": "multicorrupt.fog", "severity": 3}]}
    without["corruptions"].append({"corruption": "no_cameras"})
    suite = load(tmp_path, {"name": "clean"}, {"name": "no_lidar"}, FOG, without)
    assert names(suite)[4:] == ["no_cameras", "fog_3-no_lidar"]
    assert load(tmp_path, {"name": "clean"}, FOG, without_each_sensor=False).derived == frozenset()


def test_of_several_corruptions_all_stay(tmp_path):
    parts = [{"corruption": BEAMS["corruption"], "severity": 3}, {"corruption": "multicorrupt.dark", "severity": 1}]
    suite = load(tmp_path, {"name": "clean"}, {"name": "both", "corruptions": parts})
    assert [str(part) for part in suite.conditions[-1].corruption.parts] == [
        "nuscenes_r.beam_reduction@3",
        "multicorrupt.dark@1",
        "no_cameras",
    ]


def test_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(UserError, match="'no_lidar' is given twice"):
        load(tmp_path, {"name": "clean"}, {"name": "no_lidar", "corruption": "no_lidar_absent"})


def test_robustness_scores_are_over_the_conditions_that_are_listed():
    suite = load_suite("sensor_worth")
    listed = {name for group in families(suite).values() for name in group.values()}
    assert listed == {"beams_4", "dark_3", "fog_3", "extrinsic_noise"} and len(suite.derived) == 8
