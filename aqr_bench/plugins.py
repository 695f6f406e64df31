"""Code of the user by name: ``my_file.py:NAME``, ``package.module:NAME``, or a name that is registered.

Names are registered by an installed package, as entry points of ``GROUPS``, or by ``register`` in a module that is
imported already.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, nearest, short
from aqr_bench.folders import project_folder

# Groups of entry points.
GROUPS = ROUTERS, CORRUPTIONS, METRICS, WORLD_CLASSES = tuple(
    f"aqr_bench.{kind}" for kind in ("routers", "corruptions", "metrics", "world_classes")
)
PACKAGE = "aqr_bench"
_REFERENCE = re.compile(r"([^:\s]+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_REGISTERED: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}


def is_reference(text: str) -> bool:
    """Whether a text has the form ``my_file.py:NAME`` or ``package.module:NAME``."""
    return _REFERENCE.fullmatch(text) is not None


def register(group: str, name: str, entry: Any) -> None:
    """Let ``name`` stand for ``entry`` in this process. UserError: it stands for something else already."""
    other = _REGISTERED[group].setdefault(name, entry)
    if other is not entry and _origin(other) != _origin(entry):
        raise UserError(f"{group}: '{name}' is registered twice, by {_origin(other)} and by {_origin(entry)}")
    _REGISTERED[group][name] = entry


def installed(group: str) -> dict[str, str]:
    """References by name that installed packages register as entry points of a group."""
    return {name: value for name, value in _entry_points(group, tuple(sys.path))}


def find(text: str, group: str) -> Any | None:
    """What a reference or a registered name stands for; None for any other text.

    Raises:
        UserError: no such file, module or name, or the file cannot be imported.
    """
    if is_reference(text):
        return _load(text, text)
    if text in _REGISTERED[group]:
        return _REGISTERED[group][text]
    reference = installed(group).get(text)
    return None if reference is None else _load(reference, f"{text} = {reference}")


def source_files(text: str, group: str) -> dict[str, Path]:
    """The user's files behind a reference or an installed name: its own, and what that imports, at several removes.

    Nothing is imported. Left out are the files of this package and of installed ones, other than the package that
    the name is in. Keys are how the files are named in hashes: ``./my_file.py``, wherever the project lies.
    """
    match = _REFERENCE.fullmatch(text) or _REFERENCE.fullmatch(installed(group).get(text, ""))
    if match is None:
        return {}
    module = match[1]
    if module.endswith(".py"):
        given, first = Path(module).expanduser(), _file(module)
        named = {first: _key(given)} if first.is_file() else {}
        return {name: file for file, name in _closure(named, [first.parent, project_folder()], ()).items()}
    root, only = _root(module)
    if root is None:
        return {}
    first_files = {file: _key(file.relative_to(root)) for file in _module_files(module, [root])}
    return {name: file for file, name in _closure(first_files, [root, project_folder()], only).items()}


# ---------------------------------------------------------------- importing


def _load(reference: str, what: str) -> Any:
    module_name, name = _REFERENCE.fullmatch(reference).groups() if is_reference(reference) else (reference, "")
    if not name:
        raise UserError(f"entry point '{what}' names no object", "Write it as name = package.module:NAME.")
    module = _import_file(module_name, what) if module_name.endswith(".py") else _import_module(module_name, what)
    try:
        return getattr(module, name)
    except AttributeError:
        here = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise UserError(f"'{short(what)}': {module_name} has no '{name}'{nearest(name, here)}") from None


def _file(text: str) -> Path:
    return Path(os.path.normpath(project_folder() / Path(text).expanduser()))


def _import_file(text: str, what: str) -> Any:
    """The module of a file, imported once, under a name that no other module has."""
    path = _file(text)
    if not path.is_file():
        raise UserError(f"'{short(what)}': no file {path}", "A relative file counts from the project's folder.")
    name = f"aqr_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _make_importable(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _unusable(what, path, error) from error
    return module


def _import_module(name: str, what: str) -> Any:
    _make_importable(project_folder())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            remedy = f"Install its package, or put it into the project's folder, {project_folder()}."
            raise UserError(f"'{short(what)}': no module '{error.name}'", remedy) from None
        raise _unusable(what, name, error) from error
    except Exception as error:
        raise _unusable(what, name, error) from error


def _make_importable(folder: Path) -> None:
    importlib.invalidate_caches()  # a file may be younger than what Python remembers of its folder
    for path in (str(folder), str(project_folder())):
        if path not in sys.path:
            sys.path.append(path)


def _unusable(what: str, where: str | Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return UserError(f"'{short(what)}': {error.message}", error.remedy)
    line = getattr(error, "lineno", None)
    place = f"{where}, line {line}" if line else where
    is_relative = "relative import" in str(error)
    remedy = "Name it as package.module:NAME, which may have relative imports." if is_relative else ""
    text = getattr(error, "msg", None) if isinstance(error, SyntaxError) else error
    return UserError(f"'{short(what)}': {place} cannot be imported: {type(error).__name__}: {text}", remedy)


@functools.lru_cache(maxsize=8)
def _entry_points(group: str, _path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    entries = importlib.metadata.entry_points(group=group)
    return tuple((entry.name, entry.value.partition("[")[0].strip()) for entry in entries)


def _origin(entry: Any) -> str:
    """File and name: a file may be imported under several names."""
    module = getattr(entry, "__module__", "")
    return f"{getattr(sys.modules.get(module), '__file__', module)}:{getattr(entry, '__qualname__', entry)}"


# ---------------------------------------------------------------- the files behind a name


def _key(path: Path) -> str:
    text = Path(os.path.normpath(path)).as_posix()
    return text if text.startswith(("/", "../")) else f"./{text}"


def _root(module: str) -> tuple[Path | None, tuple[str, ...]]:
    """The folder that a module's package is in, and the packages of that folder which count (none: all)."""
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    spec = spec or importlib.machinery.PathFinder.find_spec(top, [str(project_folder())])
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    if not places and (spec is None or not spec.origin or not Path(spec.origin).is_file()):
        return None, ()
    root = Path(places[0]).parent if places else Path(spec.origin).parent
    is_installed = {"site-packages", "dist-packages"} & set(root.parts)
    return root, (top,) if is_installed else ()


