"""The members of one object in a JSON file, one by one: a submission of gigabytes in the memory of a sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK = 1 << 22  # characters read at a time
_SPACE = " \t\n\r"


def items_of(file: TextIO, key: str) -> Iterator[tuple[str, Any]]:
    """Names and values of the members of the object that a file's outermost object has under ``key``.

    Raises ValueError for broken JSON or a value that is no object, KeyError if there is no such key. What follows the
    object is read as well, so that a file which was cut off is noticed.
    """
    text = _Text(file)
    found = False
    for name in text.names():
        if name != key:
            text.value()
            continue
        found = True
        for token in text.names():
            yield token, text.value()
    text.end()
    if not found:
        raise KeyError(key)


class _Text:
    """A window on the file, and a place in it."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.window, self.at, self.ended = file, "", 0, False
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Read on, and forget what lies behind; False at the end of the file."""
        chunk = "" if self.ended else self.file.read(CHUNK)
        self.ended = not chunk
        self.window, self.at = self.window[self.at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            while self.at < len(self.window):
                if self.window[self.at] not in _SPACE:
                    return self.window[self.at]
                self.at += 1
            if not self.more():
                return ""

    def take(self, wanted: str) -> str:
        """Go past the next character, which has to be one of those wanted."""
        found = self.peek()
        if not found or found not in wanted:
            raise ValueError(f"{' or '.join(wanted)} was expected, found {found or 'the end'!r}")
        self.at += 1
        return found

    def value(self) -> Any:
        """The value that comes next."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.window, self.at)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            # A number that touches the end of the window may go on behind it.
            if end < len(self.window) or not self.more():
                self.at = end
                return value

    def names(self) -> Iterator[str]:
        """The names of an object's members; the value of each has to be taken before the next one."""
        self.take("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"a name was expected, found {name!r}")
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise ValueError("something follows the JSON object")
