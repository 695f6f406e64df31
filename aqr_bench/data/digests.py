"""What a data set is, by content: digests of its tables and of its info files.

Tables of nuScenes are gigabytes: a digest is noted beside the info files with the size and the time of change of the
file that it is of, and the file is read again where one of them differs. A copy that is newer keeps its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.study.hashes import config_hash, sha256_file

INFO_FILES = ("infos_train.pkl", "infos_val.pkl")
NOTES = "digests.json"


def tables_digest(tables: Mapping[str, str]) -> str:
    """SHA-256 over the tables of a nuScenes root, given by their own; changes when one of them is edited."""
    digest = hashlib.sha256()
    for name, sha256 in sorted(tables.items()):
        digest.update(name.encode())
        digest.update(bytes.fromhex(sha256))
    return digest.hexdigest()


def table_digests(root: str | Path, version: str, infos: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of each JSON table of a nuScenes root by file name, noted in the folder of the info files, if given."""
    return file_digests(sorted((Path(root) / version).glob("*.json")), infos)


def infos_digest(infos: str | Path) -> str:
    """SHA-256 over the info files in a folder, as far as they are there."""
    files = [Path(infos) / name for name in INFO_FILES]
    return config_hash(file_digests([file for file in files if file.is_file()], infos))


def known_infos_digest(infos: str | Path) -> str | None:
    """``infos_digest``; None where there is no info file."""
    return infos_digest(infos) if any((Path(infos) / name).is_file() for name in INFO_FILES) else None


def noted_digest(file: Path, infos: str | Path) -> str:
    """SHA-256 of one file, noted in the folder ``infos``."""
    return file_digests([file], infos)[file.name]


def file_digests(files: Iterable[Path], infos: str | Path | None) -> dict[str, str]:
    """SHA-256 of each file by name, noted in the folder ``infos``."""
    notes = None if infos is None else Path(infos) / NOTES
    noted = {} if notes is None else read_json(notes) or {}
    fresh = dict(noted)
    digests = {}
    for file in files:
        state = file.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        entry = noted.get(file.name)
        if not isinstance(entry, dict) or entry.get("stamp") != stamp or not _is_sha256(entry.get("sha256")):
            fresh[file.name] = entry = {"stamp": stamp, "sha256": sha256_file(file)}
        digests[file.name] = entry["sha256"]
    if notes is not None and fresh != noted and notes.parent.is_dir():
        with contextlib.suppress(OSError):  # a full or read-only disk: they are read again the next time
            write_text(notes, json.dumps(fresh, indent=1))
    return digests


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file; ``{}`` if damaged, None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")
