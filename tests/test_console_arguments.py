"""Numeric arguments of the command line: which are accepted, and the messages about the others."""

from __future__ import annotations

import argparse

import pytest

from aqr_bench.console import non_negative_int, positive_float, positive_int, seed, unit_fraction


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive_int, "3", 3),
        (non_negative_int, "0", 0),
        (seed, str(2**32 - 1), 2**32 - 1),
        (positive_float, "0.5", 0.5),
        (unit_fraction, "1", 1.0),
    ],
)
def test_valid_numbers_are_accepted(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((positive_int, text) for text in ("0", "-1", "1.0", "nan", "", "²")),
        *((non_negative_int, text) for text in ("-1", "1e3", "inf")),
        *((seed, text) for text in ("-1", str(2**32))),
        *((positive_float, text) for text in ("0", "-0.1", "nan", "inf", "x")),
        *((unit_fraction, text) for text in ("-0.1", "1.1", "nan")),
    ],
)
def test_numbers_that_make_no_sense_are_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)


def test_the_option_and_the_limit_are_named(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=positive_int)
    for text, message in (
        ("-7", "--cores: must be at least 1, not -7"),
        ("x", "--cores: must be an integer, not 'x'"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(["--cores", text])
        assert message in capsys.readouterr().err
