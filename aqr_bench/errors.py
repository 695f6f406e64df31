"""Errors meant for people: one clear line that names the file, the key, the value and the way out."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """A mistake the user can mend. Command-line entries print it as one line and exit with 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or the list of known names."""
    known = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def require_file(path: str | Path, what: str, remedy: str) -> Path:
    """Return ``path`` if it is a readable file, else raise UserError naming it and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} not found: {path}. {remedy}")
    return path


def require_disk(folder: str | Path, need_bytes: int, what: str) -> None:
    """Raise UserError unless the file system that will hold ``folder`` has ``need_bytes`` free."""
    probe = Path(folder).absolute()
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < need_bytes:
        raise UserError(
            f"{what} needs {need_bytes / 1e9:.1f} GB under {folder}, but only {free / 1e9:.1f} GB are free. "
            "Free some space or choose another folder."
        )


_DISK = {
    errno.ENOSPC: ("no space is left", "Free some space"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space"),
    errno.EROFS: ("the file system is read-only", "Make it writable, or work in another folder"),
    errno.EACCES: ("this user must not write or read there", "Change the permissions, or work in another folder"),
}


def disk_fault(error: BaseException | None, below: str | os.PathLike | None = None) -> UserError | None:
    """One clear line for an error that the disk is to blame for, full or not writable; None for any other.

    What was raised because of it counts too: torch hides a full disk behind a RuntimeError of its own. ``below`` is the
    folder to name where the error names no file, as when a write fails that a library does.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK:
            what, remedy = _DISK[error.errno]
            name = error.filename if error.filename2 is None else error.filename2
            if not isinstance(name, str | os.PathLike):
                name = None if below is None else f"below {os.fspath(below)}"
            where = "" if name is None else f"cannot write {os.fspath(name)}: "
            return UserError(f"{where}{what}. {remedy}, then run the same command again: it goes on from here.")
        error = error.__cause__ or error.__context__
    return None


def run_main(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Run a command-line entry; a UserError, or a full disk, becomes one line on stderr and exit code 2."""
    try:
        code = main(None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        code = 2
    raise SystemExit(code)
