"""The foot of everything that a report writes: where its numbers come from, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

# Tables and figures are written in many places, all of them inside one report: what stands below each of them is a
# matter of that report, and no business of the code that draws it.
_FOOT: ContextVar[str] = ContextVar("foot", default="")


@contextmanager
def stamped(rows: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Everything written inside carries these facts (label, text)."""
    token = _FOOT.set(". ".join(f"{label}: {text}" for label, text in rows))
    try:
        yield
    finally:
        _FOOT.reset(token)


def foot() -> str:
    """The line to put below a table or into a figure's metadata; empty outside of a report."""
    return _FOOT.get()
