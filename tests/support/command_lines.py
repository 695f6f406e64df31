"""Command lines in documents: which of their commands and options the parsers do not have."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from aqr_bench.cli import completion

CALL = re.compile(r"(?:(?<!-C )aqr-bench|python -m aqr_bench) ([a-z][^\n|;&>`]*)")


@functools.cache
def _options() -> dict[str, frozenset[str]]:
    """Options by command and action."""
    return {
        " ".join(position.words): frozenset(name for option in position.options for name in option.names)
        for position in completion.positions()
    }


def unknown_words(code: Iterable[str]) -> list[str]:
    """``run --tiers`` for each command or option in blocks of code that there is not; comments do not count."""
    unknown = []
    for block in code:
        text = re.sub(r"\\\n", " ", re.sub(r"(?<!\S)#.*", "", block))
        for call in CALL.findall(text):
            words = call.split()
            position = next((p for p in (" ".join(words[:2]), words[0]) if p in _options()), None)
            if position is None:
                unknown.append(words[0])
                continue
            typed = words[: words.index("--")] if "--" in words else words
            flags = [word.partition("=")[0] for word in typed if re.match(r"--?[a-z]", word)]
            unknown += [f"{position} {flag}" for flag in flags if flag not in _options()[position]]
    return unknown
