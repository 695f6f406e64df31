"""Numbers on the command line: what is taken, and what argparse is told about the rest."""

from __future__ import annotations

import argparse

import pytest

from aqr_bench.console import above_zero, natural, positive, seed, share


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive, "3", 3),
        (natural, "0", 0),
        (seed, str(2**32 - 1), 2**32 - 1),
        (above_zero, "0.5", 0.5),
        (share, "1", 1.0),
    ],
)
def test_good_numbers_are_taken(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((positive, text) for text in ("0", "-1", "1.0", "nan", "", "²")),
        *((natural, text) for text in ("-1", "1e3", "inf")),
        *((seed, text) for text in ("-1", str(2**32))),
        *((above_zero, text) for text in ("0", "-0.1", "nan", "inf", "x")),
        *((share, text) for text in ("-0.1", "1.1", "nan")),
    ],
)
def test_numbers_that_make_no_sense_are_refused(kind, text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        kind(text)


def test_the_option_and_the_limit_are_named(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=positive)
    for text, message in (
        ("-7", "--cores: must be at least 1, not -7"),
        ("x", "--cores: invalid whole number value: 'x'"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(["--cores", text])
        assert message in capsys.readouterr().err
