"""Disks that fill up while something is written, and disks that cannot be written to: small ones in memory (tmpfs)."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_stages import RESULTS, TIER, TRAINING, TRAINING_WORK, Reference, Trial
from fault_table import SKIPPED, Row

BALLAST = "ballast"
PROMISE = "exit code 2 and one line that names the disk; nothing half-written taken for whole; then the same result"
READ_ONLY = "exit code 2 and one line that says read-only; nothing changed"
Case = Callable[[Reference], Row]


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


def fill(point: Path, leave_bytes: int) -> bool:
    """Fill a disk up to so many bytes."""
    with (point / BALLAST).open("ab") as file:
        for _ in range(100):
            with contextlib.suppress(OSError):  # others write meanwhile, and were faster
                os.posix_fallocate(file.fileno(), 0, max(free_bytes(point) - leave_bytes, 1))
                return True
    raise RuntimeError(f"{point} could not be filled: {free_bytes(point)} bytes are free")


def needs_mount(fault: str) -> Callable[[Case], Case]:
    """Marks a case that is not tried where disks cannot be mounted."""

    def decorate(case: Case) -> Case:
        @functools.wraps(case)
        def checked(reference: Reference) -> Row:
            try:
                with small_disk(reference.root / f"probe_{os.getpid()}_{id(case)}", 1):
                    pass
            except (subprocess.CalledProcessError, OSError):
                return Row(fault, "", PROMISE, "mounting a small disk needs root", SKIPPED, tries=0)
            return case(reference)

        return checked

    return decorate


def full_disk(
    what: str,
    stage: str,
    at: str,
    leave: Callable[[Path], int],
    megabytes: int = 64,
    when: Callable[[Path], bool] | None = None,
) -> Case:
    """A disk at ``at`` (below the results) that has ``leave`` bytes left when ``stage`` starts, or that once ``when``.

    ``leave`` looks at the undisturbed run's results, ``when`` at the disk.
    """

    @needs_mount(f"full disk: {what}")
    def case(reference: Reference) -> Row:
        trial, before = reference.before(stage), reference.root / f"{reference.case}.before"
        point, leave_bytes = trial.path(at), leave(reference.folder / RESULTS)
        shutil.rmtree(before, ignore_errors=True)
        if point.is_dir():  # what the stage needs there has to be on the disk
            shutil.copytree(point, before)
        with small_disk(point, megabytes):
            if before.is_dir():
                shutil.copytree(before, point, dirs_exist_ok=True)
            if when is None:
                fill(point, leave_bytes)
                done = trial.run()
            else:
                done = trial.run(lambda *_: when(point) and fill(point, leave_bytes))
            trial.expect((point / BALLAST).is_file(), "the disk was not filled")
            trial.note(done.not_refused("no space is left"))
            trial.expect_nothing_half_written()
            litter = [file.name for file in point.rglob("*.tmp*") if file.is_file()]
            trial.expect(not litter, f"left behind: {litter[:1]}")
            (point / BALLAST).unlink(missing_ok=True)
            trial.resumes()
        return trial.row(f"full disk: {what}", PROMISE, f"'{done.message}'; then the same")

    return case


@needs_mount("full disk: aqr-bench run")
def full_run(reference: Reference) -> Row:
    """The disk fills up when the evaluation begins."""
    trial = Trial(reference, reference.empty(reference.case))
    folder = trial.folder
    with small_disk(folder, 900):
        shutil.copy(reference.root / f"{TIER}.yaml", folder)
        shutil.copytree(reference.folder, folder, dirs_exist_ok=True)
        trial.remove("smoke/cross/seed0/evaluate.missing_sensors.jsonl", "report")
        shutil.rmtree(folder / "logs")
        done = trial.run(lambda *_: bool(list((folder / "logs").rglob("evaluate.*.log"))) and fill(folder, 8192))
        trial.expect((folder / BALLAST).is_file(), "the disk was not filled")
        trial.note(done.not_ended_with(1))
        named = "no space is left" in done.text or "is full" in done.text
        trial.expect(named, f"the disk is not named: {done.last_line[:160]}")
        trial.expect("Traceback" not in done.text, "a traceback")
        trial.expect_nothing_half_written()
        (folder / BALLAST).unlink(missing_ok=True)
        trial.resumes()
    promise = "exit code 1 and a message that names the disk; with space again, the same result"
    return trial.row("full disk: aqr-bench run", promise, f"'{next(iter(done.errors), '')}'; then the same")


@needs_mount("full disk: before the start")
def full_before_run(reference: Reference) -> Row:
    trial = Trial(reference, reference.empty(reference.case))
    with small_disk(trial.folder, 16):
        shutil.copy(reference.root / f"{TIER}.yaml", trial.folder)
        done = trial.run()
        left = {file.name for file in trial.folder.iterdir()} - {f"{TIER}.yaml", ".snakemake"}
    trial.note(done.not_refused("needs", "GB are free"))
    trial.expect(not left, f"written all the same: {sorted(left)}")
    promise = "exit code 2 and one line that tells how much is needed; nothing begun"
    return trial.row("full disk: before the start", promise, f"'{done.message}'")


def read_only(stage: str | None, at: str = "") -> Case:
    """A case: the folder that a stage (None: the workflow) writes to is mounted read-only."""

    @needs_mount("read-only folder")
    def case(reference: Reference) -> Row:
        trial = reference.before(stage) if stage else Trial(reference, reference.empty(reference.case))
        point = trial.path(at) if stage else trial.folder
        with small_disk(point, 900):  # enough for the run not to be refused for lack of space
            shutil.copy(reference.root / f"{TIER}.yaml", point)
            subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
            done = trial.run()
            left = {file.name for file in point.rglob("*")} - {f"{TIER}.yaml"}
        trial.note(done.not_refused("read-only"))
        trial.expect(not left, f"written all the same: {sorted(left)}")
        return trial.row("read-only folder", READ_ONLY, f"'{done.message}'")

    return case


def _size(*files: Path) -> int:
    """Bytes that files take on a disk of 4 kB blocks."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in files if file.is_file())


def _up_to_final(results: Path) -> int:
    """As much as a training writes before its final checkpoint, and half of that."""
    work = results / TRAINING_WORK
    before = (file for file in work.rglob("*") if file.name not in ("final.pth", "train.done.json"))
    return _size(*before) + _size(work / "final.pth") // 2


_FULL = (
    ("samples of the world", "world", "", lambda _: 100_000, 400, lambda point: any(point.rglob("*.jpg"))),
    ("info files", "infos", "infos", lambda results: _size(*(results / "infos").glob("*.pkl")) // 2),
    ("checkpoint to resume from", TRAINING, "work", lambda _: 3_000_000),
    ("final checkpoint", TRAINING, "work/pretrain", _up_to_final),
    ("record of a training", TRAINING, "pretrain/cameras", lambda _: 0),
    ("detections", "evaluate", "work/smoke/cross/seed0", lambda _: 40_000),
    ("record of an evaluation", "evaluate", "smoke/cross/seed0", lambda _: 0),
    ("record of a measurement", "measure", "smoke/cross", lambda _: 0),
    ("tables of the report", "report", "report", lambda _: 100_000),
    ("figures of the report", "report", "report", lambda r: _size(*(r / "report/tables").iterdir()) + 200_000),
)
DISK_CASES = {
    **{"full_" + row[0].replace(" ", "_"): full_disk(*row) for row in _FULL},
    "full_run": full_run,
    "full_before_run": full_before_run,
    "read_only_run": read_only(None),
    "read_only_training": read_only(TRAINING, "work"),
    "read_only_report": read_only("report", "report"),
}
