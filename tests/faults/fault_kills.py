"""SIGKILL and SIGTERM at random moments of each stage and of the whole run; then the same command to its end.

Moments are drawn by processor time, which a busy machine does not stretch, from that of the undisturbed stage. Later
ones are likelier: half of a short stage goes by with imports.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from fault_processes import run
from fault_stages import RESULTS, RUN, STAGES, Place, Stage, difference, half_written, outcome, remove
from fault_table import Row, verdict

from aqr_bench.cli.run import workers_in

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
KILLS = 3  # of one kind, one after the other, before a stage may end
PATIENCE_S = 60  # for worker processes to follow their parent
PROMISE = "no half-written file taken for a whole one; the same command goes on and gives the same, bit for bit"
RUN_PROMISE = "no job lives on; the same command goes on and gives the same, bit for bit"


def kill_stage(name: str, signal_name: str, kills: int = KILLS) -> Callable[[Place], Row]:
    """A case: one stage is killed so many times, and then run to its end."""

    def case(place: Place) -> Row:
        stage, generator = STAGES[name], random.Random(f"{name} {signal_name}")
        folder = place.before(stage, f"kill_{name}_{signal_name}")
        killed, ended, problems, moments = 0, 0, [], []
        while killed < kills and ended < 3 * kills:
            fraction = 0.03 + 0.95 * max(generator.random(), generator.random())
            alive, code = _killed_at(folder, stage, SIGNALS[signal_name], fraction * place.cpu_s[name])
            problems.append(half_written(folder, stage, place.expected[name]))
            problems.append(_left_running(folder))
            if not alive:
                ended += 1
                _undo(folder, stage)
                continue
            killed += 1
            moments.append(f"{100 * fraction:.0f} %")
            if code != -SIGNALS[signal_name]:
                problems.append(f"exit code {code} after {signal_name}")
        done = run(folder, stage.command)
        if done.code:
            problems.append(f"the next call ended with {done.code}: {done.last_line[:160]}")
        problems.append(difference(outcome(folder, stage), place.expected[name]))
        if killed < kills:
            problems.append(f"only {killed} of {kills} kills came in time")
        fine = f"the same after kills at {', '.join(moments)} of its time" + _litter(folder)
        return Row(signal_name, name, PROMISE, *verdict(problems, fine), tries=killed, ended=ended)

    return case


def kill_run(place: Place, kills: int = 6) -> Row:
    """The workflow with its last jobs to do, killed by SIGKILL to all of it, as when a machine dies, or by SIGTERM.

    From the first job on it is tests/end_to_end/test_killed.py that kills it.
    """
    last = ("variant", "evaluate", "report")
    generator, folder = random.Random("run"), place.nearly_done("kill_run", last)
    most = 20.0 + sum(place.cpu_s[name] for name in last) / 2  # a start of Snakemake and of a job are the 20 s
    killed, ended, problems, moments = 0, 0, [], []
    for number in range(kills):
        hard = number % 2 == 0
        moment = generator.uniform(4.0, most)

        def strike(process: subprocess.Popen, spent: float, hard: bool = hard, moment: float = moment) -> bool:
            if spent < moment:
                return False
            _kill_all(process, folder) if hard else process.send_signal(signal.SIGTERM)
            return True

        done = run(folder, RUN, strike)
        # SIGTERM while nothing is at work, before the first job or after the last, ends the command at once.
        expected = (-signal.SIGKILL,) if hard else (130, -signal.SIGTERM)
        if done.code == 0:
            ended += 1
            continue
        killed += 1
        moments.append(f"{moment:.0f} s")
        if done.code not in expected:
            problems.append(f"exit code {done.code}, not of {expected}: {done.last_line[:160]}")
        problems.append(_left_running(folder))
        problems += [half_written(folder, stage, place.expected[name]) for name, stage in STAGES.items()]
    done = run(folder, RUN)
    if done.code:
        problems.append(f"the next call ended with {done.code}: {done.last_line[:160]}")
    problems += [difference(outcome(folder, stage), place.expected[name]) for name, stage in STAGES.items()]
    problems.append(None if killed >= kills - 1 else f"only {killed} of {kills} kills came in time")
    seen, kept = verdict(
        problems, f"the same in all {len(STAGES)} stages after kills at {', '.join(moments)}{_litter(folder)}"
    )
    return Row("SIGKILL, SIGTERM", "aqr-bench run", RUN_PROMISE, seen, kept, tries=killed, ended=ended)


def _killed_at(folder: Path, stage: Stage, number: int, moment_s: float) -> tuple[bool, int]:
    """Run a stage and kill it after so many seconds of processor time: whether it was alive then, and its exit code."""
    struck = []

    def strike(process: subprocess.Popen, spent: float) -> bool:
        if spent < moment_s or process.poll() is not None:
            return False
        os.kill(process.pid, number)
        struck.append(spent)
        return True

    done = run(folder, stage.command, strike)
    return bool(struck) and done.code < 0, done.code


def _kill_all(process: subprocess.Popen, folder: Path) -> None:
    """SIGKILL for the command, for Snakemake and its jobs, also for a job that is born while the others die."""
    family = psutil.Process(process.pid).children(recursive=True)
    for pid in [process.pid, *(child.pid for child in family), *(pid for pid, _ in workers_in(folder))]:
        _kill(pid)
    until = time.monotonic() + PATIENCE_S
    while (workers := workers_in(folder)) and time.monotonic() < until:
        for pid, _ in workers:
            _kill(pid)
        time.sleep(0.1)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _left_running(folder: Path) -> str | None:
    """Processes that still work in a folder when their parent has been gone for a while."""
    until = time.monotonic() + PATIENCE_S
    while (found := _working_in(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    return f"still running after {PATIENCE_S} s: {', '.join(found)}" if found else None


def _working_in(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder.resolve() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except (psutil.Error, OSError):
            continue
    return found


def _undo(folder: Path, stage: Stage) -> None:
    """The stage had ended: what it made goes, so that the next try has something to kill."""
    for piece in stage.makes:
        remove(folder / RESULTS / piece)


def _litter(folder: Path) -> str:
    """How many temporary files lie about, for the table; they are no results, and no fault."""
    count = len(list((folder / RESULTS).rglob("*.tmp")))
    return f"; {count} temporary files left behind" if count else ""