def _closure(first: dict[Path, str], roots: Sequence[Path], only: Sequence[str]) -> dict[Path, str]:
    """Files and their names in hashes. Those of imports are named by where they lie from the first one."""
    named, waiting = dict(first), list(first)
    while waiting:
        file = waiting.pop()
        for other in _imported(file, roots, only):
            if other not in named:
                relative = Path(os.path.relpath(other, file.parent))
                named[other] = _key(Path(named[file]).parent / relative)
                waiting.append(other)
    return named


def _imported(file: Path, roots: Sequence[Path], only: Sequence[str]) -> Iterator[Path]:
    for level, name in _imports(file.read_bytes()):
        if level:
            yield from _module_files(name, [file.parents[level - 1]])
        elif name.partition(".")[0] != PACKAGE:
            inside = not only or name.partition(".")[0] in only
            yield from _module_files(name, roots if inside else roots[1:])


@functools.lru_cache(maxsize=256)  # by contents
def _imports(source: bytes) -> tuple[tuple[int, str], ...]:
    """(level, dotted name) of everything that a source imports, names of modules and of what is in them alike."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()  # what imports the file reports it
    names: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names]
    return tuple(dict.fromkeys(names))


def _module_files(name: str, roots: Iterable[Path]) -> list[Path]:
    """Files that importing a dotted name runs, below the first of the roots that has any: packages, and the module."""
    for root in roots:
        files, base = [], root
        for part in name.split("."):
            base = base / part
            present = [path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()]
            files += present[:1]
            if not base.is_dir():
                break
        if files:
            return files
    return []
