"""Disks that fill up while something is written, and disks that cannot be written to: small ones in memory (tmpfs)."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fault_processes import Done, run
from fault_stages import (
    RESULTS,
    RUN,
    STAGES,
    TRAINING,
    TRAINING_WORK,
    Place,
    Stage,
    difference,
    half_written,
    outcome,
    remove,
)
from fault_table import SKIPPED, Row, verdict

BALLAST = "ballast"
PROMISE = "exit code 2 and one line that names the disk; nothing half-written taken for whole; then the same result"
READ_ONLY_PROMISE = "exit code 2 and one line that says read-only; nothing changed"


@contextlib.contextmanager
def small_disk(point: Path, megabytes: int) -> Iterator[Path]:
    """An empty disk of that size in memory, mounted at ``point``; what was there before comes back afterwards."""
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


def free_bytes(point: Path) -> int:
    """Bytes that can still be written to a disk."""
    facts = os.statvfs(point)
    return facts.f_bavail * facts.f_bsize


def fill(point: Path, leave_bytes: int) -> None:
    """Fill a disk up to so many bytes."""
    with (point / BALLAST).open("ab") as file:
        for _ in range(100):
            try:
                os.posix_fallocate(file.fileno(), 0, max(free_bytes(point) - leave_bytes, 1))
                return
            except OSError:
                pass  # others write meanwhile, and were faster
    raise RuntimeError(f"{point} could not be filled: {free_bytes(point)} bytes are free")


def needs_mount(case: Callable[[Place], Row]) -> Callable[[Place], Row]:
    """A case that is told as not tried where disks cannot be mounted."""

    @functools.wraps(case)
    def checked(place: Place) -> Row:
        probe = place.root / f"probe_{os.getpid()}_{id(case)}"
        try:
            with small_disk(probe, 1):
                pass
        except (subprocess.CalledProcessError, OSError):
            return Row(case.__doc__, "", PROMISE, "mounting a small disk needs root", SKIPPED, tries=0)
        return case(place)

    return checked


@dataclass(frozen=True)
class Full:
    """A disk at ``at`` (below the results) that has ``leave`` bytes left when ``stage`` starts, or that once ``when``.

    ``leave`` and ``when`` may look at the undisturbed run's results, or at the disk.
    """

    what: str
    stage: str
    at: str
    leave: Callable[[Path], int]
    megabytes: int = 64
    when: Callable[[Path], bool] | None = None

    def __call__(self, place: Place) -> Row:
        stage, name = STAGES[self.stage], "full_" + self.what.replace(" ", "_")
        folder = place.before(stage, name)
        point = folder / RESULTS / self.at
        kept = place.root / f"{name}.before"
        shutil.rmtree(kept, ignore_errors=True)
        if point.is_dir():  # what the stage needs there has to be on the disk
            shutil.copytree(point, kept)
        with small_disk(point, self.megabytes):
            if kept.is_dir():
                shutil.copytree(kept, point, dirs_exist_ok=True)
            seen, verdict_ = self._try(place, stage, folder, point)
        return Row(f"full disk: {self.what}", self.stage, PROMISE, seen, verdict_)

    def _try(self, place: Place, stage: Stage, folder: Path, point: Path) -> tuple[str, str]:
        expected, leave = place.expected[self.stage], self.leave(place.whole / RESULTS)
        if self.when is None:
            fill(point, leave)
            done = run(folder, stage.command)
        else:

            def fill_then(_process: subprocess.Popen, _spent: float) -> bool:
                if not self.when(point):
                    return False
                fill(point, leave)
                return True

            done = run(folder, stage.command, fill_then)
        problems = [
            None if (point / BALLAST).is_file() else "the disk was not filled",
            done.refused("no space is left"),
            half_written(folder, stage, expected),
        ]
        litter = [file for file in point.rglob("*.tmp*") if file.is_file()]
        problems.append(f"left behind: {litter[0].name}" if litter else None)
        (point / BALLAST).unlink(missing_ok=True)
        again = run(folder, stage.command)
        problems.append(f"the next call ended with {again.code}: {again.last_line[:160]}" if again.code else None)
        problems.append(difference(outcome(folder, stage), expected))
        return verdict(problems, f"'{_short(done, folder)}'; then the same")


def _short(done: Done, folder: Path) -> str:
    return done.told.replace(f"{folder}/", "")


def _size(*files: Path) -> int:
    """Bytes that files take on a disk of 4 kB blocks."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in files)


def _up_to_final(results: Path) -> int:
    """As much as a training writes before its final checkpoint, and half of that."""
    work = results / TRAINING_WORK
    before = [f for f in work.rglob("*") if f.is_file() and f.name not in ("final.pth", "train.done.json")]
    return _size(*before) + _size(work / "final.pth") // 2


def _up_to_figures(results: Path) -> int:
    """As much as the tables of a report, and a few figures."""
    return _size(*(results / "report/tables").iterdir()) + 200_000


