"""Records wherever they lie: what they are held against, and what cannot be judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from asked_records import INFOS, selected, with_base, with_config, write_asked

from aqr_bench.records.loose import record_path, stale_reasons
from aqr_bench.records.provenance import file_facts
from aqr_bench.records.record import Record, read_records
from aqr_bench.study.load import load_study, load_tier


def all_records(results) -> list[Record]:
    return [record for path in sorted(results.rglob("*.jsonl")) for record in read_records(path)]


@pytest.fixture(scope="module")
def current(tmp_path_factory) -> list[Record]:
    results = tmp_path_factory.mktemp("loose") / "results"
    write_asked(results, selected())
    return all_records(results)


def reasons(records, infos=None) -> dict[str, tuple[str, ...]]:
    return {
        f"{path.as_posix()} {name or ''}".strip(): why for (path, name), why in stale_reasons(records, infos).items()
    }


def test_current_records_have_nothing_said_of_them_nor_parts_of_them(current):
    assert len(current) == 14 and reasons(current) == {}
    assert all(reasons([record]) == {} for record in current)
    assert len(reasons(current, "j" * 64)) == 14 and reasons(current, INFOS) == {}


def test_another_config_is_named_in_its_records(tmp_path):
    other = with_config(load_study("smoke"), "cross", {"model.pts_bbox_head.aqr": None})
    write_asked(tmp_path, selected(study=other))
    stale = reasons(all_records(tmp_path))
    assert {name.split()[0].split("/")[3] for name in stale} == {"cross"} and len(stale) == 5
    assert "results/smoke/smoke/cross/seed0/evaluate.missing_sensors.jsonl no_lidar" in stale


def test_what_follows_from_a_stale_record_that_is_there(tmp_path):
    write_asked(tmp_path, selected(with_base(load_tier("smoke"), iterations=5)))
    stale = reasons(all_records(tmp_path))
    assert stale["results/smoke/base/seed0/train.jsonl"] == ("iterations 5 -> 4",)
    assert stale["results/smoke/smoke/none/seed0/train.jsonl"] == ("train base seed 0 is done again",)
    variant = [record for record in all_records(tmp_path) if record.study]
    assert reasons(variant) == {}  # its base model is elsewhere


def test_old_records_and_those_that_no_study_asks_for(current):
    old = [replace(record, provenance={}) for record in current]
    assert len(reasons(old)) == 14
    assert {why[0].split(",")[0] for why in reasons(old).values()} == {"record of an earlier version"}
    gone = [replace(record, variant="gone") for record in current if record.kind == "measure"]
    assert set(reasons(gone).values()) == {("smoke.yaml has no variant gone",)}
    branch = Record("train", "ok", "smoke", seed=0, extra={"pretrain": "lidar"})
    assert reasons([branch]) == {"results/smoke/pretrain/lidar/train.jsonl": ("smoke.yaml has no branch lidar",)}


def test_what_is_not_here_is_not_judged(current):
    assert reasons([replace(record, tier="elsewhere") for record in current]) == {}
    assert reasons([replace(record, study="elsewhere", provenance={}) for record in current if record.study]) == {}
    fog = [replace(record, suite="elsewhere", provenance={}) for record in current if record.kind == "evaluate"]
    assert reasons(fog) == {}
    assert reasons([replace(record, extra={"damaged": True}) for record in current]) == {}


def test_a_study_is_loaded_from_the_file_that_the_record_names(tmp_path):
    text = (load_study("smoke").path).read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(text) | {"name": "mine"}))
    study = load_study(file)
    write_asked(tmp_path / "results", selected(study=study))
    records = [r for r in all_records(tmp_path / "results") if r.kind == "measure"]
    facts = {"files": {"study": {**file_facts(file), "path": str(file)}}}
    records = [replace(record, provenance={**record.provenance, **facts}) for record in records]
    assert reasons(records) == {}
    file.write_text(file.read_text().replace("bev_window: 5", "bev_window: 3"))
    assert list(reasons(records).values()) == [("aqr.bev_window 5 -> 3",)]


def test_the_file_that_a_record_belongs_in(current):
    names = {record_path(record).as_posix() for record in current}
    assert names >= {"results/smoke/smoke/cross/measure.jsonl", "results/smoke/base/seed0/train.jsonl"}
