"""What a record is asked to be: one identity for the same work, and differences in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from asked_records import with_config

from aqr_bench.records.code_dependencies import code_parts
from aqr_bench.records.request import (
    Request,
    differences,
    evaluation_requests,
    measurement_request,
    training_request,
)
from aqr_bench.study.load import load_study, load_tier

REQUEST = Request({"model": "m", "config": {"model.pts_bbox_head.aqr": {"bev_window": 5}}}, {"bias": "1"}, "i", ("a",))
CODE = {"bias/router.py": "1", "cmt/head.py": "1"}
WINDOW = {"model": "m", "config": {"model.pts_bbox_head.aqr": {"bev_window": 3}}}


@pytest.fixture(scope="module")
def asked():
    return load_tier("smoke"), load_study("smoke")


@pytest.mark.parametrize(
    "changes, reasons",
    [
        ({}, []),
        ({"settings": WINDOW}, ["aqr.bev_window 5 -> 3"]),
        ({"settings": {"config": WINDOW["config"]}}, ["model m -> unset", "aqr.bev_window 5 -> 3"]),
        ({"settings": {**REQUEST.settings, "sources": "x"}}, ["files of the custom detector changed"]),
        ({"code": {"bias": "2"}}, ["code: bias changed"]),
        ({"code": {"bias": "1", "data": "1"}}, ["code: data changed"]),
        ({"infos_sha256": "j"}, ["info files rebuilt"]),
        ({"starts": ("b",)}, ["base model changed"]),
        ({"starts": ()}, ["base model changed"]),
        ({"code": {}, "starts": ("b",)}, ["code: bias changed", "base model changed"]),
    ],
)
def test_every_difference_has_words_and_another_identity(changes, reasons):
    asked = replace(REQUEST, **changes)
    assert differences(asked, REQUEST, "base model") == reasons
    assert (asked.identity == REQUEST.identity) == (not reasons)


@pytest.mark.parametrize(
    ("settings", "code", "reasons"),
    [
        ({"config": {"a": 1}}, CODE, []),
        ({"config": {"a": 1}}, {"bias/router.py": "0", "cmt/head.py": "1"}, ["code: bias/router.py changed"]),
        ({"config": {"a": 1}}, {"cmt/head.py": "1"}, ["code: bias/router.py changed"]),
        # Another variant uses other files: that is no change of the code.
        ({"config": {"a": 2}}, {"cmt/head.py": "1", "b.py": "1"}, ["a 2 -> 1"]),
        ({"config": {"a": 2}}, {"cmt/head.py": "0"}, ["a 2 -> 1", "code: cmt/head.py changed"]),
        ({"config": {"a": 1}}, {c: "1" for c in "uvwxyz"}, ["code: u, v, w, x and 4 more changed"]),
        ({"config": {"a": 1}, "sources": {"mine.py": "1"}}, CODE, ["mine.py changed"]),
        ({"config": {"a": 1}, "sources": "a hash"}, CODE, ["files of the custom detector changed"]),
    ],
)
def test_differences_name_keys_and_files(settings, code, reasons):
    asked = Request({"config": {"a": 1}}, CODE, "infos")
    assert differences(asked, Request(settings, code, "infos")) == reasons


def test_a_condition_is_named(asked):
    tier, study = asked
    then = evaluation_requests(tier, study.suite, study, "none", "i", "c")["no_lidar"]
    condition = {**then.settings["condition"], "severity": 7}
    now = replace(then, settings={**then.settings, "condition": condition})
    before = then.settings["condition"]["severity"]
    assert differences(now, then) == [f"condition no_lidar: severity {before} -> 7"]


def test_a_record_keeps_it(asked):
    assert Request.from_provenance({"request": REQUEST.to_dict()}) == REQUEST
    assert Request.from_provenance({"request": REQUEST.to_dict()}).identity == REQUEST.identity


@pytest.mark.parametrize(
    "provenance",
    [{}, {"request": None}, {"request": {"settings": {}}}, {"request": {**REQUEST.to_dict(), "code": "x"}}],
)
def test_records_without_a_readable_one(provenance):
    assert Request.from_provenance(provenance) is None


def test_steps_depend_on_what_is_theirs(asked):
    tier, study = asked
    slower = replace(tier, measure=replace(tier.measure, rounds=tier.measure.rounds + 1))
    changed = with_config(study, "cross", {"model.pts_bbox_head.aqr": None})

    def identities(tier, study):
        return {
            "train": training_request(tier, study, "cross", None, "i", ("c",)).identity,
            "evaluate": evaluation_requests(tier, study.suite, study, "cross", "i", "c")["clean"].identity,
            "measure": measurement_request(tier, study, "cross", "i").identity,
            "plain": training_request(tier, study, "none", None, "i", ("c",)).identity,
        }

    first, measured, config = identities(tier, study), identities(slower, study), identities(tier, changed)
    assert {name for name in first if first[name] != measured[name]} == {"measure"}
    assert {name for name in first if first[name] != config[name]} == {"train", "evaluate", "measure"}


def test_the_same_work_in_another_study_is_the_same(asked):
    tier, study = asked
    other = replace(study, name="other", question="?", variants={"plain": study.variants["none"]}, baseline="plain")
    one = training_request(tier, study, "none", None, "i", ("c",))
    assert training_request(tier, other, "plain", None, "i", ("c",)).identity == one.identity


def test_code_is_hashed_by_file():
    assert len(set(code_parts("train").values())) > 5
    assert all(len(value) == 12 for value in code_parts("train").values())