def _is_writing(point: Path) -> bool:
    return any(file.suffix == ".jpg" for file in point.rglob("*.jpg"))


@needs_mount
def full_run(place: Place) -> Row:
    """full disk: aqr-bench run"""
    folder = place.empty("full_run")
    with small_disk(folder, 900):
        shutil.copy(place.root / "faults.yaml", folder)
        shutil.copytree(place.whole, folder, dirs_exist_ok=True)
        for name in ("evaluate", "report"):
            for piece in STAGES[name].makes:
                remove(folder / RESULTS / piece)
        shutil.rmtree(folder / "logs")

        def fill_then(_process: subprocess.Popen, _spent: float) -> bool:
            if not list((folder / "logs").rglob("evaluate.*.log")):
                return False
            fill(folder, 8192)
            return True

        done = run(folder, RUN, fill_then)
        named = "no space is left" in done.text or "is full" in done.text
        evaluate = STAGES["evaluate"]
        problems = [
            None if (folder / BALLAST).is_file() else "the disk was not filled",
            None if done.code == 1 else f"exit code {done.code}, not 1",
            None if named else f"the disk is not named: {done.last_line[:160]}",
            "a traceback" if "Traceback" in done.text else None,
            half_written(folder, evaluate, place.expected["evaluate"]),
        ]
        (folder / BALLAST).unlink(missing_ok=True)
        again = run(folder, RUN)
        problems.append(f"the next call ended with {again.code}: {again.last_line[:160]}" if again.code else None)
        problems += [difference(outcome(folder, stage), place.expected[name]) for name, stage in STAGES.items()]
    promise = "exit code 1 and a message that names the disk; with space again, the same result"
    told = next((line for line in done.text.splitlines() if line.startswith("error: ")), "")
    return Row(full_run.__doc__, "aqr-bench run", promise, *verdict(problems, f"'{told}'; then the same"))


@needs_mount
def full_before_run(place: Place) -> Row:
    """full disk: before the start"""
    folder = place.empty("full_before_run")
    with small_disk(folder, 16):
        shutil.copy(place.root / "faults.yaml", folder)
        done = run(folder, RUN)
        left = sorted(file.name for file in folder.iterdir() if file.name not in ("faults.yaml", ".snakemake"))
    problems = [done.refused("needs", "GB are free"), f"written all the same: {left}" if left else None]
    promise = "exit code 2 and one line that tells how much is needed; nothing begun"
    return Row(full_before_run.__doc__, "aqr-bench run", promise, *verdict(problems, f"'{_short(done, folder)}'"))


def read_only(name: str, at: str) -> Callable[[Place], Row]:
    """A case: the folder that a stage (or, by ``run``, the workflow) writes to is mounted read-only."""

    @needs_mount
    def case(place: Place) -> Row:
        folder = place.empty(f"read_only_{name}") if name == "run" else place.before(STAGES[name], f"read_only_{name}")
        point = folder / at
        with small_disk(point, 900):  # enough for the run not to be refused for want of space
            shutil.copy(place.root / "faults.yaml", point)
            subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
            done = run(folder, RUN if name == "run" else STAGES[name].command)
            left = sorted(file.name for file in point.rglob("*") if file.name != "faults.yaml")
        problems = [done.refused("read-only"), f"written all the same: {left}" if left else None]
        return Row("read-only folder", "aqr-bench run" if name == "run" else name, READ_ONLY_PROMISE,
                   *verdict(problems, f"'{_short(done, folder)}'"))  # fmt: skip

    case.__doc__ = "read-only folder"
    return case


_FULL = (
    Full("samples of the world", "world", "", lambda _: 100_000, 400, _is_writing),
    Full("info files", "infos", "infos", lambda results: _size(*(results / "infos").glob("*.pkl")) // 2),
    Full("checkpoint to resume from", TRAINING, "work", lambda _: 3_000_000),
    Full("final checkpoint", TRAINING, "work/pretrain", _up_to_final),
    Full("record of a training", TRAINING, "pretrain/cameras", lambda _: 0),
    Full("detections", "evaluate", "work/smoke/cross/seed0", lambda _: 40_000),
    Full("record of an evaluation", "evaluate", "smoke/cross/seed0", lambda _: 0),
    Full("record of a measurement", "measure", "smoke/cross", lambda _: 0),
    Full("tables of the report", "report", "report", lambda _: 100_000),
    Full("figures of the report", "report", "report", _up_to_figures),
)  # fmt: skip


def _case(full: Full) -> Callable[[Place], Row]:
    def case(place: Place) -> Row:
        return full(place)

    case.__doc__ = f"full disk: {full.what}"
    return needs_mount(case)


DISKS = {
    **{"full_" + full.what.replace(" ", "_"): _case(full) for full in _FULL},
    "full_run": full_run,
    "full_before_run": full_before_run,
    "read_only_run": read_only("run", ""),
    "read_only_training": read_only(TRAINING, f"{RESULTS}/work"),
    "read_only_report": read_only("report", f"{RESULTS}/report"),
}
