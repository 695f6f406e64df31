"""nuScenes' test split: its root is checked and its info files are made, without annotations and a train split."""

from __future__ import annotations

import json

import pytest
from worlds import as_test_split

from aqr_bench.cli.main import main
from aqr_bench.data.check.check import check_root
from aqr_bench.data.dataset import load_data, require_train_split
from aqr_bench.data.raw_frames import read_info_file
from aqr_bench.errors import UserError


@pytest.fixture
def root(world, tmp_path):
    return as_test_split(world, tmp_path / "root")


def test_the_check_takes_a_test_split(root, world):
    report = check_root(root, partial=True, samples=0)
    assert (report.version, report.findings) == ("v1.0-test", ())
    (counts, splits) = check_root(root, samples=0).findings
    assert (
        "3 rows of scene.json, not 150" in counts.line() and "147 of 150 scenes of the official test" in splits.line()
    )
    (root / "v1.0-mini").symlink_to(world / "v1.0-mini")
    assert check_root(root, partial=True, samples=0).version == "v1.0-mini", "as before, where both are there"
    assert check_root(root, "v1.0-test", partial=True, samples=0).findings == ()


def test_info_files_of_a_test_split(root, tmp_path, capsys):
    out = tmp_path / "infos"
    assert main(["data", "--version", "v1.0-test", "--root", str(root), "--out", str(out), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "v1.0-test has no annotations: an evaluation writes leaderboard files, and has no score" in text
    assert "infos of v1.0-test: train 0 samples, val 6 samples" in text
    data = load_data(out)
    assert not data.annotated and data.version == json.loads((out / "data.json").read_text())["version"] == "v1.0-test"
    infos = read_info_file(out / "infos_val.pkl")["data_list"]
    assert len(infos) == 6 and all(info["instances"] == [] for info in infos)
    with pytest.raises(UserError, match="no sample of the train split"):
        require_train_split(data)
