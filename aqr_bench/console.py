"""The terminal: progress of long work, JSON for programs, types of arguments and options that commands share."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
N = TypeVar("N", int, float)


def duration(seconds: float) -> str:
    """Human-readable seconds, rounded as an estimate deserves: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``, ``3 studies``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def write_utf8() -> None:
    """Print UTF-8 whatever the locale says: names, dashes and Greek letters of studies are in no other encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def is_terminal(file: TextIO) -> bool:
    """Whether the file is a terminal that can redraw a line."""
    return file.isatty() and os.environ.get("TERM") != "dumb"


_progress_hidden: ContextVar[bool] = ContextVar("progress_hidden", default=False)


def add_quiet_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``-q``, ``--quiet``, the same for every command that prints progress."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress: only results, warnings and errors")


@contextmanager
def hide_progress(hidden: bool = True) -> Iterator[None]:
    """While it is open, ``steps``, ``LiveLine`` and ``print_progress`` show nothing, if ``hidden``."""
    token = _progress_hidden.set(hidden)
    try:
        yield
    finally:
        _progress_hidden.reset(token)


def progress_hidden() -> bool:
    """Whether progress is not to be shown."""
    return _progress_hidden.get()


class LiveLine:
    """Context manager: one line at the bottom of a terminal, redrawn every second and cleared at the end.

    ``text`` returns the line. Where ``file`` is no terminal, nothing is drawn and lines are printed as they are.
    """

    def __init__(self, text: Callable[[], str], file: TextIO | None = None, every_s: float = 1.0) -> None:
        self.text, self.file, self.every_s = text, file or sys.stdout, every_s
        self.live = is_terminal(self.file) and not progress_hidden()
        self._bar: Any = None
        self._stop = threading.Event()

    def __enter__(self) -> LiveLine:
        if self.live:
            from tqdm import tqdm

            # Only the description is shown; tqdm cuts it to the terminal's width, which may change.
            self._bar = tqdm(bar_format="{desc}", file=self.file, leave=False, dynamic_ncols=True)
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self._stop.set()
            self._thread.join()
            self._bar.close()

    def _tick(self) -> None:
        while not self._stop.wait(self.every_s):
            self.draw()

    def draw(self) -> None:
        if self.live:
            self._bar.set_description_str(self.text())

    def print_line(self, line: str) -> None:
        """Print a permanent line above the live one."""
        if self.live:
            self._bar.write(line, file=self.file)
        else:
            print(line, file=self.file, flush=True)


def steps(items: Collection[T], title: str, name: Callable[[T], str] = str) -> Iterator[T]:
    """Iterate over the items of a long step; on a terminal (stderr) a bar shows the current one and the time left."""
    if progress_hidden() or not is_terminal(sys.stderr) or len(items) < 2 or find_spec("tqdm") is None:
        yield from items
        return
    from tqdm import tqdm

    bar_format = "{desc}: {n_fmt}/{total_fmt}{postfix} [{elapsed}, {remaining} left]"
    with tqdm(total=len(items), desc=title, bar_format=bar_format, leave=False, dynamic_ncols=True) as bar:
        for item in items:
            bar.set_postfix_str(name(item))
            yield item
            bar.update()


def print_progress(line: str) -> None:
    """``print_line``, unless progress is hidden."""
    if not progress_hidden():
        print_line(line)


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print and flush a line (None: to stdout), above the bar that ``steps`` may be showing."""
    file = sys.stdout if file is None else file
    if is_terminal(sys.stderr) and find_spec("tqdm") is not None:
        from tqdm import tqdm

        tqdm.write(line, file=file)
        file.flush()
    else:
        print(line, file=file, flush=True)


def print_warning(text: str) -> None:
    """A warning on stderr, so that stdout holds the results of a command alone."""
    print_line(f"warning: {text}", sys.stderr)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, the same for every command that lists, checks or compares."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def print_json(facts: Mapping[str, Any]) -> None:
    """Print one JSON object; a number that JSON does not have (NaN, infinity) is null, a path its text."""
    print(json.dumps(_as_json(facts), indent=1, allow_nan=False))


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, float):  # numpy's as well
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


MAX_SEED = 2**32 - 1  # as numpy has it


def positive_int(text: str) -> int:
    """An integer from 1 on. This and the other types of arguments raise ArgumentTypeError for anything else."""
    return _bounded(_number(int, text), 1)


def non_negative_int(text: str) -> int:
    """An integer from 0 on."""
    return _bounded(_number(int, text), 0)


def seed(text: str) -> int:
    """A seed of random generators, 0 .. 2**32 - 1."""
    return _bounded(_number(int, text), 0, MAX_SEED)


def unit_fraction(text: str) -> float:
    """A number from 0 to 1: a score, a probability."""
    return _bounded(_number(float, text), 0, 1)


def positive_float(text: str) -> float:
    """A finite number above 0: seconds, metres."""
    value = _number(float, text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {value:g}")
    return value


def _number(kind: type[N], text: str) -> N:
    try:
        return kind(text)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}") from None


def _bounded(value: N, minimum: int, maximum: int | None = None) -> N:
    if value >= minimum and (maximum is None or value <= maximum):
        return value
    limits = f"at least {minimum}" if maximum is None else f"in {minimum} .. {maximum}"
    raise argparse.ArgumentTypeError(f"must be {limits}, not {value}")
