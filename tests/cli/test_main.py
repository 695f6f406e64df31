"""The aqr-bench command, and how it reads Snakemake's output."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from aqr_bench.cli import main as cli
from aqr_bench.cli import run as launch
from aqr_bench.cli.snakemake_output import Progress
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.requirements import disk_needed


def test_help_is_quick_and_names_every_command():
    # Quick is what loads nothing heavy: a time would depend on the machine.
    heavy = ("torch", "mmengine", "mmdet3d", "nuscenes", "pandas", "numpy", "snakemake", "matplotlib", "yaml")
    code = (
        "import sys; from aqr_bench.cli.main import main\n"
        "try: main(['--help'])\n"
        f"finally: print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in ("run", *cli.STEPS))
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_step_gets_its_arguments_and_its_result_is_returned(monkeypatch):
    seen = []
    fake = types.SimpleNamespace(main=lambda argv: seen.append(argv) or 7)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake if name == "aqr_bench.engine.train" else None)
    assert cli.main(["train", "--help", "--seed", "1"]) == 7
    assert seen == [["--help", "--seed", "1"]]


def test_mistakes_are_one_line_and_exit_2(capsys):
    assert cli.main(["run", "--tier", "quik"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown tier 'quik'; did you mean 'quick'?") and said.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--cores", "0"])
    assert stop.value.code == 2


def test_interruption_is_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launch", interrupted)
    assert cli.main(["run"]) == 130
    assert "resumes from here" in capsys.readouterr().err


def test_too_little_disk_is_said_up_front(monkeypatch):
    monkeypatch.setattr(launch, "disk_needed", lambda *_: 10**18)
    monkeypatch.setattr(launch, "follow", lambda *_: pytest.fail("started"))
    with pytest.raises(UserError, match="tier smoke needs 1000000000"):
        launch.launch("smoke", ["smoke"], None, True, False, False)


def test_disk_grows_with_world_and_runs():
    smoke, quick = load_tier("smoke"), load_tier("quick")
    assert disk_needed(smoke, [load_study("smoke")]) < disk_needed(quick, [load_study("bias_site")])


SNAKEMAKE = """\
Assuming unrestricted shared filesystem usage.
Building DAG of jobs...
Job stats:
job              count
-------------  -------
evaluate            10
total               27

Select jobs to execute...
[Mon Nov 23 18:12:08 2026]
Job 25: Evaluating base, tier quick
error: the disk is on fire
RuleException:
Error in rule evaluate:
    message: None
    log: logs/quick/evaluate.log (check log file(s) for error details)
    shell:
        aqr-bench evaluate
Something that Snakemake has never said before
3 of 27 steps (11%) done
Job 26: Report
"""


def test_progress_keeps_what_matters_and_everything_unknown():
    progress = Progress()
    shown = [line for line in map(progress.feed, SNAKEMAKE.splitlines()) if line is not None]
    assert shown == [
        "[0/27] Evaluating base, tier quick",
        "error: the disk is on fire",
        "Something that Snakemake has never said before",
        "[3/27] Report",
    ]
    assert progress.failed_logs == ["logs/quick/evaluate.log"] and not progress.nothing_to_do
    assert progress.feed("Nothing to be done (all requested files are present)") is None and progress.nothing_to_do


def test_jobs_side_by_side_are_as_many_as_cores_and_gpus_allow():
    progress = Progress(threads=2)
    progress.feed("Provided cores: 16")
    assert progress.time_left.lanes == 8
    assert progress.feed('Provided resources: gpu=Resource("gpu", 3)') is None and progress.time_left.lanes == 3


@pytest.mark.parametrize(("options", "gpus"), [([], None), (["--gpus", "2"], 2), (["--cpu"], 0)])
def test_gpus_on_the_command_line(monkeypatch, options, gpus):
    seen = []
    monkeypatch.setattr(launch, "launch", lambda *_, gpus: seen.append(gpus) or 0)
    assert cli.main(["run", *options]) == 0 and seen == [gpus]


def test_failure_summary_ends_with_the_logs_last_line(tmp_path):
    logs = [f"logs/{i}.log" for i in range(5)]
    (tmp_path / "logs").mkdir()
    for log in logs[1:]:
        Path(tmp_path / log).write_text("trace\nValueError: x\n\n")
    text = launch.failure_summary(Progress(failed_logs=logs), tmp_path)
    assert "error: the log is empty" in text and f"error: ValueError: x\n  log: {tmp_path / logs[1]}" in text
    assert "and 2 more" in text and "5 jobs failed" in text


def test_lock_is_held_by_one_and_freed(tmp_path):
    refused = pytest.raises(UserError, match="another run is at work")
    with launch.only_workflow_in(tmp_path), refused, launch.only_workflow_in(tmp_path):
        pytest.fail("two at once")
    with launch.only_workflow_in(tmp_path):
        assert launch.clear_stale_lock(tmp_path) is False


def test_a_job_left_running_is_noticed(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "-m", "aqr_bench", "train"], cwd=tmp_path
    )
    try:
        assert launch.workers_in(tmp_path) == [(job.pid, "aqr-bench train")]
        with (
            pytest.raises(UserError, match=f"aqr-bench train as process {job.pid}"),
            launch.only_workflow_in(tmp_path),
        ):
            pytest.fail("ran beside it")
    finally:
        job.kill()
        job.wait()
    assert launch.workers_in(tmp_path) == []


def test_a_misspelled_world_key_is_said_before_anything_runs(tmp_path, capsys):
    text = load_tier("smoke").path.read_text().replace("frames_per_scene", "frames_per_scenes")
    tier = tmp_path / "smoke.yaml"
    tier.write_text(text)
    assert cli.main(["run", "--tier", str(tier)]) == 2
    said = capsys.readouterr().err
    assert "unknown key 'world.frames_per_scenes'; did you mean 'frames_per_scene'" in said
    assert said.count("\n") == 1 and str(tier) in said
