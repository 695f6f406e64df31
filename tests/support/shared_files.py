"""Folders that are written once for a whole test run and shared between its processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

_FOLDERS: list[Path] = []


def share_in(folder: Path) -> None:
    """Set the folder of this test run, which all of its processes see."""
    _FOLDERS[:] = [folder]


def shared_folder(name: str, write: Callable[[Path], object]) -> Path:
    """The folder of that name, which ``write`` fills where nobody has yet; it is not to be written to afterwards."""
    if not _FOLDERS:
        share_in(Path(tempfile.mkdtemp(prefix="aqr-bench-shared-")))
    folder = _FOLDERS[0] / f"shared-{name}"
    with FileLock(f"{folder}.lock"):
        if not folder.with_suffix(".done").is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what an attempt that failed left behind
            write(folder)
            folder.with_suffix(".done").touch()
    return folder
