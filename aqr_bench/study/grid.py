"""Variants of a grid: ``matrix`` of a study file spells out every combination of some values, as in CI services."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

from aqr_bench.errors import UserError, join_names, nearest, short

MAX_VARIANTS = 1000


def grid_variants(matrix: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Name and entry of every combination of ``matrix.values`` not in ``matrix.exclude``; the last key is fastest.

    ``$key`` in name, summary and config stands for the value. As the whole of a config value it keeps its type, inside
    text it is written out. UserError: an unknown key, two variants of one name.
    """
    values = matrix["values"]
    if math.prod(map(len, values.values())) > MAX_VARIANTS:
        raise UserError(f"{path}: matrix.values: more than {MAX_VARIANTS} combinations")
    for number, excluded in enumerate(matrix.get("exclude", [])):
        for key in excluded:
            if key not in values:
                raise UserError(f"{path}: matrix.exclude.{number}: unknown key '{short(key)}'{nearest(key, values)}")
    variants: dict[str, dict[str, Any]] = {}
    for point in _points(values, matrix.get("exclude", [])):
        entry = {key: _filled(matrix[key], point, f"{path}: matrix.{key}") for key in ("name", "summary", "config")}
        name = str(entry.pop("name"))
        if name in variants:
            keys = join_names(f"${key}" for key in values)
            raise UserError(f"{path}: matrix.name: gives '{short(name)}' twice; it needs all of {keys}")
        variants[name] = entry
    return variants


def _points(values: Mapping[str, list], exclude: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for combination in product(*values.values()):
        point = dict(zip(values, combination, strict=True))
        if not any(all(point[key] == value for key, value in excluded.items()) for excluded in exclude):
            yield point


def _filled(value: Any, point: Mapping[str, Any], where: str) -> Any:
    """The value with ``$key`` replaced, in mappings and lists as well."""
    if isinstance(value, Mapping):
        return {key: _filled(item, point, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, point, where) for item in value]
    if not isinstance(value, str):
        return value
    for key in point:
        if value in (f"${key}", f"${{{key}}}"):
            return point[key]
    try:
        return Template(value).substitute(point)
    except KeyError as error:
        key = error.args[0]
        raise UserError(f"{where}: '{short(value)}': unknown key '${short(key)}'{nearest(key, point)}") from None
    except ValueError:
        raise UserError(f"{where}: '{short(value)}': a $ that starts no key; $$ is a dollar sign") from None
