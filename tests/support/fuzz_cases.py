"""Run a target on many generated cases, count them, and say what people may be shown: one clear line."""

from __future__ import annotations

import io
import json
import math
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aqr_bench.cli import main as cli
from aqr_bench.errors import UserError

EVERYDAY = 370  # cases in all where no number is asked for: the sum of the targets' shares
MESSAGE = 500  # characters, paths apart

executed: Counter[str] = Counter()
refused: Counter[str] = Counter()
tracebacks: Counter[str] = Counter()
_scale = 1.0


def budget(cases: int | None) -> None:
    """Set how many cases all targets run together (None: the everyday number)."""
    global _scale
    _scale = 1.0 if cases is None else max(1.0, cases / EVERYDAY)


def explore(target: str, share: int, strategy: st.SearchStrategy, check: Callable[[Any], bool]) -> None:
    """Run ``check`` on ``share`` generated cases (more with a larger budget); the same ones in every run.

    ``check`` returns whether the input was refused, and raises for any other outcome than use or refusal. All cases are
    run; the assertion at the end shows one of each kind of failure.
    """
    failures: dict[tuple[str, ...], str] = {}

    @settings(
        max_examples=math.ceil(share * _scale),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        executed[target] += 1
        try:
            refused[target] += bool(check(case))
        except Exception as error:
            tracebacks[target] += 1
            failures.setdefault(_kind(error), f"{traceback.format_exc()[-1500:]}\nwith {case!r:.1500}")

    run()
    message = "\n\n".join(failures.values())
    assert not failures, f"{target}: {len(failures)} kinds of failure in {executed[target]} cases\n{message}"


def _kind(error: Exception) -> tuple[str, ...]:
    """What tells failures apart: the type, and the line of the project that it went through last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "aqr_bench" in f.filename or "/fuzz/" in f.filename]
    output = str(error)[:60] if isinstance(error, AssertionError) else ""
    return type(error).__name__, output, *(f"{f.filename}:{f.lineno}" for f in own[-1:])


def table() -> list[str]:
    """Markdown: cases that were run, inputs that were refused, and failures, by target; nothing if nothing was run."""
    if not executed:
        return []
    counts = [(name, executed[name], refused[name], tracebacks[name]) for name in sorted(executed)]
    counts.append(("all", *(sum(part.values()) for part in (executed, refused, tracebacks))))
    head = ["", "| target | cases | refused in one line | anything else |", "|---|---|---|---|"]
    return head + [f"| {' | '.join(map(str, row))} |" for row in counts]


def one_clear_line(text: str, *, names: str | None = None, paths: tuple[object, ...] = ()) -> None:
    """Assert that a message is one printable line of a readable length, and that it names what it is about."""
    assert text.strip(), "no message"
    assert text.isprintable(), f"not one printable line: {text!r}"
    spared = sum(text.count(str(path)) * len(str(path)) for path in paths)
    assert len(text) - spared <= MESSAGE, f"{len(text)} characters: {text}"
    assert names is None or names in text, f"does not name {names}: {text}"


def refuses(use: Callable[[], Any], *, names: str | None = None, paths: tuple[object, ...] = ()) -> bool:
    """Whether ``use`` raises UserError, whose message must be one clear line; any other exception goes on."""
    try:
        use()
    except UserError as error:
        one_clear_line(str(error), names=names, paths=paths)
        return True
    return False


def refuses_command(*argv: object, main: Callable[[list[str]], int] = cli.main, paths: tuple[object, ...] = ()) -> bool:
    """Whether a command ends with exit code 2, and then with one clear line; it never shows a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(map(str, argv)))
    text = err.getvalue()
    out.getvalue().encode()
    assert "Traceback" not in text, text
    if code == 2:
        assert text.startswith("error: ") and text.count("\n") == 1, text
        one_clear_line(text.rstrip("\n"), paths=(*argv, *paths))
    return code == 2


def as_json(trees: st.SearchStrategy) -> st.SearchStrategy[str]:
    """Those of the trees that JSON can hold, written in it."""
    return trees.filter(_is_json).map(json.dumps)


def _is_json(tree: Any) -> bool:
    try:
        json.dumps(tree)
    except (TypeError, ValueError):
        return False
    return True
