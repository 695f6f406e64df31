"""The fault campaign's own checks: they see what they are for; and, slow, a short version of the campaign."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from campaign import CASES, SHORT, main
from fault_damage import cut, flip, garble
from fault_disks import BALLAST, fill, free_bytes, needs_mount, small_disk
from fault_processes import REPOSITORY, Done, run
from fault_stages import RESULTS, STAGES, Reference, Trial, content, difference, half_written, outputs, tier
from fault_table import NO, SKIPPED, YES, Row, add_row, read_rows, summary, write_tables

from aqr_bench.records.record import Record, write_records
from aqr_bench.study.load import load_tier


def test_a_stage_is_the_same_only_with_the_same_content(tmp_path):
    """Of a record everything counts but its cost; of a checkpoint every byte."""
    stage, made = STAGES["base"], []
    for name, weights, seed in (("a", b"1", 0), ("b", b"1", 0), ("c", b"2", 0), ("d", b"1", 1)):
        work = tmp_path / name / RESULTS / "work/base/seed0"
        work.mkdir(parents=True)
        (work / "final.pth").write_bytes(weights)
        cost = {"wall_s": time.time(), "parameters": 7}
        write_records(tmp_path / name / RESULTS / stage.done, [Record("train", "ok", "faults", seed=seed, cost=cost)])
        made.append(outputs(tmp_path / name, stage))
    assert len(made[0]) == 2 and difference(made[1], made[0]) is None
    assert difference(made[2], made[0]) == "1 files are not the same: work/base/seed0/final.pth"
    assert "base/seed0/train.jsonl" in difference(made[3], made[0]) and "2 files" in difference({}, made[0])
    file = tmp_path / "a" / RESULTS / stage.done
    file.write_bytes(file.read_bytes()[:-20])
    for name, complete in (("b", True), ("nowhere", True), ("d", False), ("a", False)):
        assert (half_written(tmp_path / name, stage, made[0]) is None) == complete


def test_of_a_table_only_times_and_commits_are_passed_over(tmp_path):
    note = "0.48. Git commit of this page: {}. Run between: {} and 2026-11-28T02:00:00+00:00. Seeds: 0"
    (tmp_path / "tables").mkdir()
    file, contents = tmp_path / "tables" / "base.md", []
    for text in (note.format("unknown", "a"), note.format("12ab with changes", "b"), note.replace("0.48", "0.49")):
        file.write_text(text)
        contents.append(content(file))
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    ("code", "text", "problem"),
    [
        (2, "error: x.pth: no space is left. Free some", None),
        (0, "error: no space is left", "exit code 0, not 2"),
        (2, "Traceback (most recent call last)\nerror: no space is left", "1 error lines, not one"),
        (2, "error: something else", "does not name ['no space']"),
        (2, "no space", "0 error lines"),
    ],
)
def test_what_counts_as_a_clear_refusal(code, text, problem):
    refusal = Done(code, text, 0.0).not_refused("no space")
    assert refusal is None if problem is None else problem in refusal


def test_commands_are_run_and_may_be_killed(tmp_path):
    script, folder = tmp_path / "hello.py", tmp_path / "try"
    folder.mkdir()
    script.write_text('import sys, time; print("hello"); time.sleep(float(sys.argv[1])); sys.exit(3)')
    done = run(folder, (str(script), "0"))
    assert done.code == 3 and done.last_line == "hello" and done.not_ended_with(3) is None and done.not_ended_with(0)
    killed = run(folder, (str(script), "60"), lambda process, _spent: os.kill(process.pid, 9) is None)
    assert killed.code == -9


@pytest.mark.parametrize(("damage", "length"), [(cut, 507), (flip, 1000), (garble, 1000)])
def test_damage_changes_a_file(damage, length, tmp_path):
    file, before = tmp_path / "a", bytes(range(1, 251)) * 4
    file.write_bytes(before)
    damage(file)
    assert len(file.read_bytes()) == length and file.read_bytes() != before


def test_a_small_disk_fills(tmp_path):
    @needs_mount("full disk")
    def case(_reference):
        with small_disk(tmp_path / "disk", 1) as disk:
            fill(disk, 8192)
            assert free_bytes(disk) == 8192 and (disk / BALLAST).is_file()
            with pytest.raises(OSError, match="No space left"):
                (disk / "file").write_bytes(b"x" * 10_000)
        return Row("full disk", "", "", "", YES)

    if case(Reference(tmp_path)).held == SKIPPED:
        pytest.skip("mounting a disk needs root")
    assert list((tmp_path / "disk").iterdir()) == []


def test_the_table(tmp_path):
    trial, rows = Trial(Reference(tmp_path), tmp_path / "x", "base"), tmp_path / "rows.jsonl"
    fine = trial.row("SIGKILL", "goes on", f"{tmp_path}/x/the same", tries=3, ended=1)
    trial.expect(False, "a"), trial.expect(True, "c"), trial.note(None, "a", "b")
    add_row(rows, "x", trial.row("SIGKILL", "goes on", "the same"))
    assert read_rows(rows)["x"] == Row("SIGKILL", "base", "goes on", "a; b", NO)
    add_row(rows, "x", fine)
    add_row(rows, "y", Row("full disk", "a|b", "told", "no root", SKIPPED, tries=0))
    known = read_rows(rows)
    assert summary(known.values()) == "1 of 1 cases as promised; 3 kills in all; 1 not tried"
    write_tables(known.values(), tmp_path / "out", "of this commit")
    with (tmp_path / "out" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["as promised"] for line in lines] == [YES, SKIPPED]
    assert lines[0]["seen"] == "the same; 1 more had ended before" and lines[0]["tries"] == "3"
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| SIGKILL | base | 3 |" in text and "a\\|b" in text and "Machine: " in text


def test_the_published_table_is_of_these_cases():
    """One row for each case, at least fifty kills, and nothing in it of the machine's folders."""
    table = REPOSITORY / "results/faults/table.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(CASES) and {row["as promised"] for row in rows} <= {YES, NO, SKIPPED}
    assert sum(int(row["tries"]) for row in rows if row["fault"].startswith("SIG")) >= 50
    assert "/tmp/" not in table.read_text()


def test_the_tier_and_the_short_version_are_valid(tmp_path):
    (tmp_path / "faults.yaml").write_text(yaml.safe_dump(tier()))
    assert set(load_tier(tmp_path / "faults.yaml").pretrain) == {"lidar", "cameras"}
    assert set(SHORT) <= set(CASES)
    with pytest.raises(SystemExit, match="lies in the repository"):
        main(["--folder", str(Path(__file__).parent / "here")])


def test_a_fault_is_built_in(tmp_path):
    """The loss of the second step is NaN, of the first it is not."""
    (tmp_path / "step.py").write_text(
        "import json, sys, torch\nfrom mmengine.model import BaseModel\n"
        "losses = [BaseModel.parse_losses(None, {'loss_a': torch.tensor(2.0)})[0].item() for _ in range(3)]\n"
        "print(json.dumps([str(loss) for loss in losses] + sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("faulty.py"), "--nan-at", "2", "step", "--tier", "x"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == ["2.0", "nan", "nan", "--tier", "x"]


@pytest.mark.slow
def test_a_short_campaign_goes_as_promised(tmp_path):
    assert main(["--short", "--folder", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 0
    rows = read_rows(tmp_path / "work" / "rows.jsonl")
    assert set(rows) == set(SHORT) and all(row.held in (YES, SKIPPED) for row in rows.values())
    assert rows["SIGKILL_pretrain"].tries == 3
