"""Which checkpoint a killed training goes on from, when some of them are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aqr_bench.engine.resume import checkpoint_damage, latest_valid_checkpoint


def checkpoint(path: Path) -> Path:
    torch.save({"state_dict": {"weight": torch.arange(5000.0)}, "meta": {"iter": 2}}, path)
    return path


@pytest.fixture
def work(tmp_path) -> Path:
    for name in ("iter_4.pth", "iter_12.pth"):
        checkpoint(tmp_path / name)
    (tmp_path / "curve.json").write_text(json.dumps([[4, 1.5], [12, 1.25]]))
    (tmp_path / "final.pth").write_bytes(b"not looked at")
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, byte: int = 12_000) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_the_newest_by_number(work):
    assert latest_valid_checkpoint(work) == (work / "iter_12.pth", [])


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_is_passed_over(work, damage):
    damage(work / "iter_12.pth")
    result, output = latest_valid_checkpoint(work)
    assert result == work / "iter_4.pth"
    assert (
        len(output) == 1
        and "iter_12.pth is damaged (" in output[0]
        and output[0].endswith("; going on from iter_4.pth")
    )
    damage(work / "iter_4.pth")
    result, output = latest_valid_checkpoint(work)
    assert result is None and len(output) == 2 and all("starts afresh" in line for line in output)


def test_every_flipped_bit_of_the_weights_is_noticed(work):
    """The numbers make up nearly all of the file; a bit of zip's own bookkeeping may be of no consequence."""
    path = work / "iter_12.pth"
    for byte in range(2000, path.stat().st_size - 2000, 997):
        flip(path, byte)
        assert checkpoint_damage(path) is not None, byte
        flip(path, byte)
    assert checkpoint_damage(path) is None


@pytest.mark.parametrize("content", ["", "[[4, 1.5], [12, 1.2", "[[4], [12]]", "[[4, 1.5], 7]"])
def test_without_its_loss_curve_a_training_starts_afresh(work, content):
    (work / "curve.json").write_text(content)
    result, output = latest_valid_checkpoint(work)
    assert result is None and len(output) == 1 and "curve.json is damaged (" in output[0]


def test_an_empty_folder_has_nothing_to_say(tmp_path):
    assert latest_valid_checkpoint(tmp_path) == (None, [])
    (tmp_path / "curve.json").write_text("[")  # of a training killed before its first checkpoint
    assert latest_valid_checkpoint(tmp_path) == (None, [])


def test_checkpoints_of_epochs(tmp_path):
    for name in ("epoch_9.pth", "epoch_10.pth", "best_epoch_11.pth"):
        checkpoint(tmp_path / name)
    assert latest_valid_checkpoint(tmp_path)[0] == tmp_path / "epoch_10.pth"
