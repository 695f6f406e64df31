"""The aqr-bench command, and how it reads Snakemake's output."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from aqr_bench.cli import main as cli
from aqr_bench.cli import run
from aqr_bench.cli.progress import Progress
from aqr_bench.cli.snakemake_events import RECORD_SEPARATOR
from aqr_bench.errors import UserError
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.requirements import disk_needed
from aqr_bench.study.runs import base_runs, matrix


def test_help_is_quick_and_names_every_command():
    # Quick is what loads nothing heavy: a time would depend on the machine.
    heavy = ("torch", "mmengine", "mmdet3d", "nuscenes", "pandas", "numpy", "snakemake", "matplotlib", "yaml")
    code = (
        "import sys; from aqr_bench.cli.main import main\n"
        "try: main(['--help'])\n"
        f"finally: print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in cli.COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_step_gets_its_arguments_and_its_result_is_returned(monkeypatch):
    seen = []
    fake = types.SimpleNamespace(main=lambda argv: seen.append(argv) or 7)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake if name == "aqr_bench.engine.train" else None)
    assert cli.main(["train", "--help", "--seed", "1"]) == 7
    assert seen == [["--help", "--seed", "1"]]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_speaks_under_the_name_that_was_typed(name, capsys):
    """In its help and in its errors, however it was started."""
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0 and capsys.readouterr().out.startswith(f"usage: aqr-bench {name} ")
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--no-such-option"])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith(f"usage: aqr-bench {name} ")
    assert message.splitlines()[-1].startswith(f"aqr-bench {name}: error: ")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_an_option_of_several_values_may_be_repeated(name, monkeypatch):
    """``--study a --study b`` is both: argparse's default would forget the first without a word."""
    options, add = [], argparse._ActionsContainer.add_argument

    def add_argument(self, *args, **kwargs):
        options.append((args, kwargs))
        return add(self, *args, **kwargs)

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", add_argument)
    with pytest.raises(SystemExit):
        cli.main([name, "--no-such-option"])
    several = [(args, kw) for args, kw in options if kw.get("nargs") in ("+", "*") and args[0].startswith("-")]
    assert [args for args, kw in several if kw.get("action") != "extend" or kw.get("default")] == []


def test_mistakes_are_one_line_and_exit_2(capsys):
    assert cli.main(["run", "--tier", "quik"]) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: unknown tier 'quik'; did you mean 'quick'?") and output.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--cores", "0"])
    assert stop.value.code == 2


