"""Every command of the package with its options, as their own parsers have them: a new option is found by itself."""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

from hypothesis import strategies as st

import aqr_bench
from aqr_bench.cli import main as cli
from aqr_bench.errors import run_main


@dataclass(frozen=True)
class Command:
    """``words`` are what is typed, ``actions`` the options and arguments that may follow."""

    words: tuple[str, ...]
    actions: tuple[argparse.Action, ...]
    run: Callable[[list[str]], int]


class _Parsing(BaseException):
    """Raised in place of parsing; its argument is the parser."""


def _parser(main: Callable, argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser that an entry builds for itself."""

    def parse_args(parser: argparse.ArgumentParser, *_args: object) -> None:
        raise _Parsing(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        try:
            main(list(argv))
        except _Parsing as caught:
            return caught.args[0]
    raise AssertionError(f"{argv} parses no arguments")


def _expanded(words: tuple[str, ...], parser: argparse.ArgumentParser, run: Callable) -> Iterator[Command]:
    parts = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    own = tuple(a for a in parser._actions if a not in parts and not isinstance(a, argparse._HelpAction))
    for part in parts:
        for name, inner in part.choices.items():
            yield from _expanded((*words, name), inner, run)
    if not parts:
        yield Command(words, own, run)


def _as_module(main: Callable, argv: list[str]) -> int:
    """What ``python -m`` does with an entry that is no step of aqr-bench."""
    try:
        run_main(lambda _: main(argv))
    except SystemExit as stop:
        return stop.code


@functools.cache
def commands() -> tuple[Command, ...]:
    """Every command, and every other module that can be called with ``python -m``."""
    result = []
    for name, (module, _) in cli.COMMANDS.items():
        main = importlib.import_module(module).main
        result += _expanded((name,), _parser(main, []), cli.main)
    check = importlib.import_module("aqr_bench.data.check.check")
    result += _expanded(("data", "check"), _parser(check.main, []), cli.main)
    steps = {module for module, _ in cli.COMMANDS.values()} | {"aqr_bench.cli.main", check.__name__}
    for info in pkgutil.walk_packages(aqr_bench.__path__, "aqr_bench."):
        if info.name in steps or ".configs" in info.name:
            continue
        main = getattr(importlib.import_module(info.name), "main", None)
        if getattr(main, "__module__", None) == info.name:
            result += _expanded((f"-m {info.name}",), _parser(main, []), functools.partial(_as_module, main))
    return tuple(result)


NEVER = ("-7", "nan", "-inf", "inf", "1e99", "", "x", "²", "0x10", "1.5.2")  # no option with a number takes these
NUMBERS = (*NEVER, "0", "1", "2", "0.5", "99999999999999999999", "٣", "--", "1 2")
_PLAIN = (
    "smoke quick bias_site missing_sensors mAP clean cross quik v1.0-mini folder file.txt broken.yaml broken.jsonl "
    "folder/no/such missing missing.yaml . .. / /dev/null /proc/self/mem ~ ~nobody-at-all/x ü/名前 %s%n {0} - -- --- "
    "= * null ' \" @file.txt"
)
_ODD = ("", " ", "a b", "a" * 300, "a/" * 3000, "x\ny", "\x1b[31m", "\udcff\udc80.yaml", "$(touch x)", "; touch x")
WORDS = (*_PLAIN.split(), *_ODD)


SENSIBLE = {
    **dict.fromkeys(("tier",), ("smoke", "quick")),
    **dict.fromkeys(("study", "studies"), ("smoke", "bias_site", "fixed_bias")),
    **dict.fromkeys(("suite", "suites", "names"), ("missing_sensors", "mome")),
    **dict(variant=("cross", "none"), metric=("mAP", "NDS"), name=("clean", "multicorrupt.fog"), parts=("memory",)),
    **dict(pretrain=("lidar",), train=("broken.jsonl",), out=("folder/new", "new"), config=("x.py",)),
    **dict.fromkeys(("work", "pictures"), ("new",)),
}


def sensible(action: argparse.Action, number: bool) -> tuple[str, ...]:
    """Values that may well be meant; nothing that is asked for is there, so that hardly anything comes of them."""
    if action.choices and not isinstance(action.choices, range):
        return tuple(map(str, action.choices))
    return ("1", "2", "0.5") if number else SENSIBLE.get(action.dest, ("folder", "missing"))


@dataclass(frozen=True)
class Call:
    """Arguments for a command; ``never`` if one of them is a number that it must not take."""

    command: Command
    argv: tuple[str, ...]
    never: bool


@st.composite
def calls(draw: st.DrawFn, known: Sequence[Command]) -> Call:
    """A command with some of its options, with values that are good, bad or not there, some given twice."""
    command = known[draw(st.integers(0, len(known) - 1))]
    options, positional, never = [], [], False
    nonsense = draw(st.sampled_from([0, 1, 2, 2, 5, 10]))  # of ten values
    for action in command.actions:
        likely = 19 if action.required or not action.option_strings else 8
        for _ in range(draw(st.sampled_from([1] * likely + [0] * (20 - likely) + [2]))):
            number = action.type not in (None, str) and "Path" not in str(action.type)
            most = 0 if action.nargs == 0 else 3 if action.nargs in ("+", "*") else 1
            values = []
            for _ in range(draw(st.sampled_from([most] + [min(most, 1)] * 8 + [0] * (nonsense > 4))) if most else 0):
                bad = draw(st.integers(0, 9)) < nonsense
                pool = (NUMBERS if number else WORDS) if bad else sensible(action, number)
                values.append(draw(st.sampled_from(pool)))
            never |= number and any(value in NEVER for value in values)
            if action.option_strings:
                options.append([draw(st.sampled_from(action.option_strings)), *values])
            else:
                positional += values
    if draw(st.integers(0, 9)) == 0:
        options.append(draw(st.sampled_from([["--no-such-option"], ["-x", "1"], ["extra"], ["--help"], ["--out="]])))
    words = [w for w in command.words if not w.startswith("-m ")]
    argv = [*words, *positional, *(word for option in draw(st.permutations(options)) for word in option)]
    return Call(command, tuple(argv), never)
