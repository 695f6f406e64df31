"""Output for programs: with --json stdout holds one JSON object, or nothing after a mistake, which is on stderr."""

from __future__ import annotations

import json

import pytest

from aqr_bench.cli.completion import positions
from aqr_bench.cli.main import main

# By command: a mistake in its arguments.
MISTAKES = {
    "studies list": ["nothing"],
    "studies show": ["nothing"],
    "studies check": ["smoke", "--tier", "nothing"],
    "studies cost": ["nothing"],
    "config check": ["nowhere"],
    "corruptions list": ["nothing"],
    "corruptions show": ["nothing"],
    "data check": ["--root", "a\0b"],
    "doctor": ["--tier", "nothing"],
    "records": ["check", "nowhere"],
    "rerun": ["nowhere.jsonl"],
    "compare": ["nowhere", "nowhere"],
    "merge": ["nowhere"],
    "gc": ["--tier", "nothing"],
    "gpu-slots": ["1", "--", "true"],
}


def test_there_is_a_mistake_for_each_command_with_json():
    options = {" ".join(p.words): {name for option in p.options for name in option.names} for p in positions()}
    assert {command for command, names in options.items() if "--json" in names} == set(MISTAKES)


@pytest.mark.parametrize("command", MISTAKES)
def test_after_a_mistake_stdout_is_empty_and_stderr_has_one_error(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([*command.split(), "--json", *MISTAKES[command]])
    except SystemExit as end:  # of argparse
        code = end.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "") and printed.err.splitlines()[-1].count("error: ") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["studies", "list"],
        ["studies", "show", "smoke"],
        ["studies", "cost", "smoke", "--tier", "smoke"],
        ["corruptions", "list", "missing_sensors"],
        ["corruptions", "show", "clean"],
        ["data", "check", "--root", "nowhere"],
        ["gc"],
        ["gpu-slots", "--list"],
    ],
)
def test_stdout_is_one_json_object(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--json"]) in (0, 1)
    printed = capsys.readouterr()
    assert isinstance(json.loads(printed.out), dict) and not printed.err
