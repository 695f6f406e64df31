"""What is fresh, stale or missing, judged from records alone, with the reasons in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from asked_records import INFOS, selected, states, with_base, with_config, write_asked

from aqr_bench.records.freshness import (
    AskedFile,
    DataState,
    asked_files,
    file_identity,
    grouped_reasons,
    judge,
    page_identity,
    requests_identity,
)
from aqr_bench.records.record import Record, describe
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.plan import with_variants
from aqr_bench.study.runs import Run

CROSS = "smoke/cross seed 0"
ALL = {
    "train base seed 0",
    "train smoke/none seed 0",
    f"train {CROSS}",
    "evaluate base seed 0 missing_sensors",
    "evaluate smoke/none seed 0 missing_sensors",
    f"evaluate {CROSS} missing_sensors",
    "measure smoke/none",
    "measure smoke/cross",
}


@pytest.fixture
def results(tmp_path):
    write_asked(tmp_path / "results", selected())
    return tmp_path / "results"


def stale(selection, results, infos=INFOS) -> dict[str, tuple[str, ...]]:
    return {name: reasons for name, (state, reasons) in states(selection, results, infos).items() if state == "stale"}


def edit(path, **changes) -> None:
    """Change the first record of a file, and its provenance by ``provenance``."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    facts = changes.pop("provenance", {})
    rows[0] |= changes
    rows[0]["provenance"] |= facts
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def test_a_pretraining_is_named_by_its_branch():
    assert AskedFile(Path("train.jsonl"), "train", Run("quick", None, None, 0, "lidar")).label == "train pretrain/lidar"
    record = Record("train", "ok", "quick", seed=0, extra={"pretrain": "lidar"})
    assert describe(record) == "train quick pretrain lidar seed 0"


def test_what_is_asked_for_is_fresh_wherever_it_lies(results, tmp_path):
    assert set(states(selected(), results)) == ALL and stale(selected(), results) == {}
    results.rename(tmp_path / "elsewhere")
    assert {state for state, _ in states(selected(), tmp_path / "elsewhere").values()} == {"fresh"}
    assert {state for state, _ in states(selected(), results).values()} == {"missing"}


def test_a_changed_config_concerns_its_variant(results):
    config = {"model.pts_bbox_head.aqr": {**load_study("smoke").variants["cross"].config["model.pts_bbox_head.aqr"]}}
    config["model.pts_bbox_head.aqr"]["bev_window"] = 3
    result = stale(selected(study=with_config(load_study("smoke"), "cross", config)), results)
    assert set(result) == {f"train {CROSS}", f"evaluate {CROSS} missing_sensors", "measure smoke/cross"}
    assert result[f"train {CROSS}"] == ("aqr.bev_window 5 -> 3",)
    assert result[f"evaluate {CROSS} missing_sensors"] == ("aqr.bev_window 5 -> 3", f"train {CROSS} is done again")


def test_what_follows_from_a_stale_training_is_stale(results):
    result = stale(selected(with_base(load_tier("smoke"), iterations=5)), results)
    assert result["train base seed 0"] == ("iterations 4 -> 5",)
    assert result[f"train {CROSS}"] == ("train base seed 0 is done again",)
    assert set(result) == {name for name in ALL if not name.startswith("measure")}


def test_rebuilt_info_files_concern_all_and_missing_ones_nobody(results):
    result = stale(selected(), results, "j" * 64)
    assert set(result) == ALL and result["measure smoke/none"] == ("info files rebuilt",)
    assert stale(selected(), results, None) == {}


def test_another_base_model_is_another_start(results):
    edit(results / "smoke/base/seed0/train.jsonl", provenance={"checkpoint_sha256": "f" * 64})
    result = stale(selected(), results)
    assert result["train smoke/none seed 0"] == ("base model changed",)
    assert result["evaluate base seed 0 missing_sensors"] == ("checkpoint changed",)


def test_a_damaged_and_an_old_record_and_other_conditions(results):
    (results / "smoke/smoke/none/measure.jsonl").write_text("{cut\n")
    old = results / "smoke/smoke/cross/measure.jsonl"
    record = json.loads(old.read_text())
    del record["provenance"]["request"]
    old.write_text(json.dumps(record) + "\n")
    path = results / "smoke/smoke/none/seed0/evaluate.missing_sensors.jsonl"
    edit(path, condition="fog")
    result = stale(selected(), results)
    assert result["measure smoke/none"] == ("damaged record",)
    assert result["measure smoke/cross"][0].startswith("record of an earlier version")
    evaluation = result["evaluate smoke/none seed 0 missing_sensors"]
    assert evaluation == ("no record of condition clean", "condition fog is not asked for")
    verdict = judge(asked_files(selected(), results), selected().tier, DataState(INFOS))[path]
    assert verdict.reasons_of("no_lidar") == () and verdict.reasons_of("fog") == ("condition fog is not asked for",)
    assert verdict.reasons_of() == evaluation


