"""aqr-bench records check: failures decide the exit code, stale records are named."""

from __future__ import annotations

import json

import pytest
from asked_records import selected, with_config, write_asked

from aqr_bench.cli.records import main
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study


def test_stale_records_are_named_with_the_reason(tmp_path, capsys):
    write_asked(tmp_path, selected(study=with_config(load_study("smoke"), "cross", {"model.pts_bbox_head.aqr": None})))
    files = sorted(map(str, tmp_path.rglob("*.jsonl")))
    assert main(["check", *files]) == 0
    output = capsys.readouterr()
    assert output.out == "14 of 14 records ok\n"
    assert main(["check", str(tmp_path)]) == 0 and capsys.readouterr() == output
    (line,) = output.err.splitlines()
    assert line.startswith("stale: ") and "aqr.bev_window unset -> 5" in line
    assert "results/smoke/smoke/cross/measure.jsonl" in line and "/none/" not in line
    assert main(["check", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["records"], facts["records_ok"], facts["failed"]) == (True, 14, 14, [])
    (stale,) = facts["stale"]
    assert "aqr.bev_window unset -> 5" in stale["reason"] and len(stale["files"]) == 3
    file = tmp_path / "smoke/smoke/none/measure.jsonl"
    file.write_text("{")
    assert main(["check", str(file), "--json"]) == 1
    (failed,) = json.loads(capsys.readouterr().out)["failed"]
    assert (failed["file"], failed["record"]) == (str(file), "measure smoke smoke none")


def test_a_folder_without_records_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="no record file in "):
        main(["check", str(tmp_path)])


def test_info_files_beside_the_records_count(tmp_path, capsys):
    write_asked(tmp_path, selected())
    file = tmp_path / "smoke/smoke/none/measure.jsonl"
    assert main(["check", str(file)]) == 0 and "stale" not in capsys.readouterr().err
    (tmp_path / "smoke/infos").mkdir()
    (tmp_path / "smoke/infos/infos_val.pkl").write_bytes(b"others")
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr().err == "stale: info files rebuilt: results/smoke/smoke/none/measure.jsonl\n"


def test_a_failure_is_exit_code_1_and_a_damaged_file_is_one(tmp_path, capsys):
    write_asked(tmp_path, selected())
    file = tmp_path / "smoke/smoke/none/measure.jsonl"
    file.write_text(json.dumps({"kind": "measure"}) + "\n")
    assert main(["check", str(file)]) == 1 and "stale" not in capsys.readouterr().err
