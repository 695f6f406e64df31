"""Files that are there whole or not at all, also when the disk fills while they are written."""

from __future__ import annotations

import pytest
import torch

from aqr_bench.atomic import atomic_write, exclusive_folder, write_text
from aqr_bench.errors import UserError, disk_error


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    file = write_text(tmp_path / "a.json", "old")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "new" / "out"
    with exclusive_folder(folder):
        with pytest.raises(UserError, match=f"another process is writing to {folder}; wait for it"):
            exclusive_folder(folder).__enter__()
        with exclusive_folder(tmp_path):
            pass
    with exclusive_folder(folder):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file: File exists; choose another --out"):
        exclusive_folder(tmp_path / "file").__enter__()


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / ".a.json.tmp").write_text("half of a longer file")
    write_text(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "new"


@pytest.mark.parametrize("how", ["text", "checkpoint"])
def test_a_full_disk_is_named(tmp_path, how):
    """/dev/full takes nothing, as a full disk does; torch hides the reason behind an error of its own."""
    (tmp_path / ".a.tmp").symlink_to("/dev/full")
    with pytest.raises((OSError, RuntimeError)) as caught:
        if how == "text":
            write_text(tmp_path / "a", "x" * 100_000)
        else:
            with atomic_write(tmp_path / "a") as temporary, temporary.open("wb") as file:
                torch.save({"state_dict": {"a": torch.zeros(100_000)}}, file)
    assert "no space is left. Free some space, then run the same command again" in str(disk_error(caught.value))
    if how == "text":
        assert f"cannot write {tmp_path / 'a'}: no space" in str(disk_error(caught.value))
    assert list(tmp_path.iterdir()) == []
