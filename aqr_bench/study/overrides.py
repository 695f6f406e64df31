"""Overrides of a config: dotted keys and their values, merged in layers and checked against the config they change."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, nearest, quoted, short


def merge_overrides(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge dotted overrides, later ones first in force, so that no key of the result lies inside another.

    ``{"a": {"x": 1}}`` then ``{"a.x": 2}`` gives ``{"a": {"x": 2}}``; ``{"a.x": 1}`` then ``{"a": None}`` gives
    ``{"a": None}``. Raises UserError where a key reaches into a value that is no mapping.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            parent = next((k for k in merged if key.startswith(k + ".")), None)
            if parent is not None:
                _set_inside(merged[parent], parent, key, value)
                continue
            merged = {k: v for k, v in merged.items() if not k.startswith(key + ".")}
            merged[key] = deepcopy(value)
    return merged


def _set_inside(target: Any, parent: str, key: str, value: Any) -> None:
    parts = key[len(parent) + 1 :].split(".")
    reached = parent
    for i, part in enumerate(parts):
        if not isinstance(target, dict):
            what = f"lies inside '{reached}', set to {quoted(target)}"
            raise UserError(f"config: '{short(key)}' {what}; set '{reached}' whole")
        if i == len(parts) - 1:
            target[part] = deepcopy(value)
        else:
            target = target.setdefault(part, {})
            reached = f"{reached}.{part}"


def config_entry(node: Any, part: str) -> str | int | None:
    """Key or index that one part of a dotted key means in ``node``; None if there is no such thing.

    A list is entered by index, or by the ``type`` of an element that is the only one of its type.
    """
    if isinstance(node, Mapping):
        return part if part in node else None
    if not isinstance(node, list | tuple):
        return None
    if part.isdecimal():
        return int(part) if int(part) < len(node) else None
    at = [i for i, element in enumerate(node) if isinstance(element, Mapping) and element.get("type") == part]
    return at[0] if len(at) == 1 else None


def check_overrides(config: Mapping[str, Any], overrides: Mapping[str, Any], where: str | Path) -> None:
    """Raise UserError unless every dotted key exists in ``config``, with a value that the new one may replace.

    Lists: see :func:`config_entry`; types: see :func:`type_conflict`.
    """
    for key, value in overrides.items():
        node: Any = config
        parts = key.split(".")
        for i, part in enumerate(parts):
            entry = config_entry(node, part)
            if entry is None:
                candidates = node if isinstance(node, Mapping) else []
                if isinstance(node, list | tuple):
                    candidates = [e["type"] for e in node if isinstance(e, Mapping) and "type" in e]
                parent = ".".join(parts[:i]) or "the config"
                if candidates and list(candidates).count(part) > 1:
                    raise UserError(f"{where}: config key '{short(key)}': several '{part}' in {parent}; give the index")
                hint = nearest(part, candidates)
                raise UserError(f"{where}: config key '{short(key)}': no '{short(part)}' in {parent}{hint}")
            node = node[entry]
        if conflict := type_conflict(node, value):
            raise UserError(f"{where}: config key '{short(key)}': {conflict}")


def type_conflict(old: Any, new: Any) -> str | None:
    """Why a value cannot replace another one: numbers and mappings stand for themselves alone.

    Null and lists go with everything, false with text: settings are off with them, and take one number or several.
    """
    kinds = _kind(old), _kind(new)
    if None not in kinds and kinds[0] != kinds[1] and set(kinds) != {"true or false", "text"}:
        hint = ""
        if kinds == ("a number", "text") and _is_number(new):
            hint = "; without quotes it is a number"
        elif kinds == ("a number", "true or false"):
            hint = "; YAML reads on, off, yes and no so"
        return f"{quoted(new)} is {kinds[1]}, the value that it replaces ({quoted(old)}) is {kinds[0]}{hint}"
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type", old.get("type")):
        for key in old.keys() & new.keys():
            if conflict := type_conflict(old[key], new[key]):
                return f"{short(key)}: {conflict}"
    return None


def _kind(value: Any) -> str | None:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return "a mapping" if isinstance(value, Mapping) else kinds.get(type(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
