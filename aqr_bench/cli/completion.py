"""Shell completion of all commands, actions and options, as their parsers have them: aqr-bench completion SHELL.

aqr-bench completion bash > ~/.local/share/bash-completion/completions/aqr-bench
aqr-bench completion zsh > ~/.aqr-bench.zsh           to be sourced in ~/.zshrc, after compinit
aqr-bench completion fish > ~/.config/fish/completions/aqr-bench.fish

Write the file again after an upgrade.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aqr_bench import __version__
from aqr_bench.errors import run_main


@dataclass(frozen=True)
class Option:
    """``names``: ``-q``, ``--quiet``; ``values``: the only ones that it takes; ``takes_value``: not a switch."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Position:
    """What may follow ``words`` (a command and its action, without ``aqr-bench``): options, and the next word.

    ``next_words``: commands, actions or the choices of the first positional argument, with their summaries.
    """

    words: tuple[str, ...]
    options: tuple[Option, ...]
    next_words: tuple[tuple[str, str], ...]


def main(argv: list[str] | None = None) -> int:
    """Print the script."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    print(SHELLS[parser.parse_args(argv).shell](list(positions())))
    return 0


# ---------------------------------------------------------------- from the parsers


class _ParserBuilt(Exception):
    pass


def command_parser(command: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command builds. The command ends where it would parse: nothing else of it is run."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _ParserBuilt(parser)

    original, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, stop
    try:
        command([])
    except _ParserBuilt as built:
        return built.args[0]
    finally:
        argparse.ArgumentParser.parse_args = original
    raise AssertionError(f"{command} parses no arguments")


def positions() -> Iterator[Position]:
    """All positions of the command line; imports the modules of all commands, which takes seconds."""
    from aqr_bench.cli.main import COMMANDS, build_parser

    yield next(_positions(build_parser(), ()))
    for name, (module_name, _) in COMMANDS.items():
        module = importlib.import_module(module_name)
        actions = getattr(module, "ACTIONS", {})  # those with an entry elsewhere
        first, *others = _positions(command_parser(module.main), (name,))
        yield Position(first.words, first.options, (*first.next_words, *((action, "") for action in actions)))
        yield from others
        for action, entry in actions.items():
            yield from _positions(command_parser(importlib.import_module(entry).main), (name, action))


def _positions(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[Position]:
    options, next_words, inner = [], [], {}
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        choices = tuple(map(str, action.choices or ()))
        if action.option_strings:
            options.append(Option(tuple(action.option_strings), _line(action.help), action.nargs != 0, choices))
        elif isinstance(action, argparse._SubParsersAction):
            inner = action.choices
            summaries = {part.dest: _line(part.help) for part in action._choices_actions}
            next_words += [(name, summaries.get(name, "")) for name in choices]
        elif not next_words:
            next_words += [(name, "") for name in choices]
    yield Position(words, tuple(options), tuple(next_words))
    for name, part in inner.items():
        yield from _positions(part, (*words, name))


def _line(help_text: str | None) -> str:
    return " ".join((help_text or "").replace("%%", "%").split())


# ---------------------------------------------------------------- the scripts

BASH = """\
# bash completion of aqr-bench {version}, written by: aqr-bench completion bash
_aqr_bench_position() {{
    case "$1" in
{positions}
    *) return 1 ;;
    esac
}}
_aqr_bench_values() {{
    case "$1" in
{values}
    *) return 1 ;;
    esac
}}
_aqr_bench() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" position="" depth=1 word next="" options=""
    for word in "${{COMP_WORDS[1]-}}" "${{COMP_WORDS[2]-}}"; do
        if [ "$depth" -lt "$COMP_CWORD" ] && _aqr_bench_position "${{position:+$position }}$word"; then
            position="${{position:+$position }}$word" depth=$((depth + 1))
        fi
    done
    _aqr_bench_position "$position"
    if [ "$depth" -ne "$COMP_CWORD" ]; then next=""; fi
    if [ "$COMP_CWORD" -gt 1 ]; then _aqr_bench_values "$position ${{COMP_WORDS[COMP_CWORD-1]-}}"; fi
    case "$current" in -*) next="$options" ;; esac
    COMPREPLY=($(compgen -W "$next" -- "$current"))
}}
complete -o default -F _aqr_bench aqr-bench"""

ZSH = """\
# zsh completion of aqr-bench {version}, written by: aqr-bench completion zsh
autoload -Uz bashcompinit && bashcompinit
{bash}"""

FISH = """\
# fish completion of aqr-bench {version}, written by: aqr-bench completion fish
function __aqr_bench_at
    set -l words (commandline -opc)
    set -l last (math (count $argv) + 1)
    test (count $words) -ge $last; and test "$words[2..$last]" = "$argv"
end
function __aqr_bench_after
    __aqr_bench_at $argv; and test (count (commandline -opc)) -eq (math (count $argv) + 1)
end
complete -c aqr-bench -n "test (count (commandline -opc)) -eq 1" -f
{lines}"""


def bash_script(of: list[Position]) -> str:
    """Candidates by position; where there is none, bash completes names of files."""
    lines, values = [], []
    for position in of:
        path = " ".join(position.words)
        names = " ".join(name for option in position.options for name in option.names)
        lines.append(f'    "{path}") next="{" ".join(word for word, _ in position.next_words)}" options="{names}" ;;')
        for option in (option for option in position.options if option.values):
            patterns = " | ".join(f'"{path} {name}"' for name in option.names)
            values.append(f'    {patterns}) next="{" ".join(option.values)}" ;;')
    return BASH.format(version=__version__, positions="\n".join(lines), values="\n".join(values))


def zsh_script(of: list[Position]) -> str:
    """That of bash, by zsh's own emulation of bash's completion."""
    return ZSH.format(version=__version__, bash=bash_script(of).partition("\n")[2])


def fish_script(of: list[Position]) -> str:
    """A line for each candidate, with its summary."""
    lines = []
    for position in of:
        path = " ".join(position.words)
        after = f"__aqr_bench_after {path}" if path else "test (count (commandline -opc)) -eq 1"
        inner = [" ".join(other.words) for other in of if path and other.words[:-1] == position.words]
        at = "; and not ".join(f"__aqr_bench_at {words}" for words in (path, *inner)) if path else after
        lines += [
            f'complete -c aqr-bench -n "{after}" -f -a {word}{_described(text)}' for word, text in position.next_words
        ]
        for option in position.options:
            flags = "".join(f" -{'l' if n.startswith('--') else 's'} {n.lstrip('-')}" for n in option.names)
            flags += f' -x -a "{" ".join(option.values)}"' if option.values else " -r" if option.takes_value else ""
            lines.append(f'complete -c aqr-bench -n "{at}"{flags}{_described(option.help)}')
    return FISH.format(version=__version__, lines="\n".join(lines))


def _described(text: str) -> str:
    return " -d '{}'".format(text.replace("\\", "\\\\").replace("'", "\\'")) if text else ""


SHELLS: dict[str, Callable[[list[Position]], str]] = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


if __name__ == "__main__":
    run_main(main)
