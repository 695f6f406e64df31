"""Strategies that spoil a good file: a tree of values, the text of a YAML file, or bytes."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_NUMBERS = [0, -1, 1, 2.0, 0.5, -0.0, 10**6, 10**12, 2**63, -(2**64), 10**40, *map(float, ("nan", "inf", "-inf"))]
_TEXTS = "none clean ../../etc/passwd / ~ ~nobody-at-all/x %s%n{0}{x} 1e9 null a.b.c ü 名前 𝒳 ² ٣"
_CONTROL = ["", " ", "a\nb", "a\tb", "\x1b[31m", "\0", "\ud800", "; rm x", "$(touch x)", "a" * 70, "a" * 3000]
_TREES = [[], {}, [[]], [None], [1, "a", None], {"": 1}, {"a": {"b": {"c": 1}}}, {1: 2}, {None: None}, {"type": "x"}]
_LARGE = [list(range(2000)), {f"k{i}": i for i in range(500)}]
_OTHER = [None, True, False, 1e308, 5e-324, b"bytes", {"a", "b"}, datetime.date(2001, 1, 1)]
HOSTILE: list[Any] = [*_NUMBERS, *_TEXTS.split(), *_CONTROL, *_TREES, *_LARGE, *_OTHER]
hostile = st.sampled_from(HOSTILE).map(copy.deepcopy) | st.integers() | st.floats() | st.text(max_size=20)


def keys_of(container: Any) -> Any:
    """Keys of a dict, or indices of a list."""
    return list(container) if isinstance(container, dict) else range(len(container))


def positions(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value in a tree of dicts and lists."""
    for key in keys_of(tree) if isinstance(tree, dict | list) else ():
        yield tree, key
        yield from positions(tree[key])


def nested(depth: int, kind: str) -> Any:
    """A value that many levels deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


@st.composite
def spoiled_tree(draw: st.DrawFn, tree: Any, values: st.SearchStrategy = hostile) -> Any:
    """A copy of ``tree`` with one to three values replaced, deleted, renamed, doubled, wrapped, swapped or deepened."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        known = list(positions(tree))
        if not known:
            return draw(values)
        container, key = known[draw(st.integers(0, len(known) - 1))]
        act = draw(st.sampled_from(["replace"] * 4 + ["delete", "rename", "wrap", "add", "swap", "deepen", "typo"]))
        if act == "replace":
            container[key] = draw(values)
        elif act == "delete":
            del container[key]
        elif act == "wrap":
            container[key] = draw(st.sampled_from([[container[key]], {"x": container[key]}, [container[key]] * 2]))
        elif act == "add":
            extra = draw(values)
            container.insert(0, extra) if isinstance(container, list) else container.__setitem__("extra", extra)
        elif act == "swap":
            other, position = known[draw(st.integers(0, len(known) - 1))]
            container[key] = copy.deepcopy(other[position]) if position in keys_of(other) else None
        elif act == "deepen":
            container[key] = nested(draw(st.sampled_from([5, 60, 300])), draw(st.sampled_from(["list", "dict"])))
        elif isinstance(container, dict):
            value = container.pop(key)
            new = draw(st.text(max_size=8) | st.sampled_from(["a b", "é", "-", "a" * 3000, "x\ny"]))
            container[f"{key}{new[:1]}" if act == "typo" else new] = value
    return tree


_TAGS = "!!binary_'%' !!timestamp_x !!int_x !!float_x !!bool_x !!set_{a} !!omap_[a:_1] !!python/name:os.system"
_WORDS = "&a_[*a] *nowhere &x_{<<:_*x} <<:_{a:_1}\n ?_[a,_b]\n:_1\n 2001-99-99 2001-01-01 0o17 1:30:00 .nan .inf"
_MARKS = "yes ~ { [ } ] ' \" |\n >\n %YAML_9.9\n :_ -_ # @ ` \\ ---\n ...\n"
SNIPPETS = [
    *(word.replace("_", " ").replace("\\n", "\n") for word in f"{_TAGS} {_WORDS} {_MARKS}".split(" ")),
    *("\t", "\n\tx: 1\n", "!!python/object/apply:os.system ['touch x']\n", "0x" + "f" * 6000, "9" * 5000),
    *("1_000", "\x07", "\ufeff", "\u2028", "[" * 400, "{a: " * 400, "a: " * 50),
]


def billion_laughs(levels: int = 12, width: int = 9) -> str:
    """A few lines of YAML that stand for ``width ** levels`` values."""
    lines = ["l0: &l0 [lol, lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@st.composite
def spoiled_text(draw: st.DrawFn, text: str) -> str:
    """``text`` with lines doubled, dropped or indented, a snippet put in somewhere, or laughs at either end."""
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split("\n")
        number = draw(st.integers(0, len(lines) - 1))
        act = draw(st.sampled_from(["snippet"] * 4 + ["double", "drop", "indent", "value", "laugh", "alias"]))
        line = lines[number]
        key, colon, value = line.partition(": ")
        if act == "snippet":
            at = draw(st.integers(0, len(line)))
            lines[number] = line[:at] + draw(st.sampled_from(SNIPPETS)) + line[at:]
        elif act == "double":
            lines.insert(number, line)
        elif act == "drop":
            del lines[number]
        elif act == "indent":
            lines[number] = draw(st.sampled_from([" ", "  ", "\t", "    "])) + line
        elif act == "laugh":
            lines.insert(draw(st.sampled_from([0, len(lines)])), billion_laughs())
        elif act == "value" and colon:
            lines[number] = f"{key}: {draw(st.sampled_from(SNIPPETS))}"
        elif act == "alias" and colon:
            lines[number] = f"{key}: &anchor {value}"
            lines.append("again: *anchor")
        text = "\n".join(lines)
    return text


@st.composite
def spoiled_bytes(draw: st.DrawFn, content: bytes, other: bytes = b"") -> bytes:
    """``content`` cut short, with bytes flipped, put in, zeroed or repeated, or mixed with ``other``."""
    for _ in range(draw(st.integers(1, 3))):
        # The first bytes decide how a file is read, so they are hit more often.
        at = draw(st.integers(0, min(len(content), 64)) | st.integers(0, len(content)))
        act = draw(st.sampled_from(["cut", *["flip"] * 3, "insert", "zero", "repeat", "other", "head", "text"]))
        before, after = content[:at], content[at:]
        if act == "cut":
            content = before
        elif act == "head":
            content = after
        elif act == "flip" and after:
            content = before + bytes([after[0] ^ (1 << draw(st.integers(0, 7)))]) + after[1:]
        elif act == "insert":
            content = before + draw(st.binary(min_size=1, max_size=8)) + after
        elif act == "zero":
            length = min(draw(st.integers(1, 64)), len(after))
            content = before + bytes(length) + after[length:]
        elif act == "repeat":
            content = before + after[:64] * 3 + after[64:]
        elif act == "other":
            content = before + other[at:] if draw(st.booleans()) else other
        elif act == "text":
            content = before + draw(st.sampled_from([b"\xff\xfe", b"NaN", b"-1e999", b"null", b"[" * 2000])) + after
    return content
