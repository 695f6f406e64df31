"""The sensor file that a failure is blamed on, as it was then: once it has changed, the failed job is done again.

No hash that records keep covers sensor files, which may be terabytes. So a record of a failure keeps size and time of
change of the file that its reason names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

BLAMED = "blamed_file"  # key in the provenance of a failed record
# As BadFrameError names it: an absolute path behind a colon. The reason is all that comes out of a loader's worker.
_FILE = re.compile(r": (/[^:]*?\.(?:pcd\.bin|bin|pcd|npy|jpe?g|png|webp|bmp))(?![\w.]*\w)", re.IGNORECASE)


def blamed_file(reason: str | None) -> dict[str, Any] | None:
    """``{path, size, mtime_ns}`` of the sensor file that the reason of a failure names; None where it names none.

    Size and time are None for a file that is not there.
    """
    match = _FILE.search(reason or "")
    return None if match is None else {"path": match[1], **_state(match[1])}


def blamed_file_change(provenance: Mapping[str, Any]) -> str | None:
    """``/data/a.jpg, which it failed on, has changed``; None if it has not, or the record blames no file."""
    blamed = provenance.get(BLAMED)
    if not isinstance(blamed, Mapping) or not isinstance(path := blamed.get("path"), str):
        return None
    now = _state(path)
    if all(now[key] == blamed.get(key) for key in now):
        return None
    what = "is there again" if blamed.get("size") is None else "is gone" if now["size"] is None else "has changed"
    return f"{path}, which it failed on, {what}"


def _state(path: str) -> dict[str, int | None]:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return {"size": None, "mtime_ns": None}
    return {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
