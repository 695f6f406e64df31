"""What a check of a data set found: one line each, with the first few names, how many there are, and the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SHOWN = 3  # so many names in a line; the count tells the rest
LONGEST_NAME = 100  # characters

Progress = Callable[[Iterable, str], Iterable]  # wraps what is gone through, and says what that is


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set.

    Args:
        group: what it belongs to: root, tables, links, counts, splits, calibration, files, contents, maps.
        what: what is wrong and where, without a full stop.
        names: the first few that it is wrong with.
        count: how many there are.
        remedy: the way out; empty: the usual one of the group.
        warning: nothing that a run would stumble over.
    """

    group: str
    what: str
    names: tuple[str, ...] = ()
    count: int = 1
    remedy: str = ""
    warning: bool = False

    def line(self) -> str:
        """The finding as one printable line."""
        more = self.count - len(self.names)
        listed = f": {', '.join(self.names)}" + (f" and {more} more" if more > 0 else "") if self.names else ""
        severity = "warning" if self.warning else "error"
        return printable(f"{severity}: {self.group}: {self.what}{listed}. {self.remedy}".rstrip())

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "severity": "warning" if self.warning else "error",
            "group": self.group,
            "what": printable(self.what),
            "names": [printable(name) for name in self.names],
            "count": self.count,
            "remedy": printable(self.remedy),
        }


def found(group: str, what: str, names: Iterable[object], remedy: str = "", warning: bool = False) -> Finding:
    """A finding about all of ``names``, of which it keeps the first few."""
    names = list(names)
    return Finding(group, what, tuple(_short(str(name)) for name in names[:SHOWN]), len(names), remedy, warning)


def access_remedy(error: OSError) -> str:
    """The way out where something cannot be read; '' (the usual one) where it is just not there."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ""
    return "Look at its permissions, and at the disk or network share that it is on."


def number(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}" + "s" * (count != 1)


def rows_of(table: str, count: int) -> str:
    """``sample.json, 2 rows``: where something is wrong."""
    return f"{table}.json, {number(count, 'row')}"


def row_names(rows: Iterable[int]) -> list[str]:
    """Names of rows, counted from 0."""
    return [f"row {row}" for row in rows]


def printable(text: str) -> str:
    """The text on one line, with control characters, lone surrogates and what the terminal lacks as escapes."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
