"""Hashes of settings and files: what results are compared by, on any machine."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SHORT = 12  # hexadecimal digits of a hash that is only compared with its like


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
    """SHA-256 over source files, each with the name it is known by, and what they say; times do not count."""
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(name.encode() + b"\0" + source_hash(file).encode() + b"\0")
    return digest.hexdigest()


def source_hash(file: Path) -> str:
    """SHA-256 of what a source file says.

    Of Python it is the syntax tree: comments, docstrings and layout do not count. The tree is that of the Python that
    runs, and another version may see another one. Of other files, and of Python with a syntax error, it is the text;
    line endings do not count.
    """
    source = file.read_bytes()
    return (_syntax_hash(source) if file.suffix == ".py" else None) or _text_hash(source)


@functools.lru_cache(maxsize=4096)  # by contents: a file is read again, and parsed once
def _syntax_hash(source: bytes) -> str | None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)]
    return sha256_text(ast.dump(tree))


def _is_text(line: ast.stmt) -> bool:
    """A docstring, or another string that nothing is done with."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _text_hash(source: bytes) -> str:
    return hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
