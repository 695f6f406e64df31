"""Progress: a live line on a terminal, plain lines elsewhere, and an estimate of the time left that learns."""

from __future__ import annotations

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

import pytest

from aqr_bench.cli.snakemake_output import Progress
from aqr_bench.cli.time_left import MINOR_S, RULES, WORKS, TimeLeft, expected_seconds, rule_of
from aqr_bench.console import duration
from aqr_bench.study.load import load_study, load_suite, load_tier

ROOT = Path(__file__).resolve().parents[1]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

SAID = """\
Provided cores: 4 (use --cores to define parallelism)
Job stats:
job              count
-------------  -------
evaluate            10
train_base           2
report               1
all                  1
total               14

Job 25: Base training, tier quick, seed 0
Job 26: Base training, tier quick, seed 1
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(threads: int = 1) -> tuple[Progress, Clock]:
    clock = Clock()
    left = TimeLeft({"train_base": 60.0, "evaluate": 30.0, "report": 15.0}, clock=clock)
    progress = Progress(threads=threads, time_left=left)
    for line in SAID.splitlines():
        progress.feed(line)
    return progress, clock


def test_time_left_adds_up_what_is_to_be_done():
    progress, clock = begun()
    # Ten evaluations in four lanes, two trainings side by side, the report.
    assert progress.time_left.seconds() == (10 * 30 / 4 + 60 + 15, True)
    clock.now = 30.0
    assert progress.time_left.seconds()[0] == 10 * 30 / 4 + 30 + 15
    clock.now = 1000.0  # longer than expected: they may end at any moment, and are not counted negative
    assert progress.time_left.seconds()[0] == 10 * 30 / 4 + 15
    assert begun(threads=2)[0].time_left.seconds()[0] == 10 * 30 / 2 + 60 + 15
    assert progress.live() == "[0/14] about 2 min left: Base training, tier quick, seed 0 and 1 more"


def test_time_left_learns_from_the_jobs_that_are_done():
    """Twice as slow as expected in training: so will be the evaluations, until they are known by themselves."""
    progress, clock = begun()
    clock.now = 120.0
    for line in (
        "Finished jobid: 25 (Rule: train_base)",
        "Finished jobid: 26 (Rule: train_base)",
        "2 of 14 steps (9%) done",
    ):
        assert progress.feed(line) is None
    assert progress.time_left.seconds()[0] == pytest.approx(10 * 60 / 4 + 15 * 2)
    assert progress.live() == "[2/14] about 3 min left: waiting for Snakemake"
    progress.feed("Job 3: Evaluating base, tier quick, seed 0, suite missing_sensors")
    clock.now = 130.0
    progress.feed("Finished jobid: 3 (Rule: evaluate)")
    assert progress.time_left.per_job("evaluate") == 10.0


def test_a_failed_job_is_no_measure_of_others_and_no_longer_at_work():
    progress, clock = begun()
    clock.now = 1.0
    for line in (
        "Error in rule train_base:",
        "    message: None",
        "    jobid: 25",
        "    log: logs/x.log (check log file(s))",
    ):
        progress.feed(line)
    assert progress.time_left.per_job("train_base") == 60.0 and list(progress.running) == [26]
    assert progress.failed_logs == ["logs/x.log"]


def test_what_is_not_known_is_said():
    left = TimeLeft({"evaluate": 100.0}, left={"evaluate": 1, "train_base": 2, "all": 1})
    assert left.in_words() == "more than 2 min left"
    assert TimeLeft({}, left={"train_base": 2}).in_words() == "time left unknown"
    assert TimeLeft({"evaluate": 100.0}, left={"evaluate": 0, "all": 1}).in_words() == "almost done"
    assert duration(89) == "89 s" and Progress().live() == "planning"


def test_every_rule_of_the_workflow_is_known_by_its_message():
    found = {}
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule, body in re.findall(r"rule (\w+):\n(.*?)shell:", file.read_text(), re.DOTALL):
            found[rule] = rule_of(re.search(r'message:\s+"([^"]+)"', body)[1])
    assert set(RULES.values()) <= set(found) and set(WORKS.values()) | set(MINOR_S) <= set(RULES.values())
    assert {rule: kind for rule, kind in found.items() if rule != kind} == {"check": "Checking that no run failed"}


def test_expected_times_are_those_of_the_tier_or_of_its_records(tmp_path):
    tier, study = load_tier("quick"), load_study("bias_site")
    expected = expected_seconds(tier, [study], [load_suite("mome")], tmp_path)
    assert expected["world"] == tier.costs["world_s"] and expected["train_base"] == 1000 * tier.costs["base_s"]
    assert set(expected) == {*WORKS.values(), *MINOR_S}
    assert set(expected_seconds(load_tier("smoke"), [], [], tmp_path)) == set(MINOR_S)


# ---------------------------------------------------------------- with a terminal and without

FAKE_SNAKEMAKE = f"""
import sys, time
for line in {SAID.splitlines()!r}:
    print(line, flush=True)
