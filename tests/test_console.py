"""Progress: a live line on a terminal, plain lines elsewhere, and an estimate of the time left that learns."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import numpy as np
import pytest

from aqr_bench.cli.estimate import job_groups
from aqr_bench.cli.progress import EXCLUSIVE, MINOR_S, Progress, TimeLeft, expected_seconds
from aqr_bench.cli.snakemake_events import RECORD_SEPARATOR
from aqr_bench.console import LiveLine, duration, hide_progress, print_json, print_line, print_progress, steps
from aqr_bench.study.load import load_study, load_suite, load_tier

ROOT = Path(__file__).resolve().parents[1]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def event(name: str, **facts) -> str:
    """A line of aqr_bench.cli.snakemake_events."""
    return RECORD_SEPARATOR + json.dumps({"event": name, "text": "", **facts})


def started(job: int, rule: str, message: str | None) -> str:
    return event("start", job=job, rule=rule, message=message)


OUTPUT = [
    event("cores", count=4),
    event("jobs", count={"evaluate": 10, "train_base": 2, "report": 1, "all": 1}),
    started(25, "train_base", "Base training, tier quick, seed 0"),
    started(26, "train_base", "Base training, tier quick, seed 1"),
]


def test_json_holds_no_number_that_json_lacks(capsys):
    facts = {"nan": math.nan, "numpy": np.float64(0.5), 2: [math.inf, {"path": Path("a/b")}], "bool": True}
    print_json(facts)
    assert json.loads(capsys.readouterr().out) == {
        "nan": None, "numpy": 0.5, "2": [None, {"path": "a/b"}], "bool": True,
    }  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(threads: int = 1, gpus: int = 0) -> tuple[Progress, Clock]:
    clock = Clock()
    left = TimeLeft({"train_base": 60.0, "evaluate": 30.0, "report": 15.0}, clock=clock)
    progress = Progress(threads=threads, gpus=gpus, time_left=left)
    for line in OUTPUT:
        progress.feed(line)
    return progress, clock


def test_time_left_adds_up_what_is_to_be_done():
    progress, clock = begun()
    # Ten evaluations, four at once, two trainings at once, the report.
    assert progress.time_left.seconds() == (10 * 30 / 4 + 60 + 15, True)
    clock.now = 30.0
    assert progress.time_left.seconds()[0] == 10 * 30 / 4 + 30 + 15
    clock.now = 1000.0  # longer than expected: they may end at any moment, and are not counted negative
    assert progress.time_left.seconds()[0] == 10 * 30 / 4 + 15
    assert begun(threads=2)[0].time_left.seconds()[0] == 10 * 30 / 2 + 60 + 15
    assert progress.status() == "[0/14] about 2 min left: Base training, tier quick, seed 0 and 1 more"


def test_jobs_in_parallel_are_as_many_as_cores_and_gpus_allow():
    assert begun(threads=2)[0].time_left.parallel_jobs == 2
    assert begun(gpus=3)[0].time_left.parallel_jobs == 3 and begun(gpus=8)[0].time_left.parallel_jobs == 4


def test_time_left_learns_from_the_jobs_that_are_done():
    """Twice as slow as expected in training: so will be the evaluations, until they are known by themselves."""
    progress, clock = begun()
    clock.now = 120.0
    for line in (event("finish", job=25), event("finish", job=26), event("progress", done=2, total=14)):
        assert progress.feed(line) is None
    assert progress.time_left.seconds()[0] == pytest.approx(10 * 60 / 4 + 15 * 2)
    assert progress.status() == "[2/14] about 3 min left: waiting for Snakemake"
    progress.feed(started(3, "evaluate", "Evaluating base, tier quick, seed 0, suite missing_sensors"))
    clock.now = 130.0
    progress.feed(event("finish", job=3))
    assert progress.time_left.per_job("evaluate") == 10.0


def test_a_failed_job_is_no_measure_of_others_and_no_longer_at_work():
    progress, clock = begun()
    clock.now = 1.0
    progress.feed(event("failure", job=25, logs=["logs/x.log"]))
    assert progress.time_left.per_job("train_base") == 60.0 and list(progress.running) == [26]
    assert progress.failed_logs == ["logs/x.log"]


def test_what_is_not_known_is_said():
    left = TimeLeft({"evaluate": 100.0}, remaining={"evaluate": 1, "train_base": 2, "all": 1})
    assert str(left) == "more than 2 min left"
    assert str(TimeLeft({}, remaining={"train_base": 2})) == "time left unknown"
    assert str(TimeLeft({"evaluate": 100.0}, remaining={"evaluate": 0, "all": 1})) == "almost done"
    assert duration(89) == "89 s" and Progress().status() == "planning"


def test_every_rule_that_times_are_known_of_is_one_of_the_workflow(tmp_path):
    text = "".join(file.read_text() for file in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules = set(re.findall(r"rule (\w+):", text))
    assert {group.rule for group in job_groups(load_tier("quick"), [])} | set(MINOR_S) | set(EXCLUSIVE) <= rules


def test_expected_times_are_those_of_the_tier_or_of_its_records(tmp_path):
    tier, study = load_tier("quick_prior"), load_study("bias_site")
    expected = expected_seconds(tier, [study], [load_suite("mome")], tmp_path)
    assert expected["world"] == tier.costs["world_s"] and expected["train_base"] == 1000 * tier.costs["base_s"]
    assert set(expected) == {group.rule for group in job_groups(tier, [study])} | set(MINOR_S)
    assert set(expected_seconds(load_tier("smoke"), [], [], tmp_path)) == set(MINOR_S)


# ---------------------------------------------------------------- with a terminal and without

FAKE_SNAKEMAKE = f"""
import sys, time
for line in {OUTPUT!r}:
    print(line, flush=True)
