"""Results of several machines as one folder: what goes in place, into the store, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from asked_records import selected, states, with_base, with_config, write_asked

from aqr_bench.cli.merge import main
from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records, write_records
from aqr_bench.records.store import ASIDE, RECORD, STORE
from aqr_bench.report import page
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.plan import Selection
from aqr_bench.study.spec import Study

CROSS = Path("smoke/smoke/cross/seed0")


def with_seeds(*seeds: int) -> Selection:
    return selected(study=replace(load_study("smoke"), seeds=seeds))


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path, Path]:
    """Results of machine A with seed 0, of B with the seeds 0 and 7 (which the study has not: nobody asks), and C."""
    a, b = tmp_path / "a" / "results", tmp_path / "b" / "results"
    write_asked(a, with_seeds(0))
    write_asked(b, with_seeds(0, 7))
    return a, b, tmp_path / "c" / "results"


def edit(path: Path, **changes) -> None:
    write_records(path, [replace(record, **changes) for record in read_records(path)])


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_seeds_of_two_machines_and_what_came_from_where(two, capsys):
    a, b, into = two
    edit(b / CROSS / "train.jsonl", cost={"wall_s": 9.0})  # of another machine: the same results
    assert main([str(a), str(b), "--into", str(into)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{a}: 8 record files taken",
        f"{b}: 8 record files there already, 6 record files taken",
    ]
    assert main([str(b), "--into", str(into), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["into"] == str(into) and [entry["folder"] for entry in facts["folders"]] == [str(b)]
    (entry,) = facts["folders"]
    assert entry["counts"] == {"there already": 14} and len(entry["files"]) == 14
    assert {"file": str(CROSS / "train.jsonl"), "action": "there already", "reason": None} in entry["files"]
    assert {state for state, _ in states(with_seeds(0, 7), into).values()} == {"fresh"}
    assert (into / "smoke/work/smoke/cross/seed7/final.pth").is_file()
    assert read_records(into / CROSS / "train.jsonl") == read_records(a / CROSS / "train.jsonl")
    before = files(into)
    assert (
        main([str(b / "smoke"), str(a), "--into", str(into)]) == 0 and files(into) == before
    )  # folders of a tier, too


def test_the_same_work_with_different_results_is_refused_and_nothing_written(two):
    a, b, into = two
    edit(b / CROSS / "evaluate.missing_sensors.jsonl", scores={"mAP": 0.6, "NDS": 0.5})
    path = CROSS / "evaluate.missing_sensors.jsonl"
    with pytest.raises(UserError, match="the same work with different results") as error:
        main([str(a), str(b), "--into", str(into)])
    assert f"{a / path} and {b / path}" in str(error.value) and not into.exists()
    with pytest.raises(UserError, match="different results"):
        main([str(b), "--into", str(a)])


def test_stale_records_go_to_the_store_with_their_checkpoints(two, capsys):
    a, b, into = two
    shutil.rmtree(b)
    write_asked(b, selected(study=with_config(load_study("smoke"), "cross", {"model.pts_bbox_head.aqr": None})))
    assert main([str(b), str(a), "--into", str(into)]) == 0
    output = capsys.readouterr().out
    assert f"{b}: 5 record files taken, 3 record files stored" in output and f"{a}: 5 record files there" in output
    assert "stored: smoke/smoke/cross/measure.jsonl: aqr None -> unset; aqr.bev_window unset -> 5" in output
    assert {state for state, _ in states(selected(), into).values()} == {"fresh"}
    assert len(list((into / "smoke" / STORE / "smoke/cross").rglob(RECORD))) == 3
    assert len(list((into / "smoke/work" / ASIDE / "smoke/cross/seed0").glob("*/final.pth"))) == 1


def test_a_current_record_takes_the_place_of_a_stale_one(two, capsys):
    a, _, into = two
    write_asked(into, selected(study=with_config(load_study("smoke"), "cross", {"model.pts_bbox_head.aqr": None})))
    stale = (into / CROSS / "train.jsonl").read_text()
    assert main([str(a), "--into", str(into)]) == 0
    assert f"{into}: 3 record files stored" in capsys.readouterr().out
    assert {state for state, _ in states(selected(), into).values()} == {"fresh"}
    assert stale in [file.read_text() for file in (into / "smoke" / STORE).rglob(RECORD)]
    assert len(list((into / "smoke/work" / ASIDE / "smoke/cross/seed0").glob("*/final.pth"))) == 1


def test_what_follows_from_a_stale_base_is_stored_with_it(two):
    _, b, into = two
    shutil.rmtree(b)
    write_asked(b, selected(with_base(load_tier("smoke"), iterations=5)))
    assert main([str(b), "--into", str(into)]) == 0
    assert not list((into / "smoke").rglob("train.jsonl")) and len(list(into.rglob("measure.jsonl"))) == 2


def test_a_success_takes_the_place_of_a_failure_and_not_the_other_way_round(two, capsys):
    a, b, into = two
    edit(a / CROSS / "evaluate.missing_sensors.jsonl", status="failed", reason="OSError: disk", scores={})
    for folders in ((a, b), (b, a)):
        assert main([*map(str, folders), "--into", str(into)]) == 0
        records = read_records(into / CROSS / "evaluate.missing_sensors.jsonl")
        assert all(record.ok for record in records)
        shutil.rmtree(into)
    assert "left out: smoke/smoke/cross/seed0/evaluate.missing_sensors.jsonl: failed" in capsys.readouterr().out


def test_a_checkpoint_that_one_of_the_machines_lacks_comes_from_the_other(two):
    a, b, into = two
    final = "smoke/work/smoke/cross/seed0/final.pth"
    shutil.rmtree((a / final).parent)
    assert main([str(a), "--into", str(into)]) == 0 and not (into / final).exists()
    assert main([str(b), "--into", str(into)]) == 0 and (into / final).read_bytes() == (b / final).read_bytes()


def test_of_two_measurements_the_first_one_stays(two, capsys):
    a, b, into = two
    edit(b / "smoke/smoke/none/measure.jsonl", cost={"latency_ms": {"median": 3.0}})
    assert main([str(a), str(b), "--into", str(into)]) == 0
    assert f"left out: smoke/smoke/none/measure.jsonl: measured in {a} as well" in capsys.readouterr().out
    assert read_records(into / "smoke/smoke/none/measure.jsonl")[0].cost == {}


def test_records_of_version_0_1_0_go_in_place_where_it_is_free(two):
    a, b, into = two
    for path in b.rglob("*.jsonl"):
        edit(path, provenance={})
    assert main([str(b), "--into", str(into)]) == 0 and len(list(into.rglob("*.jsonl"))) == 14
    assert main([str(a), "--into", str(into)]) == 0
    assert {state for state, _ in states(selected(), into).values()} == {"fresh"}


def test_damaged_records_are_left_out_and_misplaced_ones_refused(two, capsys):
    a, b, into = two
    (a / CROSS / "train.jsonl").write_text("{cut\n")
    evaluated = a / CROSS / "evaluate.missing_sensors.jsonl"
    evaluated.write_text(evaluated.read_text()[:-9])  # the last of its records
    assert main([str(a), "--into", str(into)]) == 0
    output = capsys.readouterr().out
    for file, line in ((CROSS / "train.jsonl", 1), (CROSS / "evaluate.missing_sensors.jsonl", 3)):
        assert f"damaged: {file}: <elsewhere>/{file.name}: damaged record, line {line}" in output
        assert not (into / file).exists()
    (b / CROSS).rename(b / "smoke/smoke/cross/seed1")
    with pytest.raises(UserError, match=r"holds the record of smoke/cross/seed0/evaluate.missing_sensors.jsonl"):
        main([str(b), "--into", str(into)])


def test_what_is_no_result_of_a_run_is_passed_over(two):
    a, b, into = two
    shutil.copytree(b / "smoke", a / "reference/quick/records")
    assert main([str(a), "--into", str(into)]) == 0 and len(list(into.rglob("*.jsonl"))) == 8


def test_info_files_come_along_and_records_of_others_are_stale(two):
    a, b, into = two
    for folder, content in ((a, "one"), (b, "two")):
        (folder / "smoke/infos").mkdir()
        (folder / "smoke/infos/infos_val.pkl").write_text(content)
        (folder / "smoke/infos/data.json").write_text(json.dumps({"data_sha256": content}))
    # Those of the test's records have yet another hash: all go to the store.
    assert main([str(a), str(b), "--into", str(into)]) == 0
    assert not list(into.rglob("*.jsonl")) and (into / "smoke/infos/infos_val.pkl").read_text() == "one"


def test_folders_without_records_are_mistakes(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no records in"):
        main([str(tmp_path), "--into", str(tmp_path / "c")])
    with pytest.raises(UserError, match="is the folder to merge into"):
        main([str(tmp_path), "--into", str(tmp_path)])


@pytest.fixture
def halves(tmp_path) -> tuple[Path, Path, Path, Study]:
    """A run of three seeds with scores of their own, and its halves: one seed here, two there."""
    study = replace(load_study("smoke"), seeds=(0, 1, 2))
    whole, a, b = (tmp_path / name / "results" for name in ("whole", "a", "b"))
    write_asked(whole, selected(study=study))
    for path in whole.rglob("evaluate.*.jsonl"):
        records = read_records(path)
        scores = [0.3 + 0.01 * (record.seed or 0) ** 2 + 0.002 * k for k, record in enumerate(records)]
        more = 0.05 if records[0].variant == "cross" else 0.0
        rows = [replace(r, scores={"mAP": s + more, "NDS": s}) for r, s in zip(records, scores, strict=True)]
        write_records(path, rows)
    for half, without in ((a, ("seed1", "seed2")), (b, ("seed0",))):
        # Weights of the base model, seed 0, are needed by all.
        shutil.copytree(whole, half)
        for folder in [f for f in half.rglob("seed*") if f.name in without and f.parent.name != "base"]:
            shutil.rmtree(folder)
    return whole, a, b, study


def test_two_halves_of_a_run_give_the_report_of_the_whole_run(halves, tmp_path, monkeypatch):
    whole, a, b, study = halves
    monkeypatch.setattr(page, "draw_study", lambda *_: [])
    assert len(list(a.rglob("*.jsonl"))) < len(list(whole.rglob("*.jsonl"))) > len(list(b.rglob("*.jsonl")))
    assert main([str(a), str(b), "--into", str(tmp_path / "merged" / "results")]) == 0
    reports = []
    for results in (whole, tmp_path / "merged" / "results", a):
        out = page.build_report(load_tier("smoke"), [study], results, results.parent / "report").parent
        tables = {file.name: file.read_text() for file in (out / "tables").glob("*.csv")}
        text = re.sub(r"Made [^.]* UTC", "", (out / "index.html").read_text())
        reports.append((tables, text))
    assert reports[0] == reports[1], "tables and page"
    assert (
        "smoke_scores.csv" in reports[0][0] and reports[0][0]["smoke_scores.csv"] != reports[2][0]["smoke_scores.csv"]
    )