print("Something that Snakemake has never said before", flush=True)
time.sleep(float(sys.argv[1]))
print("Finished jobid: 25 (Rule: train_base)", flush=True)
print("1 of 14 steps (7%) done", flush=True)
"""
FOLLOW = """
import sys
from pathlib import Path
from aqr_bench.cli import run as launch
from aqr_bench.cli.time_left import TimeLeft
progress = launch.Progress(time_left=TimeLeft({"train_base": 60.0, "evaluate": 30.0, "report": 15.0}))
print("first", flush=True)
try:
    launch.follow([sys.executable, "fake.py", sys.argv[1]], Path.cwd(), progress, False)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
print("last", flush=True)
"""
STEPS = """
from aqr_bench.console import say, steps
for item in steps(["clean", "fog", "snow"], "suite weather"):
    say(f"{item} done")
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "fake.py").write_text(FAKE_SNAKEMAKE)
    return tmp_path


def on_terminal(
    code: str, folder: Path, *arguments: str, columns: int = 70, interrupt_after: str = ""
) -> tuple[int, str]:
    """Exit code and everything that a program writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    os.close(theirs)
    text, sent = "", False
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the terminal's other side is closed
            break
        if not piece:
            break
        text += piece.decode()
        if interrupt_after and interrupt_after in text and not sent:
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            sent = True
    os.close(ours)
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
    assert screen(text) == ["first", "Something that Snakemake has never said before", "last"]


def test_the_live_line_fits_a_narrow_terminal(folder):
    _, text = on_terminal(FOLLOW, folder, "0", columns=30)
    live = [part for part in re.split(r"[\r\n]", text) if part.startswith("[")]
    assert live and all(len(part) <= 30 for part in live)


def test_an_interrupted_live_line_leaves_neither_a_traceback_nor_a_rest(folder):
    code, text = on_terminal(FOLLOW, folder, "30", interrupt_after="Base training")
    assert code == 130 and "Traceback" not in text
    assert screen(text) == ["first", "Something that Snakemake has never said before", "interrupted"]


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
                "Something that Snakemake has never said before",
                "last",
            ],
        ),
        (STEPS, [], ["clean done", "fog done", "snow done"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.stdout.splitlines() == lines and not done.stderr and not CONTROL.search(done.stdout)


def test_a_long_step_shows_where_it_is_and_what_it_says_stays(folder):
    code, text = on_terminal(STEPS, folder)
    assert code == 0 and "suite weather: 1/3, fog [" in text
    assert screen(text) == ["clean done", "fog done", "snow done"]


def test_a_dumb_terminal_gets_plain_lines(folder):
    code, text = on_terminal(f"import os; os.environ['TERM'] = 'dumb'\n{STEPS}", folder)
    assert code == 0 and text.splitlines() == ["clean done", "fog done", "snow done"]
