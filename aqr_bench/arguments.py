"""Types of command-line arguments that are numbers: argparse refuses what they do not take, with the usage."""

from __future__ import annotations

import argparse
import math

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
