"""Two workflows at once, clocks that jump, workers that die, losses that are no numbers, memory that runs out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import yaml
from fault_processes import Done, run
from fault_stages import RESULTS, RUN, STAGES, TIER, TRAINING, TRAINING_WORK, Place, difference, outcome
from fault_table import SKIPPED, Row, verdict

from aqr_bench.records.record import read_run

DAY_S = 86_400
FAULTY = str(Path(__file__).with_name("faulty.py"))


def all_the_same(place: Place, folder: Path) -> list[str | None]:
    """Problems of a folder in which the whole run should have come to its end."""
    return [difference(outcome(folder, stage), place.expected[name]) for name, stage in STAGES.items()]


def two_runs(place: Place) -> Row:
    """A second workflow is started in the folder three seconds after the first one."""
    folder, second, began = place.nearly_done("two_runs", ("report",)), [], time.monotonic()

    def start_another(_process: subprocess.Popen, _spent: float) -> bool:
        if time.monotonic() < began + 3:
            return False
        with contextlib.suppress(FileExistsError):
            (folder.parent / "two_runs_second").symlink_to(folder)
        second.append(run(folder.parent / "two_runs_second", RUN))
        return True

    first = run(folder, RUN, start_another)
    told = second[0] if second else Done(0, "the first had ended already", 0.0)
    problems = [
        told.refused("another run is at work in"),
        f"the first ended with {first.code}: {first.last_line[:160]}" if first.code else None,
        *all_the_same(place, folder),
    ]
    promise = "the second ends with exit code 2 and says who is at work; the first is not disturbed"
    fine = f"'{told.told.replace(str(folder.parent) + '/', '')}'; the first came to its end"
    return Row("two workflows at once", "aqr-bench run", promise, *verdict(problems, fine))


# ---------------------------------------------------------------- clocks


def faketime() -> Path | None:
    """The library that shows a process another time, where it is installed."""
    places = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return places[0] if places else None


def clock_jumps_back(place: Place) -> Row:
    """Half through a training, the clock goes back by a day."""
    library, promise = faketime(), "the same result; times of the record are the clock's, its cost in seconds is not"
    if library is None:
        return Row("clock jumps back a day", TRAINING, promise, "faketime is not installed", SKIPPED, tries=0)
    stage = STAGES[TRAINING]
    folder, clock = place.before(stage, "clock_back"), place.root / "clock"
    clock.write_text("+0d\n")

    def jump(_process: subprocess.Popen, _spent: float) -> bool:
        if not list((folder / RESULTS / TRAINING_WORK).glob("iter_*.pth")):
            return False
        clock.write_text("-1d\n")
        return True

    # Read anew at every look at the clock: what is left of the training may take less than a second.
    settings = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    done = run(folder, stage.command, jump, LD_PRELOAD=str(library), FAKETIME_DONT_FAKE_MONOTONIC="1", **settings)
    problems = [f"exit code {done.code}: {done.last_line[:160]}" if done.code else None]
    if done.code == 0:
        record = read_run(folder / RESULTS / stage.done)[0]
        times = record.provenance["started"], record.provenance["finished"]
        problems.append(None if times[1] < times[0] else f"the clock did not jump: {times}")
        problems.append(None if 0 < record.cost["wall_s"] < 3600 else f"wall_s is {record.cost['wall_s']}")
    problems.append(difference(outcome(folder, stage), place.expected[TRAINING]))
    fine = "the same; the record ends a day before it began, its wall_s is right"
    return Row("clock jumps back a day", TRAINING, promise, *verdict(problems, fine))


def run_yesterday(place: Place) -> Row:
    """The run goes on with a clock that is a day behind: what it makes is older than what it is made from."""
    library, promise = (
        faketime(),
        "comes to its end with the same result, or one line says what is wrong with the times",
    )
    if library is None:
        return Row("clock set back a day", "aqr-bench run", promise, "faketime is not installed", SKIPPED, tries=0)
    folder = place.nearly_done("run_yesterday", ("evaluate", "report"))
    fake = {"LD_PRELOAD": str(library), "FAKETIME": "-1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    done = run(folder, RUN, **fake)
    again = run(folder, RUN)
    problems = [f"the call after it ended with {again.code}: {again.last_line[:160]}" if again.code else None]
    problems += [*all_the_same(place, folder), "a traceback" if "Traceback" in done.text else None]
    fine = f"exit code {done.code} ('{_error(done)}'), then with the right clock {again.code}; the same in the end"
    return Row("clock set back a day", "aqr-bench run", promise, *verdict(problems, fine))


def files_from_tomorrow(place: Place) -> Row:
    """All files are dated a day ahead, as after a night with a wrong clock; the report is still to be made."""
    folder = place.nearly_done("tomorrow", ("report",))
    for file in [*folder.rglob("*")]:
        os.utime(file, (time.time() + DAY_S, time.time() + DAY_S), follow_symlinks=False)
    done = run(folder, RUN)
    whole = done.code == 0
    problems = all_the_same(place, folder) if whole else [None if _error(done) else "no message"]
    problems.append("a traceback" if "Traceback" in done.text else None)
    problems.append(None if whole or "modification time" in done.text else f"the times are not named: {_error(done)}")
    fine = "came to its end; the same" if whole else f"exit code {done.code}, '{_error(done)}'"
    promise = "comes to its end with the same result, or a message names the files and their times"
    return Row("files dated a day ahead", "aqr-bench run", promise, *verdict(problems, fine))


def _error(done: Done) -> str:
    """The first error lines of a workflow."""
    words = ("error:", "modification time")
    lines = [line.strip() for line in done.text.splitlines() if any(word in line for word in words)]
    return "; ".join(lines)[:200]


# ---------------------------------------------------------------- processes, numbers, memory


def world_worker(place: Place) -> Row:
    """A process that writes scenes of the world is killed."""
    stage, struck = STAGES["world"], []
    folder = place.before(stage, "world_worker")

    def strike(process: subprocess.Popen, spent: float) -> bool:
        if spent < 0.5 * place.cpu_s["world"]:
            return False
        for child in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                struck.append(child.pid)
                return True
        return False

    done = run(folder, stage.command, strike)
    left = (folder / RESULTS / stage.done).is_file()
    again = run(folder, stage.command)
    problems = [
        None if struck else "no worker was there to be killed",
        done.refused("a worker process was killed"),
        "world.json was written" if left else None,
        f"the next call ended with {again.code}" if again.code else None,
        difference(outcome(folder, stage), place.expected["world"]),
    ]
    promise = "exit code 2 and one line; finished scenes are kept; the same command goes on and gives the same"
    return Row("worker process killed", "world", promise, *verdict(problems, f"'{done.told[:160]}'; then the same"))


def loader_worker(place: Place) -> Row:
    """A process that loads samples for an evaluation is killed, in the first of three conditions."""
    stage = STAGES["evaluate"]
    folder = place.before(stage, "loader_worker")
    _change_tier(folder, lambda tier: tier["variant"]["config"].update({"test_dataloader.num_workers": 1}))
    done = run(folder, (FAULTY, "--kill-worker-at", "2", *stage.command))
    problems = [None if "fault: a worker" in done.text else "no worker was killed"]
    problems.append(f"exit code {done.code}: {done.last_line[:160]}" if done.code else None)
    reason = ""
    if not done.code:
        clean, *others = read_run(folder / RESULTS / stage.done)
        reason = clean.reason or ""
        problems.append(None if clean.status == "failed" and "worker" in reason else f"{clean.status}: {reason}")
        expected = read_run(place.whole / RESULTS / stage.done)[1:]
        same = [(r.status, r.scores) for r in others] == [(r.status, r.scores) for r in expected]
        problems.append(None if same and len(others) == 2 else "the other conditions are not what they were")
    promise = "that condition is recorded as failed and says why; the others have their scores"
    return Row(
        "worker process killed", "evaluate", promise, *verdict(problems, f"'{reason[:160]}'; the others as ever")
    )


def nan_loss(place: Place) -> Row:
    """From the fourth iteration on, the loss is NaN."""
    stage = STAGES[TRAINING]
    folder = place.before(stage, "nan_loss")
    done = run(folder, (FAULTY, "--nan-at", "4", *stage.command))
    return _one_record(folder, TRAINING, done, "NaN loss from iteration 4", "diverged", "loss is nan at iteration 4")


def out_of_memory(place: Place) -> Row:
    """A limit on memory that a training cannot keep to."""
    stage = STAGES["base"]
    folder = place.before(stage, "out_of_memory")
    _change_tier(folder, lambda tier: tier.update(memory_limit_mb=300))
    done = run(folder, stage.command)
    return _one_record(folder, "base", done, "out of memory", "oom", "(memory limit 300 MB)")


def _one_record(folder: Path, name: str, done: Done, fault: str, status: str, words: str) -> Row:
    problems, reason = [f"exit code {done.code}: {done.last_line[:160]}" if done.code else None], ""
    if not done.code:
        record = read_run(folder / RESULTS / STAGES[name].done)[0]
        reason = record.reason or ""
        problems.append(None if record.status == status else f"the record says {record.status}")
        problems.append(None if words in reason else f"the reason is '{reason}'")
    final = folder / RESULTS / STAGES[name].compared[0]
    problems.append("a final checkpoint was written" if final.exists() else None)
    promise = f"a record with status {status} that says why, no final checkpoint, exit code 0: others go on"
    return Row(fault, name, promise, *verdict(problems, f"'{reason[:160]}'"))


def _change_tier(folder: Path, change) -> None:
    file = folder / f"{TIER}.yaml"
    tier = yaml.safe_load(file.read_text())
    change(tier)
    file.write_text(yaml.safe_dump(tier, sort_keys=False))


OTHERS = {
    "two_runs": two_runs,
    "clock_jumps_back": clock_jumps_back,
    "run_yesterday": run_yesterday,
    "files_from_tomorrow": files_from_tomorrow,
    "world_worker": world_worker,
    "loader_worker": loader_worker,
    "nan_loss": nan_loss,
    "out_of_memory": out_of_memory,
}
