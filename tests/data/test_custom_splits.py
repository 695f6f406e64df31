"""A data set with scene names of its own and splits.json: check, info files and data.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import with_tables_to_edit

from aqr_bench.data.__main__ import main
from aqr_bench.data.check.check import check_root
from aqr_bench.data.dataset import load_data
from aqr_bench.errors import UserError

VERSION = "v1.0-mini"


@pytest.fixture
def root(world, tmp_path) -> Path:
    """The world with other scene names; sensor files and maps are links."""
    root = with_tables_to_edit(world, tmp_path / "own")
    scenes = json.loads((root / VERSION / "scene.json").read_text())
    for number, scene in enumerate(scenes):
        scene["name"] = f"drive-{number}"
    (root / VERSION / "scene.json").write_text(json.dumps(scenes))
    return root


def write_splits(root: Path, **splits: list[str]) -> None:
    (root / VERSION / "splits.json").write_text(json.dumps(splits))


def findings(root: Path) -> list[str]:
    return [finding.line() for finding in check_root(root, partial=True, samples=0).findings]


def make_infos(root: Path, out: Path) -> int:
    return main(["--version", VERSION, "--root", str(root), "--out", str(out), "--quiet"])


def test_scenes_of_splits_json_become_info_files(root, tmp_path):
    write_splits(root, my_train=["drive-0", "drive-2"], my_val=["drive-1"])
    assert findings(root) == []
    assert make_infos(root, tmp_path / "infos") == 0
    summary = json.loads((tmp_path / "infos/data.json").read_text())
    assert {split: counts["samples"] for split, counts in summary["splits"].items()} == {"train": 4, "val": 2}
    load_data(tmp_path / "infos")
    write_splits(root, my_train=["drive-0"], my_val=["drive-1"])
    with pytest.raises(UserError, match=r"splits\.json is not what .*data\.json describes"):
        load_data(tmp_path / "infos")


def test_other_names_without_splits_json_are_told_how_to_name_splits(root, tmp_path):
    lines, remedy = findings(root), "your own splits in v1.0-mini/splits.json (docs/extend.md)"
    assert len(lines) == 3 and all(remedy in line for line in lines)
    with pytest.raises(UserError, match=r"belongs to the official val split.* in v1\.0-mini/splits\.json"):
        make_infos(root, tmp_path / "infos")


def test_mistakes_in_splits_json(root, tmp_path):
    write_splits(root, my_train=["drive-0", "drive-7"], my_val=["drive-1"])
    unseen, missing = sorted(findings(root), key=lambda line: "drive-7" in line)
    assert "1 scene of neither split of v1.0-mini, which no run will see: drive-2" in unseen
    assert "1 of 2 scenes of the split 'my_train' of splits.json missing in scene.json: drive-7" in missing
    write_splits(root, my_train=["drive-1"], my_val=["drive-7"])
    with pytest.raises(UserError, match=r"no scene of .* belongs to the split 'my_val' of splits\.json"):
        make_infos(root, tmp_path / "infos")
    write_splits(root, my_train=["drive-0"], my_val=["drive-0"])
    (line,) = findings(root)
    assert "scenes of both 'my_train' and 'my_val': drive-0. Leave each scene in one of them" in line
