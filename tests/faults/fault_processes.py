"""Commands that are disturbed: processes, or steps forked from a process that has imported torch and mmdet3d.

A short stage spends most of its time importing, where there is nothing to lose. Forked, it starts with its work: the
same command with the same arguments, and a kill falls where it can do harm.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from aqr_bench.cli.folder_lock import workers_in

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_S = 1500
PATIENCE_S = 60  # for worker processes to follow their parent
FORKED = ("train", "evaluate", "measure", "data", "report")
# The transforms come first: they make mmdet3d usable with mmcv-lite.
_PRELOAD = [
    *("aqr_bench.data.transforms", "aqr_bench.data.conditions", "aqr_bench.cmt", "aqr_bench.engine.hooks"),
    *("mmengine.runner", "aqr_bench.engine.train", "aqr_bench.cli.main", "aqr_bench.cli.evaluate"),
    *("aqr_bench.cost.measure", "aqr_bench.metrics.detection", "aqr_bench.data.__main__", "aqr_bench.report.page"),
    *("aqr_bench.report.tables.speed", "aqr_bench.report.__main__", "nuscenes.eval.detection.evaluate"),
]


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code (negative: by that signal), its output, seconds on the processors."""

    code: int
    text: str
    cpu_s: float

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.text.splitlines()) if line.strip()), "")

    @property
    def errors(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("error: ")]

    @property
    def message(self) -> str:
        """The first error line, or the last line."""
        return next(iter(self.errors), self.last_line)

    def not_ended_with(self, *codes: int) -> str | None:
        """What is wrong if it ended otherwise; None: nothing."""
        return None if self.code in codes else f"exit code {self.code}, not of {codes}: {self.last_line[:160]}"

    def not_refused(self, *words: str) -> str | None:
        """What is wrong if it should have ended with exit code 2 and one line that has all the words; None: nothing."""
        if self.code != 2:
            return f"exit code {self.code}, not 2: {self.last_line[:160]}"
        if "Traceback" in self.text or len(self.errors) != 1:
            return f"{len(self.errors)} error lines, not one: {self.last_line[:160]}"
        missing = [word for word in words if word not in self.message]
        return f"the message does not name {missing}: {self.message[:160]}" if missing else None


class Forked:
    """A step in a process forked from one that has imported everything; used like subprocess.Popen."""

    def __init__(self, folder: Path, command: Sequence[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_step, args=(str(folder), list(command[1:]), str(log)))
        self._process.start()
        self.pid, self.kill = self._process.pid, self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode


Process = subprocess.Popen | Forked
Meanwhile = Callable[[Process, float], bool]  # of the process and its processor seconds; called until it returns True


def preload() -> None:
    """Let the process that the others are forked from import; call it before any thread is started."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOAD)


def _step(folder: str, arguments: list[str], log: str) -> None:
    """What ``python -m aqr_bench`` does with the arguments, in this process."""
    from aqr_bench.cli.main import main
    from aqr_bench.errors import run_main

    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number in (1, 2):
        os.dup2(out, number)
    os.chdir(folder)
    sys.argv = ["aqr-bench", *arguments]
    run_main(lambda _: main(arguments))


def start(folder: Path, command: Sequence[str], log: Path, **environment: str) -> Process:
    """Start ``python -m command`` (or a script) in a folder, in a new session."""
    if command[0] == "aqr_bench" and command[1] in FORKED and not environment:
        return Forked(folder, command, log)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    words = command if command[0].endswith(".py") else ("-m", *command)
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, *words], cwd=folder, env={**env, **environment},
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def run(folder: Path, command: Sequence[str], meanwhile: Meanwhile | None = None, **environment: str) -> Done:
    """Run a command to its end; ``meanwhile`` may disturb it."""
    log = folder.parent / f"{folder.name}.log"
    process, spent, began = start(folder, command, log, **environment), 0.0, time.monotonic()
    try:
        while process.poll() is None:
            if time.monotonic() - began > LIMIT_S:
                process.kill()
            spent = max(spent, cpu_seconds(process.pid))
            if meanwhile is not None and meanwhile(process, spent):
                meanwhile = None
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            process.kill()
    text = log.read_text(errors="replace") if log.is_file() else ""  # not there: ended before it printed anything
    return Done(process.poll(), text, spent)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, its children, and of those that have ended and were waited for."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = member.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def kill_all(pid: int, folder: Path) -> None:
    """SIGKILL for a workflow's command, Snakemake and its jobs, also for a job that is born while the others die."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [child.pid for child in psutil.Process(pid).children(recursive=True)]
    pids, until = [pid, *family], time.monotonic() + PATIENCE_S
    while pids and time.monotonic() < until:
        for victim in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        time.sleep(0.1)
        pids = [worker for worker, _ in workers_in(folder)]


def left_running(folder: Path) -> str | None:
    """Processes that still work in a folder when their parent has been gone for a while, in words."""
    until = time.monotonic() + PATIENCE_S
    while (names := _working_in(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    return f"still running after {PATIENCE_S} s: {', '.join(names)}" if names else None


def _working_in(folder: Path) -> list[str]:
    names = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()) == folder.resolve() and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return names
