"""Errors meant for people: one clear line that names the file, the key, the value and the way out."""

from __future__ import annotations

import difflib
import errno
import os
import reprlib
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

MOST = 2000  # characters of a message
LISTED = 300  # characters of a list of names in one


class UserError(Exception):
    """A mistake the user can mend. Command-line entries print it as one line and exit with 2.

    Messages quote what stands in files and arguments, which may be anybody's: the text is made printable, in one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_fit_for_a_terminal(message))


def _fit_for_a_terminal(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\n\t\r" else ascii(c)[1:-1] for c in text)
    return text if len(text) <= MOST else f"{text[: MOST // 2]} ... {text[-MOST // 2 :]}"


def short(text: object, most: int = 80) -> str:
    """The text, or its two ends where it is longer than ``most`` characters."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def quoted(value: Any, most: int = 80) -> str:
    """``repr`` of a value out of a file, cut short; large and deep values are not gone through."""
    part = reprlib.Repr()
    part.maxstring = part.maxlong = part.maxother = most
    part.maxlist = part.maxtuple = part.maxdict = 6
    part.maxlevel = 3
    return short(part.repr(value), most)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or the list of known names."""
    known = sorted(short(k) for k in known)
    close = difflib.get_close_matches(short(name), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {listed(known)}" if known else ""


def listed(names: Iterable[str]) -> str:
    """Names with commas between them; how many more there are beyond ``LISTED`` characters."""
    names, length = [short(name) for name in names], 0
    for number, name in enumerate(names):
        length += len(name) + 2
        if number and length > LISTED:
            return f"{', '.join(names[:number])} and {len(names) - number} more"
    return ", ".join(names)


# What code raises that reads a file and does not find in it what should be there.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RecursionError, MemoryError),
)


# And one that reads arrays out of a zip: an entry may be packed in ways that are unknown, or claim any size.
DAMAGED_ARRAYS = (*DAMAGE, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError)


@contextmanager
def reading(path: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Tell what a damaged file makes its reader raise as a UserError that names the file, the reason and the remedy."""
    try:
        yield
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {short(' '.join(str(error).split()), 160)}"
        raise UserError(f"{what} cannot be used: {path} ({reason}). {remedy}") from error


def require_file(path: str | Path, what: str, remedy: str) -> Path:
    """Return ``path`` if it is a readable file, else raise UserError naming it and the remedy."""
    path = Path(path)
    if not is_file(path):
        raise UserError(f"{what} not found: {short(path, 200)}. {remedy}")
    return path


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also for a name that no file system takes, as that of a folder kept shut."""
    try:
        return path.is_file()
    except OSError:
        return False


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
            verb = "use" if error.errno == errno.EACCES else "write"
            where = "" if name is None else f"cannot {verb} {os.fspath(name)}: "
            return UserError(f"{where}{what}. {remedy}, then run the same command again: it goes on from here.")
        error = error.__cause__ or error.__context__
    return None


def raise_disk_fault(error: BaseException, below: str | os.PathLike | None = None) -> None:
    """Raise UserError where the disk is to blame: the work has not failed then, it has not been done."""
    if (fault := disk_fault(error, below)) is not None:
        raise fault from error


def told(error: BaseException, below: str | os.PathLike | None = None) -> str | None:
    """The line for people about what is their business: mistakes, files that cannot be used, a full disk; else None."""
    if isinstance(error, UserError):
        return str(error)
    fault = disk_fault(error, below)
    if fault is not None:
        return str(fault)
    if not isinstance(error, OSError):
        return None
    names = [short(name, 200) for name in (error.filename, error.filename2) if name is not None]
    return _fit_for_a_terminal(f"{' -> '.join(names) or type(error).__name__}: {error.strerror or error}")


def run_main(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Run a command-line entry; a UserError, or what the system refused, becomes one line on stderr and exit code 2."""
    try:
        code = main(None)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = tell(error)
    raise SystemExit(code)


def tell(error: Exception, below: str | os.PathLike | None = None) -> int:
    """Print the line about an error and return 2, the exit code; what is no business of the user's is raised again."""
    line = told(error, below)
    if line is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    return 2
