"""Names, units and counts of the tables: what nuScenes does not have is reported before anything runs, or mapped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from worlds import with_tables_to_edit

from aqr_bench.cli.main import main
from aqr_bench.data.check.check import check_root
from aqr_bench.data.check.tables import check_tables
from aqr_bench.data.check.values import check_values, devkit_values, table_values
from aqr_bench.data.dataset import load_data
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.study.vocabulary import IGNORE, Vocabulary, nuscenes_names
from aqr_bench.world import classes

CATEGORIES, ATTRIBUTES = nuscenes_names("categories"), nuscenes_names("attributes")

VERSION = "v1.0-mini"
TIMES = ("sample", "sample_data", "ego_pose")


@pytest.fixture
def root(world, tmp_path) -> Path:
    """The world with tables of its own, as data of somebody else."""
    return with_tables_to_edit(world, tmp_path / "root")


def edit(root: Path, table: str, change) -> None:
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    for row in rows:
        change(row)
    path.write_text(json.dumps(rows))


def findings(root: Path, vocabulary: Vocabulary | None = None) -> list[str]:
    report = check_root(root, partial=True, samples=0, vocabulary=vocabulary)
    return [f"{finding.what}: {', '.join(finding.names)}" for finding in report.findings]


def refusal(root: Path, capsys, *options: str) -> str:
    """What ``aqr-bench data``, the first job of a tier, ends with; it writes nothing then."""
    out = root / "infos"
    code = main(["data", "--version", VERSION, "--root", str(root), "--out", str(out), "--quiet", *options])
    assert code == 2 and not (out / "data.json").exists()
    return capsys.readouterr().err


def rename(old: str, new: str):
    return lambda row: row.update(name=new if row["name"] == old else row["name"])


def scale_times(factor: float):
    return lambda row: row.update(timestamp=int(row["timestamp"] * factor))


def no_points(row: dict) -> None:
    row.update(num_lidar_pts=0, num_radar_pts=0)


def test_the_names_are_nuscenes_in_every_place():
    assert tuple(name for name, _ in classes.CATEGORIES) == CATEGORIES and len(CATEGORIES) == 23
    assert tuple(name for name, _ in classes.ATTRIBUTES) == ATTRIBUTES and len(ATTRIBUTES) == 8


@pytest.mark.parametrize(
    ("tables", "change", "message"),
    [
        (["category"], rename("vehicle.car", "car"), "category.json, 1 name of annotated objects .*: car"),
        (["attribute"], rename("vehicle.parked", "parked"), "attribute.json, 1 name of annotated .*: parked"),
        (TIMES, scale_times(1e3), r"keyframes differ by 5e\+08, read as 500 s; they seem to be nanoseconds"),
        (TIMES, scale_times(1e-3), "keyframes differ by 500, read as 0.0005 s; they seem to be milliseconds"),
        (TIMES, scale_times(1e-6), "differ by 0.5, read as 5e-07 s; they seem to be seconds|differ by [01],"),
        (["sample_data"], scale_times(1e3), "sample_data.json, time stamps of keyframes differ by .* from those of"),
        (["sample_annotation"], no_points, r"num_lidar_pts and num_radar_pts are 0 in all \d+ rows"),
    ],
)
def test_other_names_units_and_counts_are_one_line_before_anything_runs(root, capsys, tables, change, message):
    import re

    assert findings(root) == []
    for table in tables:
        edit(root, table, change)
    (finding,) = findings(root)
    assert re.search(message, finding), finding
    lines = refusal(root, capsys).splitlines()
    assert len(lines) <= 2 and re.search(message, " ".join(lines)), lines


def test_tables_of_both_readers_say_the_same(world, nusc):
    tables = check_tables(world / VERSION, lambda items, title: items)[1]
    ours, devkit = table_values(tables), devkit_values(nusc)
    assert ours.categories == devkit.categories and ours.attributes == devkit.attributes != frozenset()
    assert (ours.boxes, ours.boxes_with_points) == (devkit.boxes, devkit.boxes_with_points)
    for name in ("keyframe_steps_us", "lags_us"):
        assert np.array_equal(np.sort(getattr(ours, name)), np.sort(getattr(devkit, name))) and len(ours.lags_us)
    assert check_values(table_values({}), Vocabulary()) == [] == check_values(ours, Vocabulary())


def test_clouds_of_other_units_are_one_line_before_anything_runs(root, world, capsys):
    (root / "samples").unlink()
    shutil.copytree(world / "samples", root / "samples")
    clouds = {path: np.fromfile(path, np.float32).reshape(-1, 5) for path in (root / "samples/LIDAR_TOP").iterdir()}
    for path, points in clouds.items():
        (points * np.float32([1, 1, 1, 1, 0])).tofile(path)
    assert main(["data", "--version", VERSION, "--root", str(root), "--out", str(root / "x"), "--quiet"]) == 0
    assert "is a cloud with 0 as ring of all points, so that beams cannot be told" in capsys.readouterr().err
    for path, points in clouds.items():
        (points * np.float32([100, 100, 100, 1, 1])).tofile(path)
    assert "is a cloud whose points are" in refusal(root, capsys)
    assert all("away in the median" in finding for finding in findings_of_files(root))


def findings_of_files(root: Path) -> list[str]:
    result = [finding.what for finding in check_root(root, partial=True).findings]
    assert result
    return result


# ---------------------------------------------------------------- a data set with custom names


@pytest.fixture
def custom_names(root) -> Path:
    edit(root, "category", lambda row: row.update(name=row["name"].rpartition(".")[2]))
    edit(root, "attribute", lambda row: row.update(name=f"my.{row['name']}"))
    return root


VOCABULARY = {
    "categories": {name.rpartition(".")[2]: name for name in CATEGORIES if name != "animal"} | {"truck": IGNORE},
    "attributes": {f"my.{name}": name for name in ATTRIBUTES} | {"my.vehicle.parked": IGNORE},
}


@pytest.fixture
def tier(custom_names, tmp_path) -> Path:
    path = tmp_path / "own.yaml"
    data = {"kind": "nuscenes", "version": VERSION, "root": str(custom_names), **VOCABULARY}
    tier = {"name": "own", "summary": "x", "data": data, "model": "cmt_aqr_quick"}
    path.write_text(yaml.safe_dump({**tier, "base": {"iterations": 1}, "variant": {"iterations": 1, "init": "base"}}))
    return path


def test_names_of_a_data_set_are_mapped_by_its_tier(custom_names, tier, nusc, infos, capsys):
    assert "names of annotated objects" in findings(custom_names)[0]
    assert findings(custom_names, Vocabulary(**VOCABULARY)) == []
    assert main(["data", "check", "--root", str(custom_names), "--partial", "--tier", str(tier), "--quiet"]) == 0
    out = custom_names / "infos"
    assert main(["data", "--tier", str(tier), "--root", str(custom_names), "--out", str(out), "--quiet"]) == 0
    data = load_data(out)
    assert data.vocabulary == Vocabulary(**VOCABULARY) and data.max_sweeps == 10
    mapped = open_nuscenes(custom_names, VERSION, data.vocabulary)
    parked = next(row["token"] for row in nusc.attribute if row["name"] == "vehicle.parked")
    for usual, annotation in zip(nusc.sample_annotation, mapped.sample_annotation, strict=True):
        name = usual["category_name"]
        assert annotation["category_name"] == (IGNORE if name == "vehicle.truck" else name)
        assert annotation["attribute_tokens"] == [token for token in usual["attribute_tokens"] if token != parked]
    assert any(row["name"] == "vehicle.moving" for row in mapped.attribute)
    summary = json.loads((out / "data.json").read_text())
    boxes, usual = (
        summary["splits"]["train"]["boxes"],
        [i["bbox_label_3d"] for e in infos["train"] for i in e["instances"]],
    )
    assert boxes["car"] == usual.count(0) and boxes["truck"] == 0


def test_a_mapping_of_a_name_that_is_not_there_is_a_mistake(custom_names):
    with pytest.raises(Exception, match=r"data\.categories: the tables of .* have no 'carr'; did you mean 'car'\?"):
        open_nuscenes(custom_names, VERSION, Vocabulary({"carr": "vehicle.car"}))


def test_info_files_differ_by_the_mapping(tmp_path, infos):
    from aqr_bench.data.digests import infos_digest
    from aqr_bench.data.infos import write_infos

    digests = set()
    for number, vocabulary in enumerate((None, Vocabulary(), Vocabulary(attributes={"parked": IGNORE}))):
        write_infos(infos, tmp_path / str(number), VERSION, vocabulary)
        digests.add(infos_digest(tmp_path / str(number)))
    assert len(digests) == 2, "scores depend on it; without one the files are as before"
