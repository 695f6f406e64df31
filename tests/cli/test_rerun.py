"""Running a record again: how it came to be is found in it, it comes out the same, and what has changed is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import RUN, tiny_checkout

from aqr_bench.cli import main as cli
from aqr_bench.cli import rerun
from aqr_bench.cli.rerun import located, main, moved, parse_command
from aqr_bench.errors import UserError
from aqr_bench.folders import shipped_folder
from aqr_bench.records.diff import compare
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.study.load import load_tier


def recorded(command: str, kind: str = "train") -> Record:
    condition = "clean" if kind == "evaluate" else None
    return Record(kind, "ok", "smoke", seed=0, condition=condition, suite=condition, provenance={"command": command})


# ---------------------------------------------------------------- the command in a record


@pytest.mark.parametrize(
    "start",
    [
        "aqr-bench train",
        "python -m aqr_bench train",
        "torchrun --standalone --nproc-per-node=2 -m aqr_bench train",
        "python -u -m aqr_bench.train",  # of older records, as is the next
        "python -m aqr_bench.cli train",
        ".venv/bin/python .venv/bin/aqr-bench train",
        "python <elsewhere>/aqr-bench train",
    ],
)
def test_the_command_of_a_record_is_read(start):
    options = parse_command(
        recorded(f"{start} --tier quick --features a b --seed=3 --infos 'my infos'"), Path("r.jsonl")
    )
    assert options == {"tier": ("quick",), "features": ("a", "b"), "seed": ("3",), "infos": ("my infos",)}


@pytest.mark.parametrize("command", ["python -m pytest tests", "aqr-bench evaluate --tier x", "", "a 'b"])
def test_a_record_of_another_command_is_refused(command):
    with pytest.raises(UserError, match=r"r\.jsonl cannot be run again: .* is not the command of a train step"):
        parse_command(recorded(command), Path("r.jsonl"))


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("/a/results/quick/base/seed0/train.jsonl", ".", "/a"),
        ("/a/kept/records/base/seed0/train.jsonl", "results/quick", "/a/kept/records"),
        ("/a/other.jsonl", "results/quick/base/seed0/train.jsonl", "/a/other.jsonl"),
    ],
)
def test_a_moved_results_folder_is_recognised(place, old, new):
    assert moved(Path(place), "results/quick/base/seed0/train.jsonl") == (Path(old), Path(new))


# ---------------------------------------------------------------- a results folder with one training in it


@pytest.fixture(scope="module")
def checkout() -> Path:
    """A base training and its evaluation under two conditions, in a folder of their own."""
    return tiny_checkout()


@pytest.fixture
def here(checkout, monkeypatch) -> Path:
    """The results folder as working folder's; steps run in this process, which has what they import."""

    def run_step(options, record, log):
        log.write_text("")
        words = [word for name, values in options.items() for word in (f"--{name}", *values)]
        assert cli.main([record.kind, *words]) == 0

    monkeypatch.setattr(rerun, "run_step", run_step)
    monkeypatch.chdir(checkout)
    return checkout / RUN


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_ships_is_located_from_any_folder(tmp_path, monkeypatch):
    """A record has the path of a shipped file relative to what ships; a file of the working folder comes first."""
    monkeypatch.chdir(tmp_path)
    name = "examples/centerpoint/lidar_damage.yaml"
    assert located(name, "study", tmp_path / "r.jsonl", "r.jsonl") == shipped_folder() / name
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert located(name, "study", tmp_path / "a" / "r.jsonl", "r.jsonl") == tmp_path / name


def test_a_training_comes_out_the_same_and_nothing_is_touched(here, checkout, capsys):
    before = contents(checkout)
    assert cli.main(["rerun", str(here / "train.jsonl")]) == 0
    output = capsys.readouterr().out
    assert "identical: 7 values bit for bit (status, checkpoint, 3 of the loss curve, 2 counts)" in output
    assert contents(checkout) == before


def test_an_evaluation_comes_out_the_same_all_of_it_or_one_condition(here, capsys, tmp_path):
    file, remaining = here / "evaluate.two.jsonl", tmp_path / "kept"
    assert len(read_records(file)[0].provenance["predictions_sha256"]) == 64
    assert main([str(file), "--condition", "no_lidar", "--keep", str(remaining)]) == 0
    output = capsys.readouterr().out
    assert "no_lidar: identical: " in output and "clean" not in output and "although" not in output
    again = read_records(remaining / "evaluate.two.jsonl")
    assert [record.condition for record in again] == ["no_lidar"] and (remaining / "work").is_dir()
    with pytest.raises(UserError, match="not empty"):
        main([str(file), "--keep", str(remaining)])


def test_what_came_out_different_and_why_is_said(here, capsys, tmp_path):
    """A record that claims another score, made with another torch, in a results folder of another layout."""
    record = read_records(here / "evaluate.two.jsonl")[0]
    facts = {**record.provenance, "packages": {**record.provenance["packages"], "torch": "1.0"}}
    other = replace(record, scores={**record.scores, "mAP": 0.75}, provenance=facts)
    moved_to = write_records(tmp_path / "kept" / "base" / "seed0" / "evaluate.two.jsonl", [other])
    shutil.copy(here / "train.jsonl", moved_to.parent)  # its checkpoint is where the command had it
    assert main([str(moved_to), "--json"]) == 1
    printed, output = capsys.readouterr()
    facts = json.loads(printed)
    (entry,) = facts["records"]
    assert not facts["identical"] and (entry["condition"], entry["identical"]) == ("clean", False)
    (different,) = entry["different"]
    assert different == {"name": "scores.mAP", "then": 0.75, "now": record.scores["mAP"]}
    assert "torch 1.0 then" in entry["causes"][0] and entry["equal"] > 3 and facts["keep"] is None
    assert "clean: different: 1 of " in output and "scores.mAP: 0.75 then, " in output
    assert "perhaps because of torch 1.0 then" in output


