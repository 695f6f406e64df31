"""Human-readable errors: one line that names the file, the key and the value, and the remedy."""

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

from aqr_bench.foreign_files import placeholder_at

EXIT_FAILED_RECORDS = 3  # all jobs ran, and a record tells of a failure
MAX_MESSAGE_CHARS = 2000
MAX_LIST_CHARS = 300  # of a list of names in a message


class UserError(Exception):
    """A mistake the user can fix. Command-line entries print it as one line and exit with 2.

    Files and arguments are quoted in messages and may hold anything: the text is made printable, in one line.

    Args:
        message: what is wrong and where; without a full stop if there is a remedy.
        remedy: what to do, as a sentence.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = _printable_line(message), _printable_line(remedy)
        super().__init__(_printable_line(f"{message}. {remedy}" if remedy else message))


def _printable_line(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\n\t\r" else ascii(c)[1:-1] for c in text)
    half = MAX_MESSAGE_CHARS // 2
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:half]} ... {text[-half:]}"


def short(text: object, max_chars: int = 80) -> str:
    """The text, or its two ends where it is longer than ``max_chars``."""
    text = str(text)
    return text if len(text) <= max_chars else f"{text[: max_chars // 2]}...{text[-max_chars // 2 :]}"


def quoted(value: Any, max_chars: int = 80) -> str:
    """``repr`` of a value from a file, cut short; of large and deep values only the beginning is read."""
    limited = reprlib.Repr()
    limited.maxstring = limited.maxlong = limited.maxother = max_chars
    limited.maxlist = limited.maxtuple = limited.maxdict = 6
    limited.maxlevel = 3
    return short(limited.repr(value), max_chars)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or the list of known names."""
    known = sorted(short(k) for k in known)
    close = difflib.get_close_matches(short(name), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {join_names(known)}" if known else ""


def join_names(names: Iterable[str | Path]) -> str:
    """Names with commas between them, how many more there are beyond ``MAX_LIST_CHARS``; paths are never cut short."""
    names, length = [str(name) if isinstance(name, Path) else short(name) for name in names], 0
    for number, name in enumerate(names):
        length += len(name) + 2
        if number and length > MAX_LIST_CHARS:
            return f"{', '.join(names[:number])} and {len(names) - number} more"
    return ", ".join(names)


# What a reader of a damaged file, or of a file with other content, may raise.
READ_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RecursionError, MemoryError),
)


# And a reader of arrays in a zip file: an entry may be compressed in an unknown way, or claim any size.
ARRAY_READ_ERRORS = (
    *(*READ_ERRORS, EOFError, zipfile.BadZipFile, zlib.error),
    *(struct.error, NotImplementedError, RuntimeError),
)


@contextmanager
def reading(path: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what a damaged file makes its reader raise into a UserError with the file, the reason and the remedy."""
    try:
        yield
    except READ_ERRORS as error:
        if (kind := placeholder_at(path)) is not None:
            raise UserError(f"{what} cannot be used: {short(path, 200)} is {kind.name}", kind.remedy) from error
        reason = f"{type(error).__name__}: {short(' '.join(str(error).split()), 160)}"
        raise UserError(f"{what} cannot be used: {path} ({reason})", remedy) from error


def require_file(path: str | Path, what: str, remedy: str) -> Path:
    """Return ``path`` if it is a readable file, else raise UserError naming it and the remedy."""
    path = Path(path)
    if not is_file(path):
        raise UserError(f"{what} not found: {short(path, 200)}", remedy)
    return path


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also for a name that no file system takes and in a folder without access."""
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
            f"{what} needs {need_bytes / 1e9:.1f} GB under {folder}, but only {free / 1e9:.1f} GB are free",
            "Free some space or choose another folder.",
        )


_DISK = {
    errno.ENOSPC: ("no space is left", "Free some space"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space"),
    errno.EROFS: ("the file system is read-only", "Make it writable, or work in another folder"),
    errno.EACCES: ("this user must not write or read there", "Change the permissions, or work in another folder"),
}


def disk_error(error: BaseException | None, below: str | os.PathLike | None = None) -> UserError | None:
    """The UserError for an error whose cause is a disk that is full or not writable; None for any other.

    Causes of the error are searched as well: torch hides a full disk behind a RuntimeError. ``below`` is the folder to
    name where the error names no file, as for a write inside a library.
    """
    visited = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK:
            what, remedy = _DISK[error.errno]
            name = error.filename if error.filename2 is None else error.filename2
            if not isinstance(name, str | os.PathLike):
                name = None if below is None else f"below {os.fspath(below)}"
            verb = "use" if error.errno == errno.EACCES else "write"
            where = "" if name is None else f"cannot {verb} {os.fspath(name)}: "
            return UserError(f"{where}{what}", f"{remedy}, then run the same command again: it resumes from here.")
        error = error.__cause__ or error.__context__
    return None


def raise_if_disk_error(error: BaseException, below: str | os.PathLike | None = None) -> None:
    """Raise UserError where the disk is the cause: that is no failure of the model and gives no record."""
    if (disk := disk_error(error, below)) is not None:
        raise disk from error


def root_cause(error: BaseException) -> BaseException:
    """What a failed import goes back to: mmengine wraps it twice, and the wrappers say nothing about the cause.

    Errors of other kinds are returned as they are: their wrappers are deliberate.
    """
    while isinstance(error, ImportError) and isinstance(cause := error.__cause__ or error.__context__, ImportError):
        error = cause
    return error


def error_text(error: BaseException) -> tuple[str, str]:
    """Name and message of an error, also of one that torch brings from a worker of a data loader.

    There the message is a traceback in words, whose last lines are the error: cut short, it would not name the file.
    """
    name, text = type(error).__name__, str(error)
    if not (text.startswith("Caught ") and "Original Traceback" in text):
        return name, text
    original = text.split()[1]
    message = text.rpartition("Traceback (most recent call last)")[2].partition(f"{original}: ")[2]
    return (original, message.strip()) if message else (name, text)


def user_message(error: BaseException, below: str | os.PathLike | None = None) -> str | None:
    """One line about an error that the user can fix: a mistake, an unusable file, a full disk; None for any other."""
    if isinstance(error, UserError):
        return error_text(error)[1]
    disk = disk_error(error, below)
    if disk is not None:
        return str(disk)
    if not isinstance(error, OSError):
        return None
    names = [short(name, 200) for name in (error.filename, error.filename2) if name is not None]
    return _printable_line(f"{' -> '.join(names) or type(error).__name__}: {error.strerror or error}")


def run_main(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Run a command-line entry; a UserError or an OSError becomes one line on stderr and exit code 2."""
    try:
        code = main(None)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = report_error(error)
    raise SystemExit(code)


def report_error(error: Exception, below: str | os.PathLike | None = None) -> int:
    """Print one line about an error and return 2, the exit code; an error that the user cannot fix is raised again."""
    line = user_message(error, below)
    if line is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    return 2