def test_jobs_that_were_not_started_are_run_once_the_base_is_ok(tmp_path):
    """Their records have no config hash: they are of what was asked for, until there is a base model to start from."""
    write_asked(tmp_path, selected(), lambda verdict: "failed" if "base" in verdict.asked.label else "ok")
    base = tmp_path / "smoke/base/seed0/train.jsonl"
    failed = base.read_text()
    for variant in ("none", "cross"):
        folder = tmp_path / "smoke/smoke" / variant / "seed0"
        edit(folder / "train.jsonl", status="failed", reason="not started: base training failed: ValueError: no")
        edit(folder / "train.jsonl", provenance={"config_sha256": None})
    assert stale(selected(), tmp_path) == {}
    edit(base, status="ok", reason=None, provenance={"checkpoint_sha256": "c" * 64})
    result = stale(selected(), tmp_path)
    assert result[f"train {CROSS}"] == ("base model changed",)
    assert f"train {CROSS} is done again" in result[f"evaluate {CROSS} missing_sensors"]
    base.write_text(failed)
    assert stale(selected(), tmp_path) == {}


def test_records_that_lie_elsewhere_make_nothing_stale(results):
    selection, files = selected(), asked_files(selected(), results)
    evaluation = results / "smoke/smoke/cross/seed0/evaluate.missing_sensors.jsonl"
    (results / "smoke/smoke/cross/seed0/train.jsonl").unlink()
    assert judge(files, selection.tier, DataState(INFOS))[evaluation].state == "stale"
    assert judge(files, selection.tier, DataState(INFOS), complete=False)[evaluation].state == "fresh"


def test_code_alone_may_be_accepted(results):
    files = asked_files(selected(), results)
    for facts, alone in (({"code": {"bias": "0"}}, True), ({"code": {"bias": "0"}, "infos_sha256": "j"}, False)):
        path = results / "smoke/smoke/cross/measure.jsonl"
        request = json.loads(path.read_text())["provenance"]["request"]
        edit(path, provenance={"request": {**request, **facts}})
        assert judge(files, selected().tier, DataState(INFOS))[path].code_alone == alone


def test_the_identity_of_a_file_is_that_of_its_requests(results):
    verdicts = judge(asked_files(selected(), results), selected().tier, DataState(INFOS))
    assert all(file_identity(path) == requests_identity(v.requests) for path, v in verdicts.items())
    path = results / "smoke/base/seed0/train.jsonl"
    before = file_identity(path)
    edit(path, cost={"wall_s": 9.0})
    assert file_identity(path) == before and file_identity(path.with_name("none.jsonl")) is None


def test_reasons_are_grouped(results):
    changed = selected(with_base(load_tier("smoke"), iterations=5))
    verdicts = list(judge(asked_files(changed, results), changed.tier, DataState(INFOS)).values())
    lines = grouped_reasons(verdicts, max_jobs=1)
    assert lines[0] == "iterations 4 -> 5: train base seed 0"
    # What starts from the base, and what starts from that, is not listed by what it starts from.
    (line,) = lines[1:]
    assert line == "what they start from is done again: train smoke/none seed 0 and 4 more"


def test_a_page_is_of_its_studies_seeds_variants_and_records(results):
    study = load_study("smoke")
    identity = page_identity(results / "smoke", [study])
    assert identity == page_identity(results / "smoke", [study])
    assert identity != page_identity(results / "smoke", [replace(study, seeds=(0, 1))])
    assert identity != page_identity(results / "smoke", with_variants([study], ["none"]))
    assert page_identity(results / "smoke", with_variants([study], ["cross"])) == identity  # that is all of them
    (results / "smoke/other").mkdir()
    (results / "smoke/other/measure.jsonl").write_text("of another study\n")
    assert page_identity(results / "smoke", [study]) == identity
    edit(results / "smoke/smoke/none/measure.jsonl", cost={"wall_s": 9.0})
    assert identity != page_identity(results / "smoke", [study])
