"""How far long work is: on a terminal one live line with the time left, elsewhere nothing but what is finished."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


def duration(seconds: float) -> str:
    """Seconds for people, no finer than an estimate is worth: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_terminal(file: TextIO) -> bool:
    """Whether a person looks at it: a terminal that can go back in its line."""
    return file.isatty() and os.environ.get("TERM") != "dumb"


class LiveLine:
    """One line at the foot of a terminal that is drawn anew every second; a context that leaves nothing behind.

    ``text`` gives the line. Where ``file`` is no terminal, nothing is drawn and lines are printed as they are.
    """

    def __init__(self, text: Callable[[], str], file: TextIO | None = None, every_s: float = 1.0) -> None:
        self.text, self.file, self.every_s = text, file or sys.stdout, every_s
        self.live = is_terminal(self.file)
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

    def say(self, line: str) -> None:
        """Print a line for good, above the live one."""
        if self.live:
            self._bar.write(line, file=self.file)
        else:
            print(line, file=self.file, flush=True)


def steps(items: Collection[T], what: str, name: Callable[[T], str] = str) -> Iterator[T]:
    """Go through the items of a long step; on a terminal (stderr) a bar shows the one at work and the time left."""
    if not is_terminal(sys.stderr) or len(items) < 2 or find_spec("tqdm") is None:
        yield from items
        return
    from tqdm import tqdm

    form = "{desc}: {n_fmt}/{total_fmt}{postfix} [{elapsed}, {remaining} left]"
    with tqdm(total=len(items), desc=what, bar_format=form, leave=False, dynamic_ncols=True) as bar:
        for item in items:
            bar.set_postfix_str(name(item))
            yield item
            bar.update()


def say(line: str) -> None:
    """Print a line at once, without spoiling a bar that ``steps`` is showing."""
    if is_terminal(sys.stderr) and find_spec("tqdm") is not None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    else:
        print(line, flush=True)


LARGEST = 2**32 - 1  # of a seed, as numpy takes them


def positive(text: str) -> int:
    """A whole number from 1 on; ArgumentTypeError for a smaller one, ValueError for what is none."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number from 0 on; ArgumentTypeError for a smaller one, ValueError for what is none."""
    return _whole(text, 0)


def seed(text: str) -> int:
    """A whole number that random generators can start from: 0 .. 2**32 - 1."""
    value = _whole(text, 0)
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"must be at most {LARGEST}, not {value}")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0: seconds, metres."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {value:g}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1: a score, a probability."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0 .. 1, not {value:g}")
    return value


def _whole(text: str, least: int) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
    return value


# argparse names a type in "invalid ... value".
for _type, _name in ((positive, "whole number"), (natural, "whole number"), (above_zero, "number"), (share, "number")):
    _type.__name__ = _name
