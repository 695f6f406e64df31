"""YAML files checked against the JSON Schemas in workflow/schemas, with messages that name key, value and way out."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from aqr_bench.errors import UserError, join_names, nearest, quoted, short
from aqr_bench.folders import shipped

# ---------------------------------------------------------------- reading

# What no file of ours comes near to. An alias counts as often as it is used: a few lines can stand for billions.
MAX_BYTES, MAX_VALUES, MAX_LEVELS, MAX_INTEGER = 1_000_000, 50_000, 40, 2**63
# PyYAML turns numbers and dates into Python's without looking at them first, and goes into lists by recursion.
_PARSER_ERRORS = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-4 as a number. Merge keys (``<<``) work."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace merge keys by what they stand for; before that, the keys are checked as they are written."""
        checked = self.__dict__.setdefault("checked", set())
        if id(node) in checked:  # merged into another mapping before: its keys may now be there twice
            return
        checked.add(id(node))
        seen: set = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE_KEY:
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(f"line {line}: key {quoted(key)} is read as {type(key).__name__}; put it in quotes")
            if key in seen:
                raise UserError(f"line {line}: key '{short(key)}' is given twice")
            seen.add(key)
        super().flatten_mapping(node)
        self.keys = self.__dict__.get("keys", 0) + len(node.value)
        if self.keys > 2 * MAX_VALUES:  # a few merge keys can stand for billions
            raise UserError(f"line {node.start_mark.line + 1}: too many keys")


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node)


