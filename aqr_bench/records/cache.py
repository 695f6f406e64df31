"""Identical work is done once: a run finds another one of the same identity and reuses its files.

Studies share variants (every study has plain CMT as its baseline). Same config, code, data, seed and starting weights
give the same result bit by bit, so the second one reuses the first one's files, and its record names that run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aqr_bench.atomic import atomic_write, write_text
from aqr_bench.study.hashes import sha256_file


def save_cache_entry(
    folder: Path, name: str, identity: Sequence[str], content: dict[str, Any], files: Sequence[str | Path] = ()
) -> None:
    """Note in ``folder`` that the work of this identity is done, as ``<name>.done.json``.

    ``content`` are the results, ``files`` (relative to ``folder``) what another run needs to reuse them.
    """
    hashes = {Path(file).as_posix(): sha256_file(folder / file) for file in files}
    note = {"identity": list(identity), "files": hashes, **content}
    write_text(folder / f"{name}.done.json", json.dumps(note))


def find_cached(root: Path, work: Path, name: str, identity: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
    """Another work folder below ``root`` where the same work is done, and its cache entry; None if there is none.

    A note that cannot be read is passed over, and so is one whose files are gone or changed: the work is then simply
    done again.
    """
    folders = (f"*/*/seed*/{name}.done.json", f".aside/*/*/seed*/*/{name}.done.json")  # see records.store
    for path in sorted(path for pattern in folders for path in root.glob(pattern)):
        if path.parent == work:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("identity") != list(identity):
                continue
            if all(sha256_file(path.parent / file) == known for file, known in content.pop("files").items()):
                return path.parent, content
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return None


def replace_in_identity(folder: Path, name: str, then: str, now: str) -> None:
    """Let a cache entry count as that of other code; ``then`` and ``now`` are hashes of the code."""
    path = folder / f"{name}.done.json"
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        note["identity"] = [now if part == then else part for part in note["identity"]]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no entry, or none that ``find_cached`` would take
    write_text(path, json.dumps(note))


def reuse_file(source: Path, target: Path) -> Path:
    """Put a file of another run into this run's folder: a hard link where the file system can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return target
