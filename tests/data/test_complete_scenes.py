"""What cannot be trained on or scored is reported when info files are made: files, splits, channels, objects."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from nuscenes.eval.common.loaders import load_gt
from nuscenes.eval.detection.data_classes import DetectionBox
from worlds import with_tables_to_edit

from aqr_bench.data.__main__ import main
from aqr_bench.data.complete_scenes import CHANNELS, incomplete_scenes, without_scenes
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.train import main as train
from aqr_bench.errors import UserError
from aqr_bench.metrics.ground_truth import read_split

VERSION = "v1.0-mini"


def edited(world: Path, root: Path, **changes) -> Path:
    """The world with some of its tables changed: each by a function of its rows."""
    with_tables_to_edit(world, root)
    for name, change in changes.items():
        path = root / VERSION / f"{name}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(rows) or rows), encoding="utf-8")
    return root


def make(root: Path, out: Path, *options: str) -> dict:
    assert main(["--version", VERSION, "--root", str(root), "--out", str(out), "--quiet", *options]) == 0
    return json.loads((out / "data.json").read_text(encoding="utf-8"))


def scene_of_missing_file(root: Path, nusc, channel: str, keyframe: bool = True) -> str:
    """Take one file of the first scene away; returns the scene's name."""
    scene = nusc.scene[0]
    record = next(
        r
        for r in nusc.sample_data
        if r["channel"] == channel
        and r["is_key_frame"] == keyframe
        and nusc.get("sample", r["sample_token"])["scene_token"] == scene["token"]
    )
    for name in ("samples", "sweeps"):  # a copy of the one folder, links to the others
        folder = Path(record["filename"]).parent
        if folder.parts[0] != name:
            continue
        source = (root / name).resolve()
        (root / name).unlink()
        (root / name).mkdir()
        for child in source.iterdir():
            (root / name / child.name).symlink_to(child)
        (root / folder).unlink()
        shutil.copytree(source / folder.name, root / folder)
    (root / record["filename"]).unlink()
    return scene["name"]


def test_scenes_that_lack_files_are_named_or_left_out_and_counted(world, nusc, tmp_path, capsys):
    root = edited(world, tmp_path / "root")
    name = scene_of_missing_file(root, nusc, "CAM_BACK")
    with pytest.raises(
        UserError, match="1 of 42 files of keyframes are missing, of 1 of 3 scenes, the first is"
    ) as caught:
        make(root, tmp_path / "a")
    assert "samples/CAM_BACK/" in caught.value.message and "aqr-bench data --skip-missing" in caught.value.remedy
    summary = make(root, tmp_path / "b", "--skip-missing")
    assert summary["skipped_scenes"] == [name]
    assert {split: counts["samples"] for split, counts in summary["splits"].items()} == {"train": 2, "val": 2}
    assert f"1 of 3 scenes lack files and are left out: {name}" in capsys.readouterr().out
    assert load_data(tmp_path / "b").skipped_scenes == (name,)
    assert "skipped_scenes" not in make(world, tmp_path / "c", "--skip-missing")


def test_sweeps_count_where_they_are_asked_for(world, nusc, tmp_path):
    root = edited(world, tmp_path / "root")
    name = scene_of_missing_file(root, nusc, "LIDAR_TOP", keyframe=False)
    tables = copy.copy(nusc)
    tables.dataroot = str(root)
    assert incomplete_scenes(tables, 10) == [name] and incomplete_scenes(tables, 0) == []
    assert "skipped_scenes" not in make(root, tmp_path / "out")  # its keyframes are there
    (root / "sweeps" / "LIDAR_TOP").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"every scene lacks files, the first is sweeps/LIDAR_TOP/.* --max-sweeps 0"):
        incomplete_scenes(tables, 10)


def test_tables_alone_are_a_warning(world, tmp_path, capsys):
    shutil.copytree(world / VERSION, tmp_path / "root" / VERSION)
    (tmp_path / "root" / "maps").symlink_to(world / "maps")  # the devkit does not open tables without them
    make(tmp_path / "root", tmp_path / "out")
    assert "42 of 42 files of keyframes are missing, of 3 of 3 scenes" in capsys.readouterr().err


def test_scenes_that_are_left_out_are_not_scored(nusc):
    """By the devkit neither: it goes through the table of samples too."""
    tables = copy.deepcopy(nusc)
    name = tables.scene[0]["name"]
    before = read_split(tables, "mini_train").samples
    left = read_split(without_scenes(tables, [name]), "mini_train")
    after, boxes = left.samples, left.boxes
    assert name in before.scenes and name not in after.scenes and len(after.tokens) == len(before.tokens) - 2
    devkit = load_gt(tables, "mini_train", DetectionBox)
    assert devkit.sample_tokens == list(after.tokens) and sum(map(len, devkit.boxes.values())) == len(boxes)
    assert all(tables.get("sample", token)["token"] == token for token in after.tokens)
    assert without_scenes(nusc, ()) is nusc and len(nusc.sample) == 6


def renamed(rows: list[dict]) -> list[dict]:
    """Scenes of neither split."""
    return [{**row, "name": f"mine-{number}"} for number, row in enumerate(rows)]


def test_a_val_split_alone_can_be_evaluated_on_and_not_trained_on(world, tmp_path):
    root, infos = edited(world, tmp_path / "root", scene=lambda rows: renamed(rows[:2]) + rows[2:]), tmp_path / "infos"
    summary = make(root, infos)
    assert {split: counts["samples"] for split, counts in summary["splits"].items()} == {"train": 0, "val": 2}
    arguments = ["--tier", "smoke", "--infos", str(infos), "--seed", "0", "--work", str(tmp_path / "work")]
    with pytest.raises(UserError, match="infos has no sample of the train split: it can only be evaluated on"):
        train([*arguments, "--out", str(tmp_path / "train.jsonl")])
    with pytest.raises(UserError, match=r"belongs to the official val split.* nothing can be evaluated"):
        make(edited(world, tmp_path / "none", scene=renamed), tmp_path / "other")


def without_points(rows: list[dict]) -> None:
    for row in rows:
        row["num_lidar_pts"] = row["num_radar_pts"] = 0


def two_attributes(rows: list[dict]) -> None:
    known = next(row["attribute_tokens"] for row in rows if row["attribute_tokens"])
    for row in rows:
        row["attribute_tokens"] = (row["attribute_tokens"] or known) * 2


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample_annotation", without_points, "num_lidar_pts and num_radar_pts are 0 in all .* rows"),
        (
            "category",
            lambda rows: [{**row, "name": "thing"} for row in rows],
            "of annotated objects that nuScenes does not",
        ),
        ("sample_annotation", two_attributes, "has more than one attribute"),
        (
            "calibrated_sensor",
            lambda rows: [row for row in rows if row["token"] != rows[0]["token"]],
            "the nuScenes tables",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_training(table, change, message, world, tmp_path):
    with pytest.raises(UserError, match=message):
        make(edited(world, tmp_path / "root", **{table: change}), tmp_path / "out")
    assert not (tmp_path / "out" / "data.json").exists()


def test_a_channel_that_is_missing_is_named(world, nusc, tmp_path):
    first = next(r for r in nusc.sample_data if r["channel"] == "CAM_BACK" and r["is_key_frame"])
    others = lambda rows: [row for row in rows if row["token"] != first["token"]]  # noqa: E731
    with pytest.raises(UserError, match=f"sample {first['sample_token']} has no keyframe of CAM_BACK in"):
        make(edited(world, tmp_path / "root", sample_data=others), tmp_path / "out")
    assert len(CHANNELS) == 7
