"""Commands to be disturbed: as processes of their own, or forked from one that has imported what takes long.

A short stage spends most of its time importing torch and mmdet3d, where there is nothing to lose. Forked, it starts
with its work: the same entry with the same arguments, and a kill falls where it can do harm.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_S = 1500
FORKED = {
    "aqr_bench.engine.train",
    "aqr_bench.cli.evaluate",
    "aqr_bench.cost.measure",
    "aqr_bench.data",
    "aqr_bench.report",
}
# The transforms come first: they make mmdet3d usable with mmcv-lite.
_PRELOAD = ("aqr_bench.data.transforms", "aqr_bench.data.conditions", "aqr_bench.cmt", "aqr_bench.engine.hooks",
            "mmengine.runner", "aqr_bench.engine.train", "aqr_bench.cli.evaluate", "aqr_bench.cost.measure",
            "aqr_bench.metrics.detection", "aqr_bench.data.__main__", "aqr_bench.report.page",
            "aqr_bench.report.tables.speed", "aqr_bench.report.__main__",
            "nuscenes.eval.detection.evaluate")  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code (negative: by that signal), all that it said, seconds on the processors."""

    code: int
    text: str
    cpu_s: float

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.text.splitlines()) if line.strip()), "")

    @property
    def told(self) -> str:
        """The first error line, or the last line."""
        return next((line for line in self.text.splitlines() if line.startswith("error: ")), self.last_line)

    def refused(self, *words: str) -> str | None:
        """What is wrong if it should have ended with exit code 2 and one line that has all the words; None: nothing."""
        told = [line for line in self.text.splitlines() if line.startswith("error: ")]
        if self.code != 2:
            return f"exit code {self.code}, not 2: {self.last_line[:160]}"
        if "Traceback" in self.text or len(told) != 1:
            return f"{len(told)} error lines, not one: {self.last_line[:160]}"
        missing = [word for word in words if word not in told[0]]
        return f"the message does not name {missing}: {told[0][:160]}" if missing else None


class Forked:
    """A step in a process that was forked from one with everything imported; used like subprocess.Popen."""

    def __init__(self, folder: Path, command: Sequence[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_step, args=(str(folder), tuple(command), str(log)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def get_ready() -> None:
    """Let the process that the others are forked from import; call it before any thread is started."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOAD))


def _step(folder: str, command: tuple[str, ...], log: str) -> None:
    """What ``python -m`` does with the command, in this process."""
    from aqr_bench.errors import run_main

    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number in (1, 2):
        os.dup2(out, number)
    os.chdir(folder)
    name, *arguments = command
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    sys.argv = [name, *arguments]
    run_main(lambda _: module.main(list(arguments)))


def start(folder: Path, command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen | Forked:
    """Start ``python -m command`` (or a script) in a folder, in a session of its own."""
    if command[0] in FORKED and not environment:
        return Forked(folder, command, log)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    words = command if command[0].endswith(".py") else ("-m", *command)
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, *words], cwd=folder, env={**env, **environment},
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


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


def run(
    folder: Path,
    command: Sequence[str],
    meanwhile: Callable[[subprocess.Popen | Forked, float], bool] | None = None,
    **environment: str,
) -> Done:
    """Run a command to its end. ``meanwhile(process, processor seconds)`` is called until it returns True."""
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
    text = log.read_text(errors="replace") if log.is_file() else ""  # not there: ended before it said anything
    return Done(process.returncode, text, spent)
