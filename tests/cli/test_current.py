"""What is current with the store counted in: a dry run knows what would come back, and touches nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from asked_records import INFOS, selected, with_config, write_asked

from aqr_bench.cli.current import accept_code, current_state, put_back
from aqr_bench.records import freshness
from aqr_bench.records.cache import save_cache_entry
from aqr_bench.records.code_dependencies import hash_of_parts
from aqr_bench.records.store import archive
from aqr_bench.report import data_state
from aqr_bench.report.data_state import data_reasons, prepare_code
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.vocabulary import Vocabulary

OTHER = {"model.pts_bbox_head.aqr": None}


def code_of(lines: str) -> dict[str, str]:
    """Hashes of the code that the records of a file depend on."""
    requests = [json.loads(line)["provenance"]["request"] for line in lines.splitlines()]
    return {file: v for request in requests for file, v in request["code"].items()}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """Records of another config of one variant, and those of the shipped one in the store."""
    monkeypatch.setattr(data_state, "known_infos_digest", lambda infos: INFOS)
    results = tmp_path / "results"
    write_asked(results, selected())
    for path in sorted(results.rglob("*.jsonl")):
        archive(results / "smoke", path)
    work = results / "smoke/work/smoke/cross/seed0"
    aside = results / "smoke/work/.aside/smoke/cross/seed0/0123"
    aside.parent.mkdir(parents=True)
    work.rename(aside)
    write_asked(results, selected(study=with_config(load_study("smoke"), "cross", OTHER)))
    return results


def test_a_dry_run_judges_as_if_stored_records_were_back(results):
    before = contents(results)
    assert len(current_state(selected(), results).stale_records) == 3
    assert current_state(selected(), results, stored=True).stale_records == []
    assert contents(results) == before
    assert put_back(selected(), results) == 3 and current_state(selected(), results).stale_records == []
    assert put_back(selected(), results) == 0


def test_what_is_lost_is_to_be_done(results):
    for checkpoint in (results / "smoke/work/.aside").rglob("final.pth"):
        checkpoint.unlink()
    state = current_state(selected(), results, stored=True)
    assert [verdict.asked.kind for verdict in state.stale_records] == ["train", "evaluate"]
    assert state.reasons_by_job[0].startswith("train smoke/cross seed 0: aqr None -> unset")


def test_info_files_are_made_again_for_another_mapping_of_names(tmp_path):
    tier = replace(load_tier("smoke"), kind="nuscenes", data_root=tmp_path / "root")
    layout = RunLayout(tier.name, tmp_path)
    layout.info_summary.parent.mkdir(parents=True)
    layout.info_summary.write_text(json.dumps({"code": prepare_code()}))  # of a data set with nuScenes' names
    mapped = replace(tier, vocabulary=Vocabulary({"car": "vehicle.car"}))
    assert data_reasons(tier, layout) == {}
    reasons = data_reasons(mapped, layout)
    assert reasons == {layout.info_summary: "data.categories or data.attributes of the tier changed"}
    layout.info_summary.write_text(json.dumps({"code": prepare_code(), "vocabulary": mapped.vocabulary.as_dict()}))
    assert data_reasons(mapped, layout) == {}


@pytest.mark.parametrize("infos", [INFOS, None])
def test_code_is_accepted_also_where_there_are_no_info_files(tmp_path, monkeypatch, infos):
    monkeypatch.setattr(data_state, "known_infos_digest", lambda folder: infos)
    results = tmp_path / "results"
    write_asked(results, selected())
    path = results / "smoke/smoke/cross/seed0/evaluate.missing_sensors.jsonl"
    before = path.read_text()
    rows = [json.loads(line) for line in before.splitlines()]
    for row in rows:
        row["provenance"]["request"]["code"]["bias/router.py"] = "0"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    # What other studies reuse of this run; it keeps a hash of the code of all conditions.
    work = results / "smoke/work/smoke/cross/seed0"
    work.mkdir(parents=True, exist_ok=True)
    hashes = [hash_of_parts(code_of(lines), {}) for lines in (path.read_text(), before)]
    save_cache_entry(work, path.stem, ["config", hashes[0], "data"], {})
    assert current_state(selected(), results).reasons_by_job == [
        "evaluate smoke/cross seed 0 missing_sensors: code: bias/router.py changed"
    ]
    assert accept_code(selected(), results) == [path] and current_state(selected(), results).stale_records == []
    for row, then in zip(
        map(json.loads, path.read_text().splitlines()), map(json.loads, before.splitlines()), strict=True
    ):
        assert row["provenance"]["request"] == then["provenance"]["request"]
        assert row["provenance"]["accepted"][0]["code"] == {"bias/router.py": "0"}
    entry = json.loads((work / f"{path.stem}.done.json").read_text())
    assert entry["identity"] == ["config", hashes[1], "data"]


def test_nothing_is_worked_out_for_records_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(data_state, "known_infos_digest", lambda infos: INFOS)
    monkeypatch.setattr(freshness, "_requests", lambda *file: pytest.fail("asked for"))
    (tmp_path / "smoke/store").mkdir(parents=True)
    assert {v.state for v in current_state(selected(), tmp_path, stored=True).verdicts} == {"missing"}
    assert put_back(selected(), tmp_path) == 0
