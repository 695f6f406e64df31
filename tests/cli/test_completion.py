"""Shell completion: every command and option of the parsers is in each script, and bash completes by it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess

import pytest

from aqr_bench.cli import completion
from aqr_bench.cli import main as cli
from aqr_bench.folders import shipped_folder

WITH_ACTIONS = {"corruptions": "list", "checkpoint": "inspect", "studies": "list", "config": "show", "data": "check"}


@pytest.fixture(scope="module")
def positions() -> list[completion.Position]:
    return list(completion.positions())


@pytest.fixture(scope="module")
def complete(positions, tmp_path_factory):
    """Completes lines, each of which ends where the cursor is, in one bash."""
    script = tmp_path_factory.mktemp("completion") / "aqr-bench"
    script.write_text(completion.bash_script(positions))

    def run(*lines: str) -> list[list[str]]:
        code = [f"source {script}"]
        for line in lines:
            words = " ".join(f"'{word}'" for word in line.split(" "))
            code += [f"COMP_WORDS=({words})", "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))", "_aqr_bench"]
            code += ['echo "${COMPREPLY[*]}"']
        done = subprocess.run(["bash", "-uc", "\n".join(code)], capture_output=True, text=True, check=True)
        assert not done.stderr
        return [line.split() for line in done.stdout.split("\n")[:-1]]

    return run


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_that_the_command_refuses_or_takes_is_there(name, positions, monkeypatch):
    """The options as the parsers get them, noted while the command refuses another one."""
    options, add = set(), argparse._ActionsContainer.add_argument

    def add_argument(self, *args, **kwargs):
        if kwargs.get("help") != argparse.SUPPRESS:
            options.update(word for word in args if word.startswith("-"))
        return add(self, *args, **kwargs)

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", add_argument)
    for words in [[name], [name, WITH_ACTIONS[name]]] if name in WITH_ACTIONS else [[name]]:
        with pytest.raises(SystemExit):
            cli.main([*words, "--no-such-option"])
    of_command = [position for position in positions if position.words[:1] == (name,)]
    assert {flag for position in of_command for option in position.options for flag in option.names} == options
    for script in (completion.bash_script(positions), completion.zsh_script(positions)):
        assert all(f" {option} " in script.replace('"', " ") for option in options)
    lines = [line for line in completion.fish_script(positions).splitlines() if f"_at {name}" in line]
    assert all(any(f" -{'l' if o[:2] == '--' else 's'} {o.lstrip('-')} " in line for line in lines) for o in options)


def test_bash_completes_commands_actions_options_and_values(complete):
    found = complete(
        "aqr-bench ", "aqr-bench re", "aqr-bench studies ", "aqr-bench data check --ver", "aqr-bench new ",
        "aqr-bench table --format ", "aqr-bench table --format l", "aqr-bench new router ", "aqr-bench run --tier ",
        "aqr-bench studies check bias_site --",
    )  # fmt: skip
    assert found[0] == list(cli.COMMANDS) and found[1] == ["rerun", "report", "records"]
    assert found[2] == ["list", "show", "check", "cost"] and found[3] == ["--version"] and "metric" in found[4]
    assert found[5:] == [
        ["markdown", "latex", "csv"], ["latex"], [], [], ["--help", "--tier", "--json"],
    ]  # fmt: skip


def test_quiet_and_verbose_are_the_same_everywhere_and_on_the_page(positions):
    flags = {" ".join(position.words): {option.names for option in position.options} for position in positions}
    quiet = {name for name, options in flags.items() if ("-q", "--quiet") in options}
    assert {name for name, options in flags.items() if "--quiet" in str(options)} == quiet
    page = (shipped_folder() / "docs" / "running.md").read_text(encoding="utf-8")
    sentence = page.partition("So have it ")[2].partition(". ")[0]
    assert set(re.findall(r"`([a-z -]+)`", sentence)) == quiet
    assert [options for options in flags.values() if "--verbose" in str(options)] == [flags["run"]]
    assert ("-v", "--verbose") in flags["run"]


def test_the_page_names_every_command_with_json(positions):
    page = (shipped_folder() / "docs" / "running.md").read_text(encoding="utf-8")
    section = page.partition("## Output for programs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    named = {" ".join(w for w in code.split() if w[0] != "-") for row in rows for code in re.findall(r"`(.+?)`", row)}
    flags = {
        " ".join(position.words): {n for option in position.options for n in option.names} for position in positions
    }
    actions = {"records": "records check"}  # whose action is an argument
    assert {actions.get(name, name) for name, names in flags.items() if "--json" in names} == named


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_well_formed(shell, positions, tmp_path):
    script = tmp_path / shell
    script.write_text(completion.SHELLS[shell](positions))
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "--no-execute" if shell == "fish" else "-n", str(script)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_parser_is_had_without_running_its_command():
    ran = []

    def command(argv):
        parser = argparse.ArgumentParser()
        parser.add_argument("--x", help="a %% of b")
        parser.parse_args(argv)
        ran.append(argv)

    parser = completion.command_parser(command)
    assert not ran and [option.help for option in next(completion._positions(parser, ())).options][1:] == ["a % of b"]
    assert command(["--x", "1"]) is None and ran
