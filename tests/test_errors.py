"""Errors caused by the disk: recognised, reported at the command line, and never recorded as a failed model."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from aqr_bench.cli import main as cli
from aqr_bench.cli import run
from aqr_bench.cli.progress import Progress
from aqr_bench.cost import measure
from aqr_bench.engine import evaluate
from aqr_bench.errors import UserError, disk_error, run_main
from aqr_bench.records.record import Record


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "cannot write results/a: no space is left. Free some space, then"),
        (errno.EDQUOT, "cannot write results/a: the disk quota is used up"),
        (errno.EROFS, "cannot write results/a: the file system is read-only. Make it writable, or work in another"),
    ],
)
def test_the_message_has_file_reason_and_remedy(number, text):
    assert text in str(disk_error(OSError(number, "x", "results/a")))
    try:
        try:
            raise OSError(number, "x", "results/a")
        except OSError:
            raise RuntimeError("text of a library")  # noqa: B904
    except RuntimeError as error:
        assert text in str(disk_error(error))


def test_a_rename_names_its_target():
    assert "cannot write b: no space" in str(disk_error(OSError(errno.ENOSPC, "x", "a", None, "b")))


def test_without_a_file_the_folder_is_named():
    assert str(disk_error(OSError(errno.ENOSPC, "x"), "work")).startswith("cannot write below work: no space")
    assert str(disk_error(OSError(errno.ENOSPC, "x"))).startswith("no space")


@pytest.mark.parametrize("error", [ValueError("no space left on device"), FileNotFoundError(2, "x", "a"), None])
def test_other_errors_are_none_of_the_disks(error):
    assert disk_error(error) is None


def full(*_args, **_more):
    raise OSError(errno.ENOSPC, "No space left on device", "results/a")


def test_entries_print_one_line_and_exit_with_2(capsys, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        run_main(full)
    assert caught.value.code == 2
    monkeypatch.setattr(run, "run_workflow", full)
    assert cli.main(["run"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("error: cannot write results/a: no space is left.") for line in lines
    )
    with pytest.raises(ZeroDivisionError):
        run_main(lambda _argv: 1 // 0)


def test_a_full_disk_is_no_result_of_a_model(monkeypatch, tmp_path):
    evaluator = SimpleNamespace(config=None, job=None, run=full, work=tmp_path)
    monkeypatch.setattr(evaluate, "not_applicable_reason", lambda *_: None)
    with pytest.raises(UserError, match="results/a: no space is left"):
        evaluate.evaluate_one(evaluator, SimpleNamespace(name="clean"), SimpleNamespace(name="s"), None)


def test_an_error_that_is_raised_twice_is_recorded_once(monkeypatch):
    """torch's handler of SIGCHLD raises again while the first error is being reported."""

    def worker_dies(*_args):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    monkeypatch.setattr(evaluate, "not_applicable_reason", lambda *_: None)
    monkeypatch.setattr(evaluate.traceback, "print_exc", worker_dies)
    evaluator = SimpleNamespace(
        config=None, job=None, run=worker_dies, work=Path("work"), tier=SimpleNamespace(name="t")
    )
    asked = SimpleNamespace(name="clean"), SimpleNamespace(name="s"), Record("train", "ok", "t", seed=0)
    record = evaluate.evaluate_one(evaluator, *asked)
    assert record.status == "failed" and "DataLoader worker" in record.reason and record.condition == "clean"


def test_a_full_disk_is_no_measurement(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "load_data", lambda *_: SimpleNamespace(infos_sha256="0"))
    monkeypatch.setattr(measure, "build_config", lambda *_: None)
    monkeypatch.setattr(measure, "measure", full)
    with pytest.raises(UserError, match="results/a: no space is left"):
        measure.main(["--tier", "smoke", "--study", "smoke", "--variant", "none", "--out", str(tmp_path / "m.jsonl")])
    assert list(tmp_path.iterdir()) == []


def test_the_workflow_says_that_its_disk_is_full(tmp_path, monkeypatch):
    assert run.full_disk(tmp_path) is None
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    assert f"the disk that holds {tmp_path} is full (4 kB" in run.failure_summary(Progress(), tmp_path)
