"""One finding of the data check: what is wrong, where, how often, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

MAX_NAMES = 3  # so many names in a line; the count tells the rest
MAX_NAME_CHARS = 100

Progress = Callable[[Iterable, str], Iterable]  # wraps what is iterated over; the text says what that is


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set.

    Args:
        group: what it belongs to: root, tables, links, counts, splits, calibration, files, contents, maps.
        what: what is wrong and where, without a full stop.
        cause: key of the remedy; see ``check.remedies``.
        names: the first few rows or files that it is wrong with.
        count: how many there are.
        warning: nothing that makes a run fail.
        remedy: what to do; filled in at the end, when it is known what data set this is.
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


def finding(group: str, what: str, cause: str, names: Sequence[str], warning: bool = False) -> Finding:
    """A finding about all of ``names``, of which the first few are kept."""
    shown = (name if len(name) <= MAX_NAME_CHARS else f"{name[: MAX_NAME_CHARS - 3]}..." for name in names[:MAX_NAMES])
    return Finding(group, what, cause, tuple(shown), len(names), warning)


def access_cause(error: OSError, otherwise: str) -> str:
    """The cause of a file or folder that cannot be read: ``otherwise`` where it is just not there."""
    return otherwise if isinstance(error, FileNotFoundError | NotADirectoryError) else "access"


def number(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}" + "s" * (count != 1)


def printable(text: str) -> str:
    """The text on one line, with control characters, lone surrogates and what the terminal lacks as escapes."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
