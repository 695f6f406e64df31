"""Strategies that spoil a good file: a tree of values, the text of a YAML file, or bytes."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.0, 0.5, -0.0, 10**6, 10**12, 2**63, -(2**64), 10**40),
    *(float("nan"), float("inf"), float("-inf"), 1e308, 5e-324),
    *(
        "",
        " ",
        "none",
        "clean",
        "../../etc/passwd",
        "/",
        "~",
        "~nobody-at-all/x",
        "a" * 3000,
        "a\nb",
        "a\tb",
        "\x1b[31m",
    ),
    *(
        "\0",
        "\ud800",
        "ü",
        "名前",
        "𝒳",
        "%s%n{0}{x}",
        "$(touch x)",
        "; rm x",
        "1e9",
        "²",
        "٣",
        "null",
        "a.b.c",
        "a" * 70,
    ),
    *([], {}, [[]], [None], [1, "a", None], {"": 1}, {"a": {"b": {"c": 1}}}, {1: 2}, {None: None}, {"type": "x"}),
    *(list(range(2000)), {f"k{i}": i for i in range(500)}, b"bytes", {"a", "b"}, datetime.date(2001, 1, 1)),
]
hostile = st.sampled_from(HOSTILE).map(copy.deepcopy) | st.integers() | st.floats() | st.text(max_size=20)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value in a tree of dicts and lists."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from places(tree[key])


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
        known = list(places(tree))
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
            other, place = known[draw(st.integers(0, len(known) - 1))]
            container[key] = copy.deepcopy(other[place]) if place in _keys(other) else None
        elif act == "deepen":
            container[key] = nested(draw(st.sampled_from([5, 60, 300])), draw(st.sampled_from(["list", "dict"])))
        elif isinstance(container, dict):
            value = container.pop(key)
            new = draw(st.text(max_size=8) | st.sampled_from(["a b", "é", "-", "a" * 3000, "x\ny"]))
            container[f"{key}{new[:1]}" if act == "typo" else new] = value
    return tree


def _keys(container: Any) -> Any:
    return container if isinstance(container, dict) else range(len(container))


SNIPPETS = [
    *("\t", "\n\tx: 1\n", "---\n", "...\n", "!!python/object/apply:os.system ['touch x']\n", "!!python/name:os.system"),
    *(
        "&a [*a]",
        "*nowhere",
        "&x {<<: *x}",
        "<<: {a: 1}\n",
        "? [a, b]\n: 1\n",
        "!!binary '%'",
        "!!timestamp x",
        "!!int x",
    ),
    *("2001-99-99", "2001-01-01", "!!float x", "!!bool x", "!!set {a}", "!!omap [a: 1]", "0x" + "f" * 6000, "9" * 5000),
    *(
        "1_000",
        "0o17",
        "1:30:00",
        ".nan",
        ".inf",
        "yes",
        "~",
        "{",
        "[",
        "}",
        "]",
        "'",
        '"',
        "|\n",
        ">\n",
        "%YAML 9.9\n",
    ),
    *(": ", "- ", "#", "@", "`", "\\", "\x07", "\ufeff", "\u2028", "[" * 400, "{a: " * 400, "a: " * 50),
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
        if act == "snippet":
            place = draw(st.integers(0, len(line)))
            lines[number] = line[:place] + draw(st.sampled_from(SNIPPETS)) + line[place:]
        elif act == "double":
            lines.insert(number, line)
        elif act == "drop":
            del lines[number]
        elif act == "indent":
            lines[number] = draw(st.sampled_from([" ", "  ", "\t", "    "])) + line
        elif act == "value" and ": " in line:
            lines[number] = line.partition(": ")[0] + ": " + draw(st.sampled_from(SNIPPETS))
        elif act == "laugh":
            lines.insert(draw(st.sampled_from([0, len(lines)])), billion_laughs())
        elif act == "alias" and ": " in line:
            key, _, value = line.partition(": ")
            lines[number] = f"{key}: &anchor {value}"
            lines.append("again: *anchor")
        text = "\n".join(lines)
    return text


@st.composite
def spoiled_bytes(draw: st.DrawFn, content: bytes, other: bytes = b"") -> bytes:
    """``content`` cut short, with bytes flipped, put in, zeroed or repeated, or mixed with ``other``."""
    for _ in range(draw(st.integers(1, 3))):
        size = len(content)
        # The first bytes decide how a file is read, so they are hit more often.
        at = draw(st.integers(0, min(size, 64)) | st.integers(0, size))
        act = draw(st.sampled_from(["cut", *["flip"] * 3, "insert", "zero", "repeat", "other", "head", "text"]))
        if act == "cut":
            content = content[:at]
        elif act == "flip" and at < size:
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif act == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at:]
        elif act == "zero":
            length = draw(st.integers(1, 64))
            content = content[:at] + bytes(len(content[at : at + length])) + content[at + length :]
        elif act == "repeat":
            content = content[:at] + content[at : at + 64] * 3 + content[at + 64 :]
        elif act == "other":
            content = content[:at] + other[at:] if draw(st.booleans()) else other
        elif act == "head":
            content = content[at:]
        elif act == "text":
            word = draw(st.sampled_from([b"\xff\xfe", b"NaN", b"-1e999", b"null", b"[" * 2000]))
            content = content[:at] + word + content[at:]
    return content
