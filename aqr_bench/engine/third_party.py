"""Configs and detectors written elsewhere: whatever they raise while they are opened or built becomes one line."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, root_cause, short
from aqr_bench.records.record import status_of


@contextmanager
def opening_config(path: Path) -> Iterator[None]:
    """UserError with file, line and cause for anything that a config raises: it is Python, and so may anything in it.

    Lack of memory is left as it is.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        remedy = "Correct the import, or custom_imports of the config."
        raise UserError(f"{path}: {_with_place(root_cause(error))}", remedy) from error
    except Exception as error:
        what = f"{path}: {_with_place(error)}"
        if isinstance(error, SyntaxError):  # mmengine parses without the name of the file
            what = f"{_config_of(error) or path}, line {error.lineno}: SyntaxError: {error.msg}"
        raise UserError(what, "Correct the config.") from error


@contextmanager
def building_model(where: str) -> Iterator[None]:
    """UserError with the cause for anything that a detector's import or constructor raises, except lack of memory."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if status_of(error) == "oom":
            raise
        unknown = re.match(r"'?(\S+) is not in the (\S+) registry", str(error).strip("\"'"))
        if unknown:
            what = f"no '{unknown[1]}' is registered in {unknown[2]}"
            remedy = "Correct the type in the config, or add the module that registers it to custom_imports."
        else:
            what, remedy = _with_place(root_cause(error)), "Correct the config or the code of the model."
        raise UserError(f"{where}: the model cannot be built: {what}", remedy) from error


def build_model(config: Any) -> Any:
    """The detector of a config, with random weights. Raises whatever its modules and constructors raise.

    Some constructors (mmdet3d's projects/BEVFusion) load or download what ``init_cfg`` names. A checkpoint replaces all
    of it, and the machine may have no network.
    """
    from mmengine.registry import init_default_scope
    from mmengine.utils import import_modules_from_strings

    import_modules_from_strings(**config.custom_imports)
    init_default_scope(config.default_scope)
    from mmdet3d.registry import MODELS

    return MODELS.build(without_pretrained(config.model))


def without_pretrained(part: Any) -> Any:
    """A copy of the config of a model without every ``init_cfg`` that names a file of weights."""
    if isinstance(part, dict):
        parts = {key: value for key, value in part.items() if key != "init_cfg" or not _is_pretrained(value)}
        return type(part)({key: without_pretrained(value) for key, value in parts.items()})
    return type(part)(map(without_pretrained, part)) if isinstance(part, list | tuple) else part


def _is_pretrained(init_cfg: Any) -> bool:
    several = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    return any(isinstance(entry, dict) and entry.get("type") == "Pretrained" for entry in several)


def _with_place(error: BaseException) -> str:
    """The error, and the file and line where it is, as far as Python code of the user has one."""
    ours, mmengine = Path(__file__).parents[1], Path(sys.modules["mmengine"].__file__).parent
    libraries = ("<frozen", str(Path(importlib.__file__).parent), str(mmengine), str(ours))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {short(' '.join(str(error).split()), 400)}{where}"


def _config_of(error: BaseException) -> str | None:
    """The config file, of those that inherit from one another, in which mmengine met the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [f.f_locals.get("filename") for f in frames if f.f_code.co_name in ("_file2dict", "_parse_lazy_import")]
    return next((str(name) for name in reversed(names) if name), None)