print("Something that a job prints", flush=True)
time.sleep(float(sys.argv[1]))
print({event("finish", job=25)!r}, flush=True)
print({event("progress", done=1, total=14)!r}, flush=True)
"""
FOLLOW = """
import sys
from pathlib import Path
from aqr_bench.cli.run import is_terminal, run_snakemake
from aqr_bench.cli.progress import Progress, TimeLeft
left = TimeLeft({"train_base": 60.0, "evaluate": 30.0, "report": 15.0})
progress = Progress(announce=not is_terminal(sys.stdout), time_left=left)
print("first", flush=True)
try:
    run_snakemake([sys.executable, "fake.py", sys.argv[1]], Path.cwd(), progress)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
print("last", flush=True)
"""
STEPS = """
from aqr_bench.console import print_line, steps
for item in steps(["clean", "fog", "snow"], "suite weather"):
    print_line(f"{item} done")
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "fake.py").write_text(FAKE_SNAKEMAKE)
    return tmp_path


def on_terminal(
    code: str, folder: Path, *arguments: str, columns: int = 70, interrupt_after: str = ""
) -> tuple[int, str]:
    """Exit code and everything that a program writes to a terminal of so many columns."""
    master, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    os.close(terminal)
    text, sent = "", False
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # the terminal's other side is closed
            break
        if not piece:
            break
        text += piece.decode()
        if interrupt_after and interrupt_after in text and not sent:
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            sent = True
    os.close(master)
    return process.wait(timeout=60), text


def screen(text: str) -> list[str]:
    """What stands on the terminal in the end: a carriage return goes back to the line's start, ESC [A one line up."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[\w|[\r\n]|[^\x1b\r\n]+", text):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\x1b[A":
            row -= 1
        else:
            assert not token.startswith("\x1b"), f"a control sequence that is not expected: {token!r}"
            old = lines[row].ljust(column)
            lines[row] = old[:column] + token + old[column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_gets_one_live_line_that_goes_away(folder):
    code, text = on_terminal(FOLLOW, folder, "1.5")
    assert code == 0
    assert "\r[0/14] about 2 min left: Base training, tier quick, seed 0 and 1 more" in text
    assert screen(text) == ["first", "Something that a job prints", "last"]


def test_the_live_line_fits_a_narrow_terminal(folder):
    _, text = on_terminal(FOLLOW, folder, "0", columns=30)
    live = [part for part in re.split(r"[\r\n]", text) if part.startswith("[")]
    assert live and all(len(part) <= 30 for part in live)


def test_an_interrupted_live_line_leaves_neither_a_traceback_nor_a_rest(folder):
    code, text = on_terminal(FOLLOW, folder, "30", interrupt_after="Base training")
    assert code == 130 and "Traceback" not in text
    assert screen(text) == ["first", "Something that a job prints", "interrupted"]


def test_without_a_terminal_there_are_plain_lines(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for code, arguments, lines in (
        (
            FOLLOW,
            ["0"],
            [
                "first",
                "[0/14] Base training, tier quick, seed 0",
                "[0/14] Base training, tier quick, seed 1",
                "Something that a job prints",
                "last",
            ],
        ),
        (STEPS, [], ["clean done", "fog done", "snow done"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.stdout.splitlines() == lines and not done.stderr and not CONTROL.search(done.stdout)


def test_a_long_step_shows_its_progress_and_its_lines_stay(folder):
    code, text = on_terminal(STEPS, folder)
    assert code == 0 and "suite weather: 1/3, fog [" in text
    assert screen(text) == ["clean done", "fog done", "snow done"]


def test_hidden_progress_leaves_results_and_warnings(monkeypatch, capsys):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert LiveLine(str).live
    with hide_progress():
        assert list(steps(["clean", "fog"], "suite weather")) == ["clean", "fog"] and not LiveLine(str).live
        print_progress("1 of 2")
        with hide_progress(False):
            print_progress("2 of 2")
        print_line("warning: snow is empty")
    output = capsys.readouterr()
    assert output.out.splitlines() == ["2 of 2", "warning: snow is empty"] and "suite weather" not in output.err


def test_a_dumb_terminal_gets_plain_lines(folder):
    code, text = on_terminal(f"import os; os.environ['TERM'] = 'dumb'\n{STEPS}", folder)
    assert code == 0 and text.splitlines() == ["clean done", "fog done", "snow done"]