def test_interruption_is_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_workflow", interrupted)
    assert cli.main(["run"]) == 130
    assert "resumes from here" in capsys.readouterr().err
    monkeypatch.setattr("aqr_bench.cost.measure.main", interrupted)  # which starts from the beginning
    assert cli.main(["measure"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_too_little_disk_is_said_up_front(monkeypatch):
    monkeypatch.setattr(run, "disk_needed", lambda *_: 10**18)
    monkeypatch.setattr(run, "run_snakemake", lambda *_: pytest.fail("started"))
    with pytest.raises(UserError, match="tier smoke needs 1000000000"):
        run.run_workflow("smoke", ["smoke"], None, True, False, False)


def test_disk_grows_with_world_and_runs():
    smoke, quick = load_tier("smoke"), load_tier("quick")
    assert disk_needed(smoke, [load_study("smoke")]) < disk_needed(quick, [load_study("bias_site")])


def test_disk_is_counted_for_what_is_still_to_do(tmp_path):
    tier, studies = load_tier("smoke"), [load_study("smoke")]
    layout = RunLayout("smoke", tmp_path)
    assert disk_needed(tier, studies, layout) == disk_needed(tier, studies)
    runs = [*matrix(tier, studies), *base_runs(tier, studies)]
    for file in (layout.world_marker, *map(layout.train, runs)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert disk_needed(tier, studies, layout) < 30_000_000
    layout.train(runs[0]).unlink()
    assert disk_needed(tier, studies, layout) > 60_000_000


def test_a_dry_run_works_beside_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / ".snakemake").touch()  # as good as read-only, also for root
    with run.writable_copy(tmp_path) as place:
        assert place != tmp_path and [entry.name for entry in place.iterdir()] == ["results"]
        assert (place / "results").resolve() == tmp_path / "results"
    (tmp_path / ".snakemake").unlink()
    with run.writable_copy(tmp_path) as place:
        assert place == tmp_path


def events(*items: dict | str) -> list[str]:
    """Lines of aqr_bench.cli.snakemake_events: an event, or what a job printed."""
    return [i if isinstance(i, str) else RECORD_SEPARATOR + json.dumps({"text": "as it is", **i}) for i in items]


SNAKEMAKE = events(
    {"event": "jobs", "count": {"evaluate": 10, "report": 1}},
    {"event": "start", "job": 25, "rule": "evaluate", "message": "Evaluating base, tier quick"},
    {"event": "start", "job": 26, "rule": "all", "message": None},
    "error: the disk is on fire\n",
    "\n",
    {"event": "failure", "job": 25, "logs": ["logs/quick/evaluate.log"]},
    {"event": "message", "message": "Exiting because a job execution failed.", "exception": None},
    {"event": "message", "message": "At least one job did not complete.", "exception": "WorkflowError"},
    {"event": "message", "message": "no output", "exception": "MissingOutputException"},
    {"event": "progress", "done": 3, "total": 11},
    {"event": "start", "job": 27, "rule": "report", "message": "Report"},
)


def test_progress_keeps_what_matters_and_what_jobs_print():
    progress = Progress()
    texts = [text for text in map(progress.feed, SNAKEMAKE) if text is not None]
    assert texts == [
        "[0/11] Evaluating base, tier quick",
        "error: the disk is on fire",
        "no output",
        "[3/11] Report",
    ]
    assert progress.failed_logs == ["logs/quick/evaluate.log"] and progress.failed_jobs == 1
    assert Progress(dry_run=True).feed(SNAKEMAKE[1]) == "Evaluating base, tier quick"
    assert Progress(announce=False).feed(SNAKEMAKE[1]) is None
    assert Progress(verbose=True).feed(SNAKEMAKE[-1]) == "as it is"
    assert Progress().feed(f"half a line{SNAKEMAKE[-1]}") == "half a line\n[0/0] Report"
    assert Progress().feed(f"{RECORD_SEPARATOR}{{broken") == "{broken"


@pytest.fixture
def reported(monkeypatch, tmp_path):
    """Runs a Snakefile through aqr_bench.cli.snakemake_events, as `aqr-bench run` does."""

    def run_snakefile(snakefile: str, *arguments: str, **settings) -> tuple[int, Progress, list[str]]:
        (tmp_path / "Snakefile").write_text(snakefile)
        command = [sys.executable, "-m", run.SNAKEMAKE, "--cores", "1", *arguments]
        monkeypatch.setenv("PYTHONPATH", str(Path(run.__file__).parents[2]))
        progress, lines = Progress(**settings), []
        monkeypatch.setattr(run.LiveLine, "print_line", lambda _, line: lines.append(line))
        return run.run_snakemake(command, tmp_path, progress), progress, lines

    return run_snakefile


def test_snakemake_reports_its_events(reported):
    """With Snakemake itself: jobs by rule whatever their messages say, what they print, and a failure named once."""
    rules = """
rule all:
    input: "a", "b"
rule good:
    output: "a"
    message: "Totally new words"
    shell: "echo printed by a job; touch {output}"
rule bad:
    output: "b"
    log: "bad.log"
    message: "Another"
    shell: "exit 1"
"""
    code, progress, lines = reported(rules, "--keep-going")
    assert code == 1 and progress.failed_logs == ["bad.log"] and not progress.running
    assert sorted(progress.time_left.done) == ["good"]
    assert sorted(line.rpartition("] ")[2] for line in lines) == ["Another", "Totally new words", "printed by a job"]
    assert (progress.done, progress.total) == (1, 3)
    code, progress, lines = reported(rules, "--dry-run", "--", "bad", dry_run=True)
    assert (code, progress.total, lines) == (0, 1, ["Another"])
    code, progress, lines = reported(rules, "--", "a")
    assert (code, progress.total, lines) == (0, 0, [])
    code, _, lines = reported(rules, "--logger-aqr-bench-text", "--", "a", verbose=True)
    assert code == 0 and any("Nothing to be done" in line for line in lines)
    code, _, lines = reported(rules, "--no-such-option")
    assert code == 2 and "usage: snakemake" in lines[0] and "--no-such-option" in lines[-1]
    code, _, lines = reported("from snakemake.exceptions import WorkflowError\nraise WorkflowError('error: wrong')")
    assert code == 1 and "error: wrong" in "\n".join(lines).splitlines()


@pytest.mark.parametrize(("options", "gpus"), [([], None), (["--gpus", "2"], 2), (["--cpu"], 0)])
def test_gpus_on_the_command_line(monkeypatch, options, gpus):
    seen = []
    monkeypatch.setattr(run, "run_workflow", lambda *_, gpus, **__: seen.append(gpus) or 0)
    assert cli.main(["run", *options]) == 0 and seen == [gpus]


def test_failure_summary_ends_with_the_logs_last_line(tmp_path):
    logs = [f"logs/{i}.log" for i in range(5)]
    (tmp_path / "logs").mkdir()
    for log in logs[1:]:
        Path(tmp_path / log).write_text("trace\nValueError: x\n\n")
    text = run.failure_summary(Progress(failed_logs=logs), tmp_path)
    assert "error: the log is empty" in text and f"error: ValueError: x\n  log: {tmp_path / logs[1]}" in text
    assert "and 2 more" in text and "5 jobs failed" in text


def test_a_misspelled_world_key_is_said_before_anything_runs(tmp_path, capsys):
    text = load_tier("smoke").path.read_text().replace("frames_per_scene", "frames_per_scenes")
    tier = tmp_path / "smoke.yaml"
    tier.write_text(text)
    assert cli.main(["run", "--tier", str(tier)]) == 2
    output = capsys.readouterr().err
    assert "unknown key 'world.frames_per_scenes'; did you mean 'frames_per_scene'" in output
    assert output.count("\n") == 1 and str(tier) in output
