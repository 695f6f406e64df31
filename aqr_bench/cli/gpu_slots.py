"""Hands out GPUs: a job waits until as many as it needs are free, takes them, and sees no other.

aqr-bench gpu-slots 1 -- COMMAND ...      the command on one GPU; with 0: on none
aqr-bench gpu-slots --list                the visible GPUs, and which of them are taken

A GPU is taken by a lock that the job's processes inherit: it is free again when the last of them has ended, in whatever
way. The locks are in one folder per user and machine, so runs in other folders count as well. Where no GPU is visible,
the command runs without any of this. A job on a GPU has an empty standard input: its descriptor holds the lock.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import signal
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from aqr_bench.cli.gpu_devices import Gpu, show_only, visible_gpus
from aqr_bench.console import add_json_option, non_negative_int, print_json
from aqr_bench.errors import UserError, disk_error, join_names, run_main, short

POLL_S = 0.3
OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# A SIGKILL of torchrun leaves its workers behind. They inherit its standard input, and no other descriptor.
STDIN = 0


# ---------------------------------------------------------------- the folder


def lock_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of the locks, made if need be. UserError where it cannot be used, or is not this user's alone.

    Slurm may number the GPUs of each of its jobs from 0, and gives none to two of them: each has its own folder.
    """
    environment = os.environ if environment is None else environment
    remedy = "Set TMPDIR to a folder on this machine that this user may write to, for all runs the same."
    try:
        folder = Path(tempfile.gettempdir()) / f"aqr-bench-gpus-{os.geteuid()}"
    except FileNotFoundError as error:
        raise UserError(f"no folder for the locks of GPUs: {error.strerror or error}. {remedy}") from None
    _private_folder(folder, remedy)
    if job := environment.get("SLURM_JOB_ID"):
        folder /= f"slurm-{re.sub(r'[^0-9A-Za-z_]', '_', job)}"
        _private_folder(folder, remedy)
    return folder


def _private_folder(folder: Path, remedy: str) -> None:
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        facts = folder.lstat()
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for the locks of GPUs ({error.strerror}). {remedy}") from None
    if not stat.S_ISDIR(facts.st_mode):
        problem = "it is no folder"
    elif facts.st_uid != os.geteuid():
        problem = f"it belongs to user {facts.st_uid}, not to {os.geteuid()}"
    elif facts.st_mode & 0o022:
        problem = f"others may write to it (mode {stat.S_IMODE(facts.st_mode):o})"
    else:
        return
    raise UserError(f"{folder} cannot hold the locks of GPUs: {problem}. Remove it, or set TMPDIR to another folder.")


# ---------------------------------------------------------------- locks


def _byte_lock(descriptor: int, kind: int, gpu: Gpu) -> bool:
    """Lock (F_WRLCK) or free (F_UNLCK) a GPU's byte of the file; False if another process has the lock.

    Locks of the open file (F_OFD_SETLK) go with a descriptor to every process that inherits it, whichever opened it.
    """
    offset = int.from_bytes(hashlib.sha256(gpu.uuid.encode()).digest()[:7], "big")
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, offset, 1, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as POSIX has it
        return False
    return True


