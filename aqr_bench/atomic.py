"""Atomic writes (a temporary name, renamed when the file is complete), and folders with one writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aqr_bench.errors import UserError


@contextmanager
def atomic_write(path: str | Path, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it is renamed to ``path`` after the block, or deleted after an exception.

    The name is always the same, so that the next process overwrites what a killed one left. ``shared``: several
    processes may write the file at the same time, so the name has the number of the process in it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a failed write names no file
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


@contextmanager
def exclusive_folder(folder: str | Path) -> Iterator[int]:
    """Create a folder where needed and lock it; yields the descriptor. The lock ends with the process, even if killed.

    Raises:
        UserError: another process has locked it, or it cannot be created.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing to {folder}; wait for it or choose another --out") from None
        yield descriptor
    finally:
        os.close(descriptor)
