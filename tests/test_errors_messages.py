"""Human-readable messages: one printable line of a bounded length, whatever they quote."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from aqr_bench import errors
from aqr_bench.cli import main as cli
from aqr_bench.data.raw_frames import BadFrameError
from aqr_bench.engine.job import one_line
from aqr_bench.errors import (
    MAX_LIST_CHARS,
    MAX_MESSAGE_CHARS,
    UserError,
    join_names,
    nearest,
    quoted,
    reading,
    require_file,
    short,
    user_message,
)


def test_a_message_is_one_printable_line():
    text = str(UserError("a\nb\tc \x1b[31mred \udcff ü 名"))
    assert text == r"a b c \x1b[31mred \udcff ü 名" and text.isprintable()
    long = str(UserError("start" + "x" * 10_000 + "way out"))
    assert len(long) <= MAX_MESSAGE_CHARS + 5 and long.startswith("start") and long.endswith("way out")
    error = UserError("a is wrong", "Correct it.")
    assert str(error) == "a is wrong. Correct it." and str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pickle.loads(pickle.dumps(error)).remedy == "Correct it."


class Broken(torch.utils.data.Dataset):
    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise self.error("an inner one")
        except Exception as error:
            raise self.error("LiDAR file is missing: /data/a.bin") from error


@pytest.mark.parametrize("kind", [BadFrameError, UserError])
def test_an_error_in_a_loaders_worker_is_reported_by_its_own_words(kind):
    """torch hands it over as a traceback, of which a record would have the first 300 characters."""
    with pytest.raises(kind) as caught:
        list(torch.utils.data.DataLoader(Broken(kind), num_workers=1))
    assert str(caught.value).startswith("Caught ")
    assert one_line(caught.value) == f"{kind.__name__}: LiDAR file is missing: /data/a.bin"
    assert user_message(caught.value) == (None if kind is BadFrameError else "LiDAR file is missing: /data/a.bin")
    assert one_line(RuntimeError("Caught in the rain")) == "RuntimeError: Caught in the rain"


def test_values_are_quoted_short():
    endless: list = []
    endless.append(endless)
    assert quoted("a") == "'a'" and len(quoted("a" * 10_000)) <= 83 and len(quoted([list(range(100))] * 100)) <= 83
    assert quoted(endless).startswith("[[") and short("abc") == "abc" and short("a" * 99 + "z", 10) == "aaaaa...aaaaz"


def test_lists_of_names_end_with_how_many_more_there_are():
    names = [f"condition_{i}" for i in range(100)]
    assert join_names(["a", "b"]) == "a, b"
    text = join_names(names)
    assert len(text) < MAX_LIST_CHARS + 20 and text.endswith(f"and {100 - text.count('_')} more")
    assert nearest("x" * 100_000, names).startswith("; known: ") and len(nearest("q", names)) < MAX_LIST_CHARS + 40


def test_what_a_damaged_file_raises_names_file_reason_and_remedy(tmp_path):
    with (
        pytest.raises(UserError, match=r"^info cannot be used: a\.json \(KeyError: 'root'\)\. Make it again\.$"),
        reading("a.json", "info", "Make it again."),
    ):
        {}["root"]
    with pytest.raises(UserError, match="kept as it is"), reading("a.json", "info", "Make it again."):
        raise UserError("kept as it is")
    with pytest.raises(ImportError), reading("a.json", "info", "Make it again."):
        raise ImportError("no matter of the file")
    with pytest.raises(UserError, match="info not found"):
        require_file("a" * 5000, "info", "Give a shorter name.")


def test_what_the_system_refuses_is_one_line_and_exit_code_2(monkeypatch, capsys):
    refused = PermissionError(13, "Permission denied", "results/quick\n")
    assert (
        user_message(refused).startswith("cannot use results/quick : this user must not")
        and user_message(OSError("odd")) == "OSError: odd"
    )

    def main(_argv):
        raise refused

    monkeypatch.setattr("aqr_bench.cli.studies.main", main)
    assert cli.main(["studies"]) == 2
    with pytest.raises(SystemExit) as stop:
        errors.run_main(main)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 2
    assert all(line.startswith("error: cannot use results/quick : this user must not write or read") for line in lines)


def test_names_are_cut_short_and_paths_are_not():
    long = "results of 2026/" * 8
    assert "..." in join_names([long]) and join_names([Path(long), "b"]) == f"{Path(long)}, b"
