"""Which files of the package a Python file imports, read from its text: nothing is imported by it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
NAME = "aqr_bench"
_MODULE = re.compile(rf"{NAME}(\.\w+)+")


@functools.lru_cache(maxsize=4096)  # by contents: a file is read again, and parsed once
def imported_files(source: bytes) -> frozenset[str]:
    """Files of the package that a source imports, also inside of functions; paths relative to the package.

    - What is imported for type checkers alone is left out; a string that names a module counts as an import.
    - The ``__init__`` of a package is run by whatever imports from it, and belongs to that, unless it does nothing but
      import: of such a one only the names that are asked for count.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()  # what runs the file reports it
    files: set[str] = set()
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            files.update(*(_files_of(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            files.update(*(_files_of_name(node.module, alias.name) for alias in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.fullmatch(node.value):
            files |= _files_of(node.value)
    return frozenset(files)


def closure(entries: Iterable[str], follows: Callable[[str], bool] = lambda file: True) -> frozenset[str]:
    """The entries, and what they import at one or several removes; paths relative to the package.

    ``follows``: whether an import of this file counts. Entries count in any case.
    """
    files: set[str] = set()
    waiting = list(entries)
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        if file.endswith(".py"):
            waiting += filter(follows, imported_files((PACKAGE / file).read_bytes()))
    return frozenset(files)


def is_part_of(file: str, parts: Iterable[str]) -> bool:
    """Whether a file is one of the parts, or in a folder that is one."""
    return any(file == part or file.startswith(f"{part}/") for part in parts)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _files_of_name(module: str, name: str) -> set[str]:
    """Files behind ``from module import name``."""
    if _file(f"{module}.{name}") is not None:
        return _files_of(f"{module}.{name}")
    file = _file(module)
    if file is not None and file.endswith("__init__.py") and name != "*":
        source = _re_exports((PACKAGE / file).read_bytes())
        if source is not None and name in source:
            return _files_of_name(*source[name])
    return _files_of(module)


def _files_of(module: str) -> set[str]:
    """File of a module, with the ``__init__`` of the packages around it that do more than import."""
    file = _file(module)
    if file is None:
        return set()
    around = [f"{folder.as_posix()}/__init__.py" for folder in Path(file).parents if folder.name]
    around = [name for name in around if (PACKAGE / name).is_file()]
    return {file, *(name for name in around if _re_exports((PACKAGE / name).read_bytes()) is None)}


def _file(module: str) -> str | None:
    """File of a module of the package; None if there is none, as for the modules of others."""
    root, *path = module.split(".")
    if root != NAME or not path:
        return None
    base = "/".join(path)
    return next((name for name in (f"{base}.py", f"{base}/__init__.py") if (PACKAGE / name).is_file()), None)


@functools.lru_cache(maxsize=256)
def _re_exports(source: bytes) -> dict[str, tuple[str, str]] | None:
    """Module and name behind each name of an ``__init__`` that does nothing but import; None for another one."""
    names: dict[str, tuple[str, str]] = {}
    for line in ast.parse(source).body:
        if isinstance(line, ast.ImportFrom) and line.module:
            names |= {alias.asname or alias.name: (line.module, alias.name) for alias in line.names}
        elif isinstance(line, ast.Assign):
            if [getattr(target, "id", None) for target in line.targets] != ["__all__"]:
                return None
        elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):
            return None
    return names
