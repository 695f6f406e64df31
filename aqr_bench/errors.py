"""Errors meant for people: one clear line that names the file, the key, the value and the way out."""

from __future__ import annotations

import difflib
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


def run_main(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Run a command-line entry; a UserError becomes one line on stderr and exit code 2."""
    try:
        code = main(None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)