MERGE_KEY = "tag:yaml.org,2002:merge"
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@functools.lru_cache(maxsize=256)  # by contents: a start of the workflow reads each suite several times
def _parsed(source: bytes) -> Any:
    """Plain values; not to be changed."""
    data = yaml.load(source.decode("utf-8"), Loader=_Loader)
    _require_plain(data)
    return data


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values; UserError names the file, and the line or key where it is known."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{path}: {size / 1e6:.1f} MB are more than any study, tier or suite has")
    try:
        data = copy.deepcopy(_parsed(path.read_bytes()))
    except UserError as err:
        raise UserError(f"{path}: {err}") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: nested more than {MAX_LEVELS} levels deep") from None
    except _PARSER_ERRORS as err:
        raise UserError(f"{path}: not valid YAML: {short(' '.join(str(err).split()), 300)}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def parse_value(text: str, where: str) -> Any:
    """A value of a command line, read as in a file; UserError says ``where``."""
    try:
        value = yaml.load(text, Loader=_Loader)
        _require_plain(value)
    except UserError as err:
        raise UserError(f"{where}: {err}") from None
    except _PARSER_ERRORS as err:
        raise UserError(f"{where}: not valid YAML: {short(' '.join(str(err).split()), 300)}") from None
    return value


def _require_plain(data: Any) -> None:
    """UserError for values that JSON does not have, and for more of them, or deeper ones, than any file of ours has."""
    count, todo = 0, [(data, ())]
    while todo:
        value, path = todo.pop()
        count += 1
        here = ".".join(map(short, path)) or "top level"
        if count > MAX_VALUES or len(path) > MAX_LEVELS:
            what = f"nested more than {MAX_LEVELS} levels deep" if len(path) > MAX_LEVELS else "too many values"
            raise UserError(f"{short(here)}: {what} (an alias counts as often as it is used)")
        if isinstance(value, dict):
            todo += [(v, (*path, k)) for k, v in value.items()]
            _require_characters(here, *value)
        elif isinstance(value, list):
            todo += [(v, (*path, str(i))) for i, v in enumerate(value)]
        elif isinstance(value, str):
            _require_characters(here, value)
        elif value is not None and not isinstance(value, bool | int | float):
            raise UserError(f"{short(here)}: is read as {type(value).__name__}; put it in quotes")
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UserError(f"{short(here)}: a whole number of {value.bit_length()} bits is too large")
        elif isinstance(value, float) and math.isnan(value):
            raise UserError(f"{short(here)}: is not a number (.nan)")


def _require_characters(here: str, *texts: str) -> None:
    """UserError for text that no file name and no UTF-8 file can hold: NUL, and halves of surrogate pairs."""
    for text in texts:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
            raise UserError(f"{short(here)}: {quoted(text)} has a character that no text has")


# ---------------------------------------------------------------- checking


def name_problem(name: str) -> str | None:
    """What a command line or YAML would take a name for instead of text; None if it stays text.

    Snakemake's ``--config`` guesses types as Python and YAML do: ``1_2`` would be 12, ``1e5`` a number, ``no`` false.
    """
    for convert in (int, float):
        try:
            return f"the number {convert(name)}"
        except ValueError:
            continue
    try:
        value = yaml.load(name, Loader=_Loader)
    except _PARSER_ERRORS:  # such as 2024-13-40, which has the form of a date
        return "something else than text"
    if isinstance(value, str):
        return None
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"the number {value}" if isinstance(value, int | float) else "a date"


def _is_integer(_checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # JSON Schema takes 2.0 for one, range() does not


def _is_number(_checker: Any, value: Any) -> bool:
    return _is_integer(_checker, value) or (isinstance(value, float) and math.isfinite(value))


def _pattern(validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    """As JSON Schema has it, where ``$`` is the end: Python's lets a line break follow."""
    if validator.is_type(value, "string") and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"pattern": _pattern},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def _read_schema(file: Path) -> Any:
    """What a schema says. It is ours, so no key is checked; libyaml's parser takes a tenth of the time."""
    return yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@functools.cache
def _schema(file: Path) -> jsonschema.Draft202012Validator:
    return _Validator(_read_schema(file))


def schema_for(name: str) -> jsonschema.Draft202012Validator:
    """Validator for ``workflow/schemas/<name>.schema.yaml``."""
    return _schema(shipped(f"workflow/schemas/{name}.schema.yaml"))


@functools.cache
def _compiled(file: Path) -> Callable[[Any], Any]:
    import fastjsonschema

    return fastjsonschema.compile(_read_schema(file), use_default=False)


def _record_is_valid(data: Any) -> bool:
    """Whether a record keeps its schema, by a compiled check: reports and checks read tens of thousands of them.

    What it does not let through goes the slow way, which can say why.
    """
    from fastjsonschema import JsonSchemaValueException

    try:
        _compiled(shipped("workflow/schemas/record.schema.yaml"))(data)
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
    path = [short(p) for p in err.absolute_path]
    here = ".".join(path) or "top level"
    value = quoted(err.instance)
    if err.validator == "additionalProperties":
        properties = err.schema.get("properties", {})
        unknown = next(k for k in err.instance if k not in properties)
        hint = nearest(unknown, properties)
        others = "" if hint.startswith("; known") else f" (known: {join_names(sorted(properties))})"
        return f"{'.'.join([*path, short(unknown)])}: unknown key{hint}{others}"
    if err.validator == "required":
        missing = next(k for k in err.validator_value if k not in err.instance)
        return f"{'.'.join([*path, missing])}: missing key"
    if err.validator == "enum":
        allowed = [str(v) for v in err.validator_value]
        return f"{here}: {value} is not one of {', '.join(allowed)}{_close(err.instance, allowed)}"
    if err.validator == "type":
        wanted = err.validator_value if isinstance(err.validator_value, str) else " or ".join(err.validator_value)
        return f"{here}: {value} is {type(err.instance).__name__}, expected {wanted}"
    if err.validator == "not" and "required" in err.validator_value:
        return f"{'.'.join([*path, *err.validator_value['required']])}: not allowed here"
    if err.validator == "maxLength":
        return f"{here}: {value} is longer than {err.validator_value} characters"
    if err.parent is None and "propertyNames" in err.absolute_schema_path:
        return f"{'.'.join([*path, short(err.instance)])}: not a valid name (letters, digits, '_' ; dots between parts)"
    return f"{here}: {short(err.message.replace(repr(err.instance), value, 1), 250)}"


def _close(value: Any, allowed: list[str]) -> str:
    hint = nearest(str(value), allowed)
    return "" if hint.startswith("; known") else hint
