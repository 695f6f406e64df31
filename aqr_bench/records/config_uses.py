"""What the config and settings of a job ask for, of what not every job uses: bias, MoME's head, corruptions."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONDITION_KEYS = ("condition", "conditions")  # of settings; all else are overrides
AQR = "aqr"  # the key of the head's config that the attention bias is built from
CLEAN = "clean"  # what SensorCondition applies where nobody asks for a condition: it changes nothing
# Transforms by their argument that names corruptions, and whatever else may look one up by its name.
_CONDITIONS = {"RandomCondition": "names", "SensorCondition": "name"}
_EXPERT_HEADS = frozenset(["MultiExpertDecoding", "MEFormerHead"])
_LOOKUPS = {*_CONDITIONS, "CORRUPTIONS", "get_corruption"}


@dataclass(frozen=True)
class Uses:
    """What a job uses.

    Args:
        bias: whether the attention bias (``pts_bbox_head.aqr``) is built.
        corruptions: all texts that may be names of corruptions; None: which ones cannot be told.
        texts: all texts, among which are the names of code of the user.
    """

    bias: bool = False
    corruptions: frozenset[str] | None = frozenset()
    texts: frozenset[str] = frozenset()

    @property
    def experts(self) -> bool:
        """Whether the model may have MoME's head: its type is one of the texts."""
        return self.corruptions is None or not _EXPERT_HEADS.isdisjoint(self.corruptions)

    def __or__(self, other: Uses) -> Uses:
        unknown = self.corruptions is None or other.corruptions is None
        corruptions = None if unknown else self.corruptions | other.corruptions
        return Uses(self.bias or other.bias, corruptions, self.texts | other.texts)


EVERYTHING = Uses(True, None)


def config_uses(files: Iterable[Path], overrides: Mapping[str, Any]) -> Uses:
    """What the Python files of a config and the overrides of its keys ask for; in doubt more than that."""
    uses = [source_uses(file.read_bytes()) for file in files]
    return functools.reduce(Uses.__or__, uses, _settings_uses(overrides))


def condition_corruptions(settings: Mapping[str, Any]) -> frozenset[str]:
    """Names of the corruptions of the conditions in settings, which have them as ``Condition.settings``."""
    conditions = [*settings.get("conditions", ()), *([settings["condition"]] if "condition" in settings else [])]
    parts = (part for condition in conditions for part in condition.get("corruptions", [condition]))
    return frozenset(_name(part["corruption"]) for part in parts)


def _settings_uses(value: Any, key: str = "") -> Uses:
    """Of a value of settings, which are data: keys may be dotted, and everything is spelt out."""
    parts = str(key).split(".")
    bias = AQR in parts and (parts[-1] != AQR or bool(value))
    entries: Iterator[tuple[Any, str]] = iter(())
    if isinstance(value, Mapping):
        entries = ((entry, name) for name, entry in value.items())
    elif isinstance(value, list | tuple):
        entries = ((entry, "") for entry in value)
    names = frozenset({_name(value)} - {CLEAN}) if isinstance(value, str) else frozenset()
    return functools.reduce(Uses.__or__, (_settings_uses(*entry) for entry in entries), Uses(bias, names, names))


def _name(text: str) -> str:
    """``multicorrupt.fog@2`` without its severity."""
    return text.partition("@")[0]


@functools.lru_cache(maxsize=256)  # by contents
def source_uses(source: bytes) -> Uses:
    """Of a Python file of a config, or beside it, which may compute whatever it likes."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return EVERYTHING  # the step that builds the model reports it
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    entries = [entry for node in nodes if (entry := _entries(node))]
    no_bias = {id(key) for entry in entries for name, (key, value) in entry.items() if name == AQR and _is_empty(value)}
    bias = any(
        id(node) not in no_bias
        and (_identifier(node) == AQR or (isinstance(node, ast.Constant) and AQR in str(node.value).split(".")))
        for node in nodes
    )
    # A transform spelt out as dict(type="RandomCondition", names=["multicorrupt.fog@2"]) is no lookup.
    spelt_out = {id(entry["type"][1]) for entry in entries if "type" in entry and _is_spelt_out(entry)}
    lookups = any(_identifier(node) in _LOOKUPS for node in nodes)
    lookups |= any(node.value in _LOOKUPS and id(node) not in spelt_out for node in texts)
    names = frozenset(_name(node.value) for node in texts) - {CLEAN}
    return Uses(bias, None if lookups else names, names)


def _identifier(node: ast.AST) -> str | None:
    """The name that a node stands for or binds."""
    for field in ("id", "attr", "arg", "name"):
        if isinstance(text := getattr(node, field, None), str):
            return text
    return None


def _entries(node: ast.AST) -> dict[str, tuple[ast.AST, ast.AST]]:
    """Keys of a dictionary that is spelt out, ``dict(a=1)`` or ``{"a": 1}``, with the nodes of key and value."""
    if isinstance(node, ast.Call) and _identifier(node.func) == "dict":
        return {keyword.arg: (keyword, keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: (key, value) for key, value in pairs if isinstance(key, ast.Constant)}
    return {}


def _is_empty(value: ast.AST) -> bool:
    if isinstance(value, ast.Constant):
        return value.value is None
    if isinstance(value, ast.Call):
        return _identifier(value.func) == "dict" and not value.args and not value.keywords
    return isinstance(value, ast.Dict) and not value.keys


def _is_spelt_out(entry: Mapping[str, tuple[ast.AST, ast.AST]]) -> bool:
    """Whether the names of corruptions in the config of a transform are plain texts."""
    kind = entry["type"][1]
    argument = _CONDITIONS.get(kind.value) if isinstance(kind, ast.Constant) else None
    if argument is None or argument not in entry:
        return argument is not None
    value = entry[argument][1]
    names = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    return all(isinstance(name, ast.Constant) for name in names)
