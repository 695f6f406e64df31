"""Two workflows at once, clocks that jump, workers that die, losses that are no numbers, memory that runs out."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from fault_processes import Done, Process, run
from fault_stages import RESULTS, RUN, STAGES, TRAINING, TRAINING_WORK, Reference, Trial
from fault_table import SKIPPED, Row

from aqr_bench.records.record import read_run

DAY_S = 86_400
FAULTY = str(Path(__file__).with_name("faulty.py"))


def two_runs(reference: Reference) -> Row:
    """A second workflow is started in the folder three seconds after the first one."""
    trial, second, began = reference.nearly_done("report"), [], time.monotonic()
    link = trial.folder.with_name("two_runs_second")
    link.unlink(missing_ok=True)
    link.symlink_to(trial.folder)  # its output is not that of the first

    def start_another(_process: Process, _spent: float) -> bool:
        if time.monotonic() >= began + 3:
            second.append(run(link, RUN))
        return bool(second)

    first = trial.run(start_another)
    other = second[0] if second else Done(0, "the first had ended already", 0.0)
    trial.note(other.not_refused("another run is at work in"), first.not_ended_with(0))
    trial.expect_same()
    promise = "the second ends with exit code 2 and says who is at work; the first is not disturbed"
    message = other.message.replace(f"{trial.folder.parent}/", "")
    return trial.row("two workflows at once", promise, f"'{message}'; the first came to its end")


# ---------------------------------------------------------------- clocks


def faketime() -> Path | None:
    """The library that shows a process another time, where it is installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def clock_jumps_back(reference: Reference) -> Row:
    """Half through a training, the clock goes back by a day."""
    fault, library = "clock jumps back a day", faketime()
    promise = "the same result; times of the record are the clock's, its cost in seconds is not"
    if library is None:
        return Row(fault, TRAINING, promise, "faketime is not installed", SKIPPED, tries=0)
    trial, clock = reference.before(TRAINING), reference.root / "clock"
    clock.write_text("+0d\n")

    def jump(_process: Process, _spent: float) -> bool:
        return bool(list(trial.path(TRAINING_WORK).glob("iter_*.pth"))) and bool(clock.write_text("-1d\n"))

    # Read anew at every look at the clock: what is left of the training may take less than a second.
    settings = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    done = trial.run(jump, LD_PRELOAD=str(library), FAKETIME_DONT_FAKE_MONOTONIC="1", **settings)
    trial.note(done.not_ended_with(0))
    for record in trial.records():
        times = record.provenance["started"], record.provenance["finished"]
        trial.expect(times[1] < times[0], f"the clock did not jump: {times}")
        trial.expect(0 < record.cost["wall_s"] < 3600, f"wall_s is {record.cost['wall_s']}")
    trial.expect_same()
    return trial.row(fault, promise, "the same; the record ends a day before it began, its wall_s is right")


def run_yesterday(reference: Reference) -> Row:
    """The run goes on with a clock that is a day behind: what it makes is older than what it is made from."""
    fault, library = "clock set back a day", faketime()
    promise = "comes to its end with the same result, or one line says what is wrong with the times"
    if library is None:
        return Row(fault, "aqr-bench run", promise, "faketime is not installed", SKIPPED, tries=0)
    trial = reference.nearly_done("evaluate", "report")
    done = trial.run(None, LD_PRELOAD=str(library), FAKETIME="-1d", FAKETIME_DONT_FAKE_MONOTONIC="1")
    again = trial.resumes()
    trial.expect("Traceback" not in done.text, "a traceback")
    fine = f"exit code {done.code} ('{_times(done)}'), then with the right clock {again.code}; the same in the end"
    return trial.row(fault, promise, fine)


def files_from_tomorrow(reference: Reference) -> Row:
    """All files are dated a day ahead, as after a night with a wrong clock; the report is still to be made."""
    trial = reference.nearly_done("report")
    for file in [*trial.folder.rglob("*")]:
        os.utime(file, (time.time() + DAY_S, time.time() + DAY_S), follow_symlinks=False)
    done = trial.run()
    trial.expect("Traceback" not in done.text, "a traceback")
    fine = "came to its end; the same"
    if done.code == 0:
        trial.expect_same()
    else:
        fine = f"exit code {done.code}, '{_times(done)}'"
        trial.expect("modification time" in done.text, f"the times are not named: {_times(done) or 'no message'}")
    promise = "comes to its end with the same result, or a message names the files and their times"
    return trial.row("files dated a day ahead", promise, fine)


