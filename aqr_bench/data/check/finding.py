"""One finding of the data check: what is wrong, where, how often, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aqr_bench.errors import quoted

MAX_NAMES = 3  # listed in a line; the others are counted
MAX_NAME_CHARS = 100

Progress = Callable[[Iterable, str], Iterable]  # wraps an iterable, with a title


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set.

    Args:
        group: root, tables, links, counts, names, time, points, splits, scored, calibration, files, contents or maps.
        what: what is wrong and where, without a full stop.
        cause: key of the remedy; see ``check.remedies``.
        names: the first few rows or files that it is wrong with. ``count``: how many there are.
        warning: does not make a run fail.
        remedy: what to do; that of the cause is added last, when it is known which data set this is.
    """

    group: str
    what: str
    cause: str
    names: tuple[str, ...] = ()
    count: int = 1
    warning: bool = False
    remedy: str = ""

    def line(self) -> str:
        """The finding as one printable line."""
        more = self.count - len(self.names)
        names = f": {', '.join(self.names)}" + (f" and {more} more" if more > 0 else "") if self.names else ""
        return printable(f"{self.severity}: {self.group}: {self.what}{names}. {self.remedy}".rstrip())

    @property
    def severity(self) -> str:
        return "warning" if self.warning else "error"

    def as_dict(self) -> dict:
        """For JSON."""
        fields = asdict(self) | {"what": printable(self.what), "remedy": printable(self.remedy)}
        del fields["warning"], fields["cause"]
        return {"severity": self.severity, **fields, "names": [printable(name) for name in self.names]}


def about_names(group: str, what: str, cause: str, names: Sequence[str], warning: bool = False) -> list[Finding]:
    """A finding about all of ``names``, of which it lists the first few; none without names."""
    first = (n if len(n) <= MAX_NAME_CHARS else f"{n[: MAX_NAME_CHARS - 3]}..." for n in names[:MAX_NAMES])
    return [Finding(group, what, cause, tuple(first), len(names), warning)] if names else []


def about_rows(
    table: str, rows: Sequence[int], text: str, cause: str = "row", group: str = "tables", values: Sequence[Any] = ()
) -> list[Finding]:
    """A finding ``<table>.json, 2 rows <text>: row 0, row 7`` (counted from 0, with its value); none without rows."""
    listed = [f"row {row}" for row in rows[:MAX_NAMES]]
    listed = [f"{name} ({quoted(value, 40)})" for name, value in zip(listed, values, strict=False)] or listed
    what = f"{table}.json, {number(len(rows), 'row')} {text}"
    return [Finding(group, what, cause, tuple(listed), len(rows))] if len(rows) else []


def access_cause(error: OSError, otherwise: str) -> str:
    """The cause of a file or folder that cannot be read: ``otherwise`` where it does not exist."""
    return otherwise if isinstance(error, FileNotFoundError | NotADirectoryError) else "access"


def number(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}" + "s" * (count != 1)


def printable(text: str) -> str:
    """The text on one line, with control characters, lone surrogates and what the terminal lacks as escapes."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