def test_another_checkpoint_is_told_by_its_weights(here, tmp_path):
    then = read_records(here / "train.jsonl")[0]
    weights = torch.load(here / then.provenance["checkpoint"], weights_only=True)
    weights["state_dict"]["pts_bbox_head.reference_points.weight"][3, 1] += 0.5
    torch.save(weights, tmp_path / "final.pth")
    now = replace(then, provenance={**then.provenance, "checkpoint": "final.pth", "checkpoint_sha256": "0" * 64})
    output = rerun.further_lines(then, now, here / "train.jsonl", tmp_path / "train.jsonl", compare(then, now))
    assert len(output) == 1 and "the most in pts_bbox_head.reference_points.weight: by 0.5" in output[0]
    assert rerun.further_lines(then, now, tmp_path / "gone.jsonl", tmp_path / "train.jsonl", compare(then, now)) == []


# ---------------------------------------------------------------- what cannot be run


def test_what_is_missing_is_named_with_the_way_out(here, checkout, capsys, tmp_path):
    copy = tmp_path / "elsewhere" / "base" / "seed0"
    copy.mkdir(parents=True)
    for name in ("train.jsonl", "evaluate.two.jsonl"):
        shutil.copy(here / name, copy)
    (tmp_path / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "empty")
        assert cli.main(["rerun", str(copy / "train.jsonl")]) == 2
        assert "infos not found: results/tiny/infos. Name its path with --infos" in capsys.readouterr().err
        infos, tier = str(checkout / "results" / "tiny" / "infos"), str(checkout / "tiny.yaml")
        assert cli.main(["rerun", str(copy / "train.jsonl"), "--infos", infos]) == 2
        assert "tier not found: tiny.yaml. Name its path with --tier" in capsys.readouterr().err
        # The train record lies beside the evaluation, its checkpoint does not.
        given = ["--infos", infos, "--tier", tier, "--suite", str(checkout / "two.yaml")]
        assert cli.main(["rerun", str(copy / "evaluate.two.jsonl"), *given]) == 2
        output = capsys.readouterr().err
        assert "names does not exist: " in output and "with --train" in output
        assert cli.main(["rerun", str(copy / "train.jsonl"), "--suite", "missing_sensors"]) == 2
        assert "--suite: a training has no such option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--line", "3"], "--line 3: the file has 2 lines"),
        (["--condition", "no_lidr"], "no record of 'no_lidr'; did you mean 'no_lidar'"),
    ],
)
def test_records_that_are_not_there_are_refused(here, arguments, message):
    with pytest.raises(UserError, match=message):
        main([str(here / "evaluate.two.jsonl"), *arguments])


def test_a_damaged_record_is_refused_and_others_of_the_file_are_not(here, tmp_path):
    file = tmp_path / "evaluate.two.jsonl"
    file.write_text((here / "evaluate.two.jsonl").read_text() + '{"kind": ')
    with pytest.raises(UserError, match=r"line 3.* A damaged record cannot be run again; --line N"):
        main([str(file)])
    assert rerun.choose(file, 2, None)[0].condition == "no_lidar"
    with pytest.raises(UserError, match="record file not found"):
        main([str(tmp_path / "none.jsonl")])


def test_records_of_several_commands_are_run_one_at_a_time(here, tmp_path):
    first, second = read_records(here / "evaluate.two.jsonl")
    other = {**second.provenance, "command": second.provenance["command"] + " --seed 1"}
    file = write_records(tmp_path / "evaluate.two.jsonl", [first, replace(second, provenance=other)])
    with pytest.raises(UserError, match="several commands wrote these records; choose one record with --line N"):
        main([str(file)])
    assert rerun.choose(file, 2, None)[0].condition == "no_lidar"


def test_a_condition_that_the_suite_no_longer_has_is_named(here, tmp_path):
    suite = dict(name="two", summary="two", conditions=[{"name": "clean"}, {"name": "no_cameras"}])
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(suite))
    with pytest.raises(UserError, match="the suite no longer has 'no_lidar'"):
        main([str(here / "evaluate.two.jsonl"), "--suite", str(tmp_path / "two.yaml")])


def test_a_step_that_breaks_off_is_told_by_its_last_line(tmp_path):
    options = {"tier": ("nosuch",), "infos": ("x",), "seed": ("0",), "out": ("y",), "work": ("z",)}
    with pytest.raises(UserError, match=r"the train step ended with 2: unknown tier 'nosuch'"):
        rerun.run_step(options, recorded("x"), tmp_path / "log")


def test_old_records_still_are_records():
    """Those of the repository were written before predictions, files and environment were kept."""
    file = Path(__file__).parents[2] / "results/reference/quick_0.1.0/records/bias_site/cross/seed0/train.jsonl"
    record = read_records(file)[0]
    assert record.ok and "files" not in record.provenance
    options = parse_command(record, file)
    assert options["seed"] == ("0",) and load_tier(options["tier"][0]).name == "quick"
    assert json.loads(file.read_text())["schema_version"] == record.schema_version


def test_records_of_version_0_1_0_are_said_to_be_of_another_identity(monkeypatch, capsys):
    monkeypatch.setattr(rerun, "run_again", lambda *arguments: [])  # which takes a data set
    file = shipped_folder() / "results/reference/quick_0.1.0/records/bias_site/cross/seed0/train.jsonl"
    assert rerun.main([str(file)]) == 0
    assert capsys.readouterr().out.startswith("stale: record of an earlier version, which does not say what it was")
