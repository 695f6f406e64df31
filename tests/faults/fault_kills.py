"""SIGKILL and SIGTERM at random moments of each stage and of the whole run; then the same command to its end.

Moments are drawn by processor time, which a busy machine does not stretch, from that of the undisturbed stage. Later
ones are likelier: half of a short stage goes by with imports.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

from fault_processes import Done, Process, kill_all, left_running
from fault_stages import STAGES, Reference, Trial
from fault_table import Row

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
KILLS, RUN_KILLS = 3, 6  # one after the other, before a stage, or the workflow, may end
PROMISE = "no half-written file taken for a whole one; the same command goes on and gives the same, bit for bit"
RUN_PROMISE = "no job lives on; the same command goes on and gives the same, bit for bit"


def _disturbed(trial: Trial, moment_s: float, strike: Callable[[Process], object]) -> tuple[Done, bool]:
    """Run, and strike after so many seconds of processor time: how it ended, and whether it was alive then."""
    struck = []

    def meanwhile(process: Process, spent: float) -> bool:
        if spent < moment_s or process.poll() is not None:
            return False
        strike(process)
        struck.append(spent)
        return True

    done = trial.run(meanwhile)
    trial.note(left_running(trial.folder))
    trial.expect_nothing_half_written()
    return done, bool(struck)


def _litter(trial: Trial) -> str:
    """How many temporary files lie about, for the table; they are no results, and no fault."""
    count = len(list(trial.path().rglob("*.tmp")))
    return f"; {count} temporary files left behind" if count else ""


def kill_stage(name: str, signal_name: str, kills: int = KILLS) -> Callable[[Reference], Row]:
    """A case: one stage is killed so many times, and then run to its end."""
    number = SIGNALS[signal_name]

    def case(reference: Reference) -> Row:
        generator, trial = random.Random(f"{name} {signal_name}"), reference.before(name)
        ended, moments = 0, []
        while len(moments) < kills and ended < 3 * kills:
            fraction = 0.03 + 0.95 * max(generator.random(), generator.random())
            moment = fraction * reference.cpu_s[name]
            done, alive = _disturbed(trial, moment, lambda process: os.kill(process.pid, number))
            if not alive or done.code >= 0:  # it had ended; what it made goes, so that the next try can be killed
                ended += 1
                trial.remove(*STAGES[name].makes)
                continue
            moments.append(f"{100 * fraction:.0f} %")
            trial.note(done.not_ended_with(-number))
        trial.resumes()
        trial.expect(len(moments) == kills, f"only {len(moments)} of {kills} kills came in time")
        fine = f"the same after kills at {', '.join(moments)} of its time" + _litter(trial)
        return trial.row(signal_name, PROMISE, fine, tries=len(moments), ended=ended)

    return case


def kill_run(reference: Reference) -> Row:
    """The workflow with its last jobs to do, killed by SIGKILL to all of it, as when a machine dies, or by SIGTERM.

    From the first job on it is tests/end_to_end/test_killed.py that kills it.
    """
    last = ("variant", "evaluate", "report")
    generator, trial = random.Random("run"), reference.nearly_done(*last)
    latest = 20.0 + sum(reference.cpu_s[name] for name in last) / 2  # a start of Snakemake and of a job are the 20 s
    ended, moments = 0, []
    for number in range(RUN_KILLS):
        moment = generator.uniform(4.0, latest)
        if number % 2 == 0:
            done, _ = _disturbed(trial, moment, lambda process: kill_all(process.pid, trial.folder))
            expected = (-signal.SIGKILL,)
        else:
            done, _ = _disturbed(trial, moment, lambda process: os.kill(process.pid, signal.SIGTERM))
            # SIGTERM while nothing is at work, before the first job or after the last, ends the command at once.
            expected = (130, -signal.SIGTERM)
        if done.code == 0:
            ended += 1
            continue
        moments.append(f"{moment:.0f} s")
        trial.note(done.not_ended_with(*expected))
    trial.resumes()
    trial.expect(len(moments) >= RUN_KILLS - 1, f"only {len(moments)} of {RUN_KILLS} kills came in time")
    fine = f"the same in all {len(STAGES)} stages after kills at {', '.join(moments)}{_litter(trial)}"
    return trial.row("SIGKILL, SIGTERM", RUN_PROMISE, fine, tries=len(moments), ended=ended)


KILL_CASES = {f"{kind}_{name}": kill_stage(name, kind) for kind in SIGNALS for name in STAGES} | {"kill_run": kill_run}
