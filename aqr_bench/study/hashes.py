"""Hashes of settings and files: what results are compared by, on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; tuples as lists, paths with forward slashes, numpy scalars as numbers."""

    def plain(item: Any) -> Any:
        if isinstance(item, Path):
            return item.as_posix()
        if hasattr(item, "tolist"):
            return item.tolist()
        if isinstance(item, set | frozenset):
            return sorted(item)
        raise TypeError(f"cannot hash a {type(item).__name__}: {item!r}")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain)


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a config; the order of keys does not matter."""
    return sha256_text(canonical_json(config))


def source_files_hash(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over source files, each with the name it is known by; times and line endings do not count."""
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
