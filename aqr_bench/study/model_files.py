"""Model configs: those that ship, those of installed packages (mmdet3d::...), and custom files."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from aqr_bench.errors import UserError, nearest
from aqr_bench.study.hashes import SHORT, source_hash

CONFIGS = Path(__file__).parents[1] / "cmt" / "configs"
PACKAGE = "::"  # between a package and the path of one of its configs, as mmengine writes it


def shipped_models() -> list[str]:
    """Names of the configs in ``aqr_bench/cmt/configs``."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def is_file_name(model: str) -> bool:
    """Whether a model is named by its file and not by the name of a config that ships."""
    return model.endswith(".py") and PACKAGE not in model


def is_foreign(model: str) -> bool:
    """Whether a model is not one of those that ship here: a file, or a config of a package."""
    return PACKAGE in model or is_file_name(model)


def is_package_config(model: str) -> bool:
    """Whether a model is a config of an installed package, ``mmdet3d::folder/name.py``."""
    return PACKAGE in model


def model_slug(name: str) -> str:
    """The name of a model that belongs to no tier, as its records have it: lower case, digits, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).lstrip("_-") or "model"


def named_beside(model: str | None, yaml_file: Path) -> str | None:
    """A model as a tier or study names it; a relative file counts from the folder of the YAML that names it."""
    if model is None or not is_file_name(model):
        return model
    return Path(os.path.normpath(yaml_file.parent / Path(model).expanduser())).as_posix()


def model_file(model: str) -> Path:
    """The file of a config: a shipped one by name, one of a package as ``mmdet3d::folder/name.py``, or any by path.

    Raises:
        UserError: there is none; says where it was looked for.
    """
    if PACKAGE in model:
        return _package_file(*model.split(PACKAGE, 1))
    if is_file_name(model):
        if Path(model).is_file():
            return Path(model)
        raise UserError(f"no model config {model}", "A relative path counts from the folder of the file that names it.")
    path = CONFIGS / f"{model}.py"
    if not path.is_file():
        raise UserError(f"no '{model}' in aqr_bench/cmt/configs{nearest(model, shipped_models())}")
    return path


def _package_file(package: str, name: str) -> Path:
    origin = _package_origin(package)
    if origin is None:
        raise UserError(f"model config {package}{PACKAGE}{name}: the package '{package}' is not installed")
    configs = _package_configs(origin)
    path = configs / name
    if not path.is_file():
        known = [p.relative_to(configs).as_posix() for p in configs.rglob("*.py")]
        close = nearest(name, known) if known else ""
        hint = "" if close.startswith("; known") else close
        raise UserError(f"model config {package}{PACKAGE}{name}: no such file in {configs}{hint}")
    return path


def _package_origin(package: str) -> str | None:
    """The ``__init__.py`` of an installed package; None where there is none of that name."""
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # __main__ has no spec
        return None
    return None if spec is None else spec.origin


def _package_configs(origin: str) -> Path:
    """Where mim keeps the configs of a package."""
    return Path(origin).parent / ".mim" / "configs"


def configs_below(name: str) -> list[str]:
    """The configs that a name stands for: those of a folder, of a package (``mmdet3d``), or the one that it names.

    Of a folder or package, Python files that look like configs, by their content; parts that others inherit from, in
    folders called ``_base_``, are left out.

    Raises:
        UserError: there is no such folder, package or config, or there are no configs in it.
    """
    if Path(name).is_dir():
        folder, prefix = Path(name), f"{name.rstrip('/')}/"
    elif (origin := _package_origin(name)) is not None:
        folder, prefix = _package_configs(origin), f"{name}{PACKAGE}"
    else:
        model_file(name)
        return [name]
    files = [path.relative_to(folder) for path in folder.rglob("*.py") if _looks_like_config(path)]
    names = sorted(f"{prefix}{path.as_posix()}" for path in files if "_base_" not in path.parts)
    if not names:
        raise UserError(f"no configs in {folder}", "Give a folder with mmdet3d configs, or the name of its package.")
    return names


def _looks_like_config(path: Path) -> bool:
    try:
        text = path.read_bytes()
    except OSError:
        return False
    return re.search(rb"^(_base_|test_dataloader)\s*=|read_base\(\)", text, re.MULTILINE) is not None


def own_sources(model: str) -> list[Path]:
    """The Python files that belong to a custom config; none for what packages bring.

    Those in its folder and the folders below, and the chain of its ``_base_`` wherever that lies.
    """
    if PACKAGE in model or not is_file_name(model):
        return []
    config = model_file(model)
    return sorted({*_python_files(config.parent), *_base_chain(config)})


def config_files(model: str) -> list[Path]:
    """The files that say what a model is: its config and the chain of its ``_base_``; of a custom one all its sources.

    Those of packages are left out.
    """
    if PACKAGE in model:
        return []
    return own_sources(model) or sorted({model_file(model), *_base_chain(model_file(model))})


def base_files(model: str) -> list[Path]:
    """The files that a config inherits from, by whatever number of steps; those of packages are left out."""
    return sorted(_base_chain(model_file(model)))


def source_hashes(model: str) -> dict[str, str]:
    """Hash of each of ``own_sources``, by its path relative to the config: the folder they lie in makes no other model.

    See ``hashes.source_hash``.
    """
    files = own_sources(model)
    folder = model_file(model).parent if files else Path()
    return {Path(os.path.relpath(file, folder)).as_posix(): source_hash(file)[:SHORT] for file in files}


def _python_files(folder: Path) -> Iterator[Path]:
    """Python files of a folder and its sub-packages; hidden folders and virtual environments are left out."""
    yield from folder.glob("*.py")
    for child in folder.iterdir():
        hidden = child.name.startswith((".", "__")) or child.name in ("site-packages", "node_modules")
        if child.is_dir() and not child.is_symlink() and not hidden and not (child / "pyvenv.cfg").exists():
            yield from _python_files(child)


def _base_chain(config: Path) -> set[Path]:
    """The files that a config inherits from, by ``_base_`` or by imports under ``read_base()``, and theirs in turn."""
    chain: set[Path] = set()
    waiting = [config]
    while waiting:
        file = waiting.pop()
        for name in _base_names(file):
            base = Path(os.path.normpath(file.parent / name))
            if base.is_file() and base not in chain:
                chain.add(base)
                waiting.append(base)
    return chain


def _base_names(file: Path) -> Iterator[str]:
    """Relative paths of the configs that one inherits from; those of packages, ``mmdet3d::...``, are left out."""
    try:
        module = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # the step that builds the model reports it
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets):
            texts = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            yield from (text for text in texts if isinstance(text, str) and PACKAGE not in text)
        elif isinstance(node, ast.With):
            for line in node.body:
                if isinstance(line, ast.ImportFrom) and line.level:
                    up = "../" * (line.level - 1)
                    modules = [line.module] if line.module else [alias.name for alias in line.names]
                    yield from (f"{up}{name.replace('.', '/')}.py" for name in modules)


def make_importable(model: str) -> None:
    """Let ``custom_imports`` of a custom config find the modules that lie beside it."""
    if PACKAGE in model or not is_file_name(model):
        return
    folder = str(model_file(model).parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