def _times(done: Done) -> str:
    """The first lines of a workflow about errors and times."""
    words = ("error:", "modification time")
    return "; ".join(line.strip() for line in done.text.splitlines() if any(w in line for w in words))[:200]


# ---------------------------------------------------------------- processes, numbers, memory


def world_worker(reference: Reference) -> Row:
    """A process that writes scenes of the world is killed."""
    trial, struck = reference.before("world"), []

    def strike(process: Process, spent: float) -> bool:
        for child in psutil.Process(process.pid).children() if spent >= 0.5 * reference.cpu_s["world"] else ():
            if "spawn_main" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                struck.append(child.pid)
                break
        return bool(struck)

    done = trial.run(strike)
    trial.expect(struck, "no worker was there to be killed")
    trial.note(done.not_refused("a worker process was killed"))
    trial.expect(not trial.done_file.is_file(), "world.json was written")
    trial.resumes()
    promise = "exit code 2 and one line; finished scenes are kept; the same command goes on and gives the same"
    return trial.row("worker process killed", promise, f"'{done.message[:160]}'; then the same")


def loader_worker(reference: Reference) -> Row:
    """A process that loads samples for an evaluation is killed, in the first of three conditions."""
    trial = reference.before("evaluate")
    trial.change_tier(lambda tier: tier["variant"]["config"].update({"test_dataloader.num_workers": 1}))
    done = trial.run(None, FAULTY, "--kill-worker-at", "2")
    trial.expect("fault: a worker" in done.text, "no worker was killed")
    trial.note(done.not_ended_with(0))
    for record, usual in zip(trial.records(), _undisturbed(trial), strict=False):
        if record.condition == "clean":
            expected = record.status == "failed" and "worker" in (record.reason or "")
        else:
            expected = (record.status, record.scores) == (usual.status, usual.scores)
        trial.expect(expected, f"{record.condition} is {record.status}: {record.reason}")
    trial.expect(len(trial.records()) == 3, f"{len(trial.records())} records, not three")
    promise = "that condition is recorded as failed and says why; the others have their scores"
    return trial.row("worker process killed", promise, f"'{trial.reason()[:160]}'; the others as ever")


def _undisturbed(trial: Trial) -> list:
    return read_run(trial.reference.folder / RESULTS / STAGES[trial.stage].done)


def nan_loss(reference: Reference) -> Row:
    """From the fourth iteration on, the loss is NaN."""
    trial = reference.before(TRAINING)
    done = trial.run(None, FAULTY, "--nan-at", "4")
    return _one_record(trial, done, "NaN loss from iteration 4", "diverged", "loss is nan at iteration 4")


def out_of_memory(reference: Reference) -> Row:
    """A limit on memory that a training cannot keep to."""
    trial = reference.before("base")
    trial.change_tier(lambda tier: tier.update(memory_limit_mb=300))
    return _one_record(trial, trial.run(), "out of memory", "oom", "(memory limit 300 MB)")


def _one_record(trial: Trial, done: Done, fault: str, status: str, words: str) -> Row:
    trial.note(done.not_ended_with(0))
    statuses = [record.status for record in trial.records()]
    trial.expect(statuses == [status], f"the record says {statuses}")
    trial.expect(words in trial.reason(), f"the reason is '{trial.reason()}'")
    trial.expect(not trial.path(STAGES[trial.stage].compared[0]).exists(), "a final checkpoint was written")
    promise = f"a record with status {status} that says why, no final checkpoint, exit code 0: others go on"
    return trial.row(fault, promise, f"'{trial.reason()[:160]}'")


OTHER_CASES = {
    case.__name__: case
    for case in (two_runs, clock_jumps_back, run_yesterday, files_from_tomorrow,
                 world_worker, loader_worker, nan_loss, out_of_memory)
}  # fmt: skip