def take_all_or_none(descriptor: int, gpus: Sequence[Gpu], count: int) -> tuple[Gpu, ...]:
    """Lock the first ``count`` free ones of ``gpus``; with fewer free ones lock none and return ()."""
    taken: list[Gpu] = []
    for gpu in gpus:
        if len(taken) < count and _byte_lock(descriptor, fcntl.F_WRLCK, gpu):
            taken.append(gpu)
    if len(taken) == count:
        return tuple(taken)
    for gpu in taken:
        _byte_lock(descriptor, fcntl.F_UNLCK, gpu)
    return ()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Mutual exclusion of the folder's processes, for a moment."""
    descriptor = os.open(folder / "mutex", OPEN, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Ticket:
    """A ticket of the queue: a numbered file with the GPUs that are wanted, locked as long as its process waits."""

    def __init__(self, folder: Path, gpus: Sequence[Gpu]) -> None:
        """Call it, as the methods, only in ``_alone``."""
        number = max((number for number, _ in _tickets(folder)), default=0) + 1
        self.folder, self.path = folder, folder / f"ticket-{number}"
        self._descriptor = os.open(self.path, OPEN | os.O_EXCL, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.write(self._descriptor, "\n".join(gpu.uuid for gpu in gpus).encode())

    def wanted_before(self) -> set[str]:
        """UUIDs that those who came earlier wait for. Tickets of processes that have gone are removed."""
        wanted: set[str] = set()
        for _, path in _tickets(self.folder):
            if path == self.path:
                break
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                wanted.update(path.read_text(encoding="utf-8").split())
            finally:
                os.close(descriptor)
        return wanted

    def hand_back(self) -> None:
        self.path.unlink()
        os.close(self._descriptor)


def _tickets(folder: Path) -> list[tuple[int, Path]]:
    """Numbers and files, the earliest first."""
    return sorted((int(path.name.partition("-")[2]), path) for path in folder.glob("ticket-*"))


def acquire(
    gpus: Sequence[Gpu], count: int, folder: Path, wait: Callable[[], None] = lambda: time.sleep(POLL_S)
) -> tuple[int, tuple[Gpu, ...]]:
    """Wait until ``count`` of ``gpus`` are free and take them; the descriptor that holds the locks, and the GPUs.

    All at once, so that no two wait for each other; in the order of arrival among those that want the same GPUs, so
    that a job that needs several does not wait for ever.
    """
    descriptor = os.open(folder / "slots", OPEN, 0o600)
    with _alone(folder):
        ticket = Ticket(folder, gpus)
    announced = False
    while True:
        with _alone(folder):
            before = ticket.wanted_before()
            taken = take_all_or_none(descriptor, [gpu for gpu in gpus if gpu.uuid not in before], count)
            if taken:
                ticket.hand_back()
                return descriptor, taken
        if not announced:
            names = join_names(gpu.entry for gpu in gpus)
            print(f"waiting for {count} of the GPUs {names}: others are at work on them", file=sys.stderr, flush=True)
            announced = True
        wait()


def taken_gpus(gpus: Sequence[Gpu], folder: Path) -> set[Gpu]:
    """Those that a job holds at the moment."""
    descriptor = os.open(folder / "slots", OPEN, 0o600)
    try:
        with _alone(folder):
            return {gpu for gpu in gpus if not take_all_or_none(descriptor, [gpu], 1)}
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- the command


def run(count: int, command: Sequence[str]) -> None:
    """Become ``command``, on ``count`` GPUs. UserError: fewer are visible, or it cannot be started."""
    environment = dict(os.environ)
    gpus = visible_gpus(environment)
    if count > len(gpus) > 0:
        raise UserError(
            f"{count} GPUs are needed, {len(gpus)} visible here ({join_names(gpu.entry for gpu in gpus)}). "
            "Make more of them visible (CUDA_VISIBLE_DEVICES), or lower launcher.processes of the tier."
        )
    if gpus:
        taken: tuple[Gpu, ...] = ()
        if count:
            try:
                descriptor, taken = acquire(gpus, count, lock_folder(environment))
            except OSError as error:
                raise disk_error(error) or error from None
            os.set_inheritable(descriptor, True)
            os.dup2(descriptor, STDIN)
        show_only(taken, environment)
    # Python ignores SIGPIPE, and the program would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as error:
        raise UserError(f"cannot start {short(command[0], 200)}: {error.strerror}") from None


def main(argv: list[str] | None = None) -> int:
    """Never returns where a command is given: this process becomes it."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench gpu-slots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="print the visible GPUs and which of them are taken")
    add_json_option(parser)
    parser.add_argument("count", type=non_negative_int, nargs="?", help="how many GPUs")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run on them")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if args.json and not args.list:
        parser.error("--json goes with --list")
    if not args.list:
        if args.count is None or not command:
            parser.error("how many GPUs, and which command? For example: 1 -- nvidia-smi")
        run(args.count, command)
    gpus = visible_gpus()
    taken = taken_gpus(gpus, lock_folder()) if gpus else set()
    if args.json:
        print_json({"gpus": [{"name": gpu.entry, "uuid": gpu.uuid, "taken": gpu in taken} for gpu in gpus]})
        return 0
    for gpu in gpus:
        print(f"{gpu.entry}\t{gpu.uuid}\t{'taken' if gpu in taken else 'free'}")
    if not gpus:
        print("no GPU is visible", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_main(main)
