"""Rules of scoring: nuScenes' by default, others by classes and ranges as the devkit has them, and never mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from metrics_boxes import CONFIG
from metrics_matches import boxes
from report_records import write_scored

from aqr_bench.errors import UserError
from aqr_bench.metrics.nuscenes import evaluate
from aqr_bench.metrics.scoring_rules import OFFICIAL_RULES, ScoringRules, parse_ranges, rules_of
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.report.collect import mixtures
from aqr_bench.report.loose_records import read_evaluations
from aqr_bench.report.result_sets import incompatible, read_set
from aqr_bench.study.load import load_suite, load_tier, resolve_condition
from aqr_bench.study.plan import evaluation_settings
from aqr_bench.study.settings import condition_settings

MINE = ScoringRules({"car": 40.0}, "present")


def test_nuscenes_rules_are_the_default_and_leave_no_trace():
    config = OFFICIAL_RULES.config(())
    assert config.class_range == CONFIG.class_range and list(config.class_names) == list(CONFIG.class_names)
    assert OFFICIAL_RULES.official and OFFICIAL_RULES.entry() == {} and OFFICIAL_RULES.text == ""
    assert rules_of({}) == OFFICIAL_RULES and rules_of(MINE.entry()) == MINE


def test_other_ranges_and_the_classes_that_are_there():
    config = MINE.config(["car", "bus"])
    assert config.class_range == {**CONFIG.class_range, "car": 40.0} and set(config.class_names) == {"car", "bus"}
    assert CONFIG.class_range["car"] == 50, "the devkit's own is not changed"
    assert MINE.text == "car within 40 m, mean over the classes with objects"
    truth = boxes([("car", 0.0, 0.0), ("bus", 30.0, 0.0)])
    detections = boxes([("car", 0.0, 0.0)], [0.5])
    official, custom = (evaluate(truth, detections, 1, c).summary for c in (CONFIG, config))
    assert custom["mean_ap"] == pytest.approx(5 * official["mean_ap"]) and set(custom["mean_dist_aps"]) == {
        "car",
        "bus",
    }
    assert np.isfinite(custom["nd_score"])


@pytest.mark.parametrize(("ranges", "message"), [({"cra": 40.0}, "did you mean 'car'"), ({"car": 0.0}, "not above 0")])
def test_mistakes_are_named(ranges, message):
    with pytest.raises(UserError, match=message):
        ScoringRules(ranges).class_range()


def test_ranges_of_a_command_line():
    assert parse_ranges(["car=40", "bus=12.5"]) == {"car": 40.0, "bus": 12.5} and parse_ranges([]) == {}
    for text in ("car", "car=far", "car="):
        with pytest.raises(UserError, match="is not CLASS=METRES"):
            parse_ranges([text])


def test_a_tier_has_rules_and_its_evaluations_depend_on_them():
    tier, suite, clean = load_tier("smoke"), load_suite("missing_sensors"), resolve_condition("clean")
    custom = replace(tier, scoring=MINE)
    assert tier.scoring.official and "scoring" not in evaluation_settings(tier, suite)
    assert evaluation_settings(custom, suite)["scoring"] == {"ranges": {"car": 40.0}, "classes": "present"}
    assert condition_settings(custom, clean)["scoring"] == evaluation_settings(custom, suite)["scoring"]
    assert condition_settings(custom, clean) != condition_settings(tier, clean)


def test_a_tier_file_names_them(tmp_path):
    data = yaml.safe_load(load_tier("smoke").path.read_text())
    file = tmp_path / "mine.yaml"
    rules = {"classes": "present", "ranges": {"car": 40}}
    file.write_text(yaml.safe_dump({**data, "name": "mine", "evaluate": {**data.get("evaluate", {}), **rules}}))
    assert load_tier(file).scoring == MINE
    file.write_text(yaml.safe_dump({**data, "name": "mine", "evaluate": {"ranges": {"cra": 40}}}))
    with pytest.raises(UserError, match=r"evaluate.ranges.cra: unknown key; did you mean 'car'"):
        load_tier(file)


def by_other_rules(file) -> list[Record]:
    return [replace(record, extra={**record.extra, **MINE.entry()}) for record in read_records(file)]


def test_scores_of_different_rules_are_not_mixed(tmp_path):
    one = write_scored(tmp_path, "one", 0.0)
    other = write_records(tmp_path / "other.jsonl", by_other_rules(write_scored(tmp_path / "b", "other", 0.1)))
    assert incompatible(read_set(one), read_set(one)) == []
    (reason,) = incompatible(read_set(one), read_set(other))
    assert "scored by different rules (nuScenes' rules; car within 40 m, mean over" in reason
    warnings = mixtures([*read_records(one), *read_records(other)])
    assert any("scores are by 2 different rules (car within 40 m" in line for line in warnings)
    assert any("not by nuScenes' rules" in line for line in mixtures(read_records(other)))
    assert not any("rules" in line for line in mixtures(read_records(one)))


def test_a_table_does_not_mix_rules(tmp_path):
    files = [write_scored(tmp_path, name, 0.0, "missing_sensors") for name in ("one", "other")]
    write_records(files[1], by_other_rules(files[1]))
    with pytest.raises(UserError, match="scored by different rules, and no table mixes them: car within 40 m"):
        read_evaluations([str(file) for file in files], load_suite("missing_sensors"))
    assert read_evaluations([str(files[1])], load_suite("missing_sensors")).models
