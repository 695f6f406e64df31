"""docs/mmdet3d.md: every option of mmdet3d's tools has a row, and what the rows name is on our command line."""

from __future__ import annotations

import re
from pathlib import Path

import mmdet3d
import pytest

from aqr_bench.cli import main as cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mmdet3d.md"
TOOLS = Path(mmdet3d.__file__).parent / ".mim" / "tools"


def rows() -> dict[str, str]:
    section = PAGE.read_text(encoding="utf-8").partition("## Habits")[2].partition("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {theirs.strip(): ours.strip() for theirs, ours in cells if theirs.strip() != "mmdet3d"}


@pytest.mark.parametrize("tool", ["test.py", "train.py"])
def test_every_option_of_their_tools_has_a_row(tool):
    options = re.findall(r"add_argument\(\s*'(--[\w-]+)'", (TOOLS / tool).read_text(encoding="utf-8"))
    assert len(options) > 7
    named = {word for theirs in rows() for word in re.findall(r"--[\w-]+", theirs)}
    assert set(options) - {"--local_rank"} <= named  # that one is for torch's launcher alone


def called() -> list[tuple[str, str]]:
    """(command, option) for each option of ours in the table."""
    commands = [code for ours in rows().values() for code in re.findall(r"`aqr-bench ([^`]+)`", ours)]
    pairs = []
    for code in commands:
        name = re.match(r"config \w+|[\w-]+", code)[0]
        pairs += [(name, option) for option in re.findall(r"--[\w-]+", code)] or [(name, "--help")]
    return sorted(set(pairs))


@pytest.mark.parametrize("command", sorted({command for command, _ in called()}))
def test_what_is_to_be_typed_is_on_our_command_line(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert not [option for name, option in called() if name == command and not re.search(rf"{option}\b", text)]
