"""Atomic writes: under a temporary name, renamed when the file is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
