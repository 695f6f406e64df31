"""YAML files checked against the JSON Schemas in workflow/schemas, with messages that name key, value and way out."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from aqr_bench.errors import UserError, nearest


def repository_root() -> Path:
    """The folder that holds ``ablations/`` and ``workflow/schemas/``.

    The working directory and its parents come first, so that a copy of the repository uses its own files; then the
    place of this package (an editable installation).
    """
    for folder in (*[Path.cwd(), *Path.cwd().parents], Path(__file__).resolve().parents[1]):
        if (folder / "ablations").is_dir() and (folder / "workflow" / "schemas").is_dir():
            return folder
    raise UserError(
        "no ablations/ and workflow/schemas/ folder here or above. Run inside a checkout of the repository."
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-4 as a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: set = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise UserError(f"line {line}: key {key!r} is read as {type(key).__name__}; put it in quotes")
        if key in seen:
            raise UserError(f"line {line}: key '{key}' is given twice")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; UserError names the file, and the line where YAML knows it."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UserError as err:
        raise UserError(f"{path}: {err}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(err).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


@functools.cache
def _schema(file: Path) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(yaml.safe_load(file.read_text(encoding="utf-8")))


def schema_for(name: str) -> jsonschema.Draft202012Validator:
    """Validator for ``workflow/schemas/<name>.schema.yaml``."""
    return _schema(repository_root() / "workflow" / "schemas" / f"{name}.schema.yaml")


@functools.cache
def _compiled(file: Path) -> Callable[[Any], Any]:
    import fastjsonschema

    return fastjsonschema.compile(yaml.safe_load(file.read_text(encoding="utf-8")), use_default=False)


def _record_is_valid(data: Any) -> bool:
    """Whether a record keeps its schema, by a compiled check: reports and checks read tens of thousands of them.

    What it does not let through goes the slow way, which can say why.
    """
    from fastjsonschema import JsonSchemaValueException

    try:
        _compiled(repository_root() / "workflow" / "schemas" / "record.schema.yaml")(data)
    except JsonSchemaValueException:
        return False
    return True


def schema_error(data: Any, schema: str) -> str | None:
    """First violation as ``key: what is wrong``, or None. The key is the full dotted path."""
    if schema == "record" and _record_is_valid(data):
        return None
    errors = sorted(schema_for(schema).iter_errors(data), key=_weight)
    return _explain(errors[0]) if errors else None


def _weight(err: jsonschema.ValidationError) -> tuple:
    """What is wrong by itself comes before what is wrong only because of another key, and outer keys before inner."""
    conditional = bool({"if", "then", "else"} & set(map(str, err.absolute_schema_path)))
    return conditional, len(err.absolute_path), str(err.absolute_path)


def _explain(err: jsonschema.ValidationError) -> str:
    path = [str(p) for p in err.absolute_path]
    here = ".".join(path) or "top level"
    if err.validator == "additionalProperties":
        known = err.schema.get("properties", {})
        extra = next(k for k in err.instance if k not in known)
        hint = nearest(extra, known)
        listed = "" if hint.startswith("; known") else f" (known: {', '.join(sorted(known))})"
        return f"{'.'.join([*path, extra])}: unknown key{hint}{listed}"
    if err.validator == "required":
        missing = next(k for k in err.validator_value if k not in err.instance)
        return f"{'.'.join([*path, missing])}: missing key"
    if err.validator == "enum":
        allowed = [str(v) for v in err.validator_value]
        return f"{here}: {err.instance!r} is not one of {', '.join(allowed)}{_close(err.instance, allowed)}"
    if err.validator == "type":
        wanted = err.validator_value if isinstance(err.validator_value, str) else " or ".join(err.validator_value)
        return f"{here}: {err.instance!r} is {type(err.instance).__name__}, expected {wanted}"
    if err.validator == "not" and "required" in err.validator_value:
        return f"{'.'.join([*path, *err.validator_value['required']])}: not allowed here"
    if err.parent is None and "propertyNames" in err.absolute_schema_path:
        return f"{'.'.join([*path, str(err.instance)])}: not a valid name (letters, digits, '_' ; dots between parts)"
    return f"{here}: {err.message}"


def _close(value: Any, allowed: list[str]) -> str:
    hint = nearest(str(value), allowed)
    return "" if hint.startswith("; known") else hint
