"""One workflow at a time in a project folder: its lock, the processes at work there, and stale locks of Snakemake."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from aqr_bench.errors import UserError

SNAKEMAKE = "aqr_bench.cli.snakemake_events"
WORK_STEPS = ("world", "data", "train", "evaluate", "measure", "pictures", "report")


@contextmanager
def only_workflow_in(folder: Path) -> Iterator[int]:
    """Hold the folder for one workflow; yields the descriptor of the lock, to be inherited by Snakemake.

    The lock goes with the last process that has it, so a killed run never leaves it behind. Raises UserError if
    another workflow, or a job that a killed one left running, works in the folder.
    """
    lock = folder / ".snakemake" / "aqr-bench.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = False
        except OSError:
            held = True
        workers = workers_in(folder)
        if held or workers:
            who = ", ".join(f"{name} as process {pid}" for pid, name in workers[:3]) or f"it holds {lock}"
            raise UserError(f"another run is at work in {folder} ({who}). Wait for it, or stop it first.")
        yield file.fileno()


def workers_in(folder: Path) -> list[tuple[int, str]]:
    """Process ids and names of Snakemake or its jobs running in ``folder``, this process and its parents left out."""
    import psutil

    me = psutil.Process()
    family = {me.pid, *(p.pid for p in me.parents())}
    workers = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        name = _step_of(words) or ("snakemake" if any(_is_snakemake(w) for w in words[:4]) else None)
        if name is None or process.info["pid"] in family:
            continue
        try:
            if Path(process.cwd()) == folder.resolve():
                workers.append((process.info["pid"], name))
        except (psutil.Error, OSError):
            continue
    return workers


def _step_of(words: Sequence[str]) -> str | None:
    """``aqr-bench train`` for a process that was started by ``python -m aqr_bench train`` and the like."""
    for module, step in pairwise(words):
        if (module == "aqr_bench" or Path(module).name == "aqr-bench") and step in WORK_STEPS:
            return f"aqr-bench {step}"
    return None


def _is_snakemake(word: str) -> bool:
    return word in ("snakemake", SNAKEMAKE) or word.endswith(("/snakemake", "/snakemake/__main__.py"))


def clear_stale_lock(folder: Path) -> bool:
    """Remove Snakemake's own lock; call it only while holding ``only_workflow_in``, when no one else can own it."""
    locks = folder / ".snakemake" / "locks"
    if not locks.is_dir() or not any(locks.iterdir()):
        return False
    shutil.rmtree(locks)
    return True
