"""`data check` on the real keyframe as a nuScenes root, with tables written by this test."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from keyframe_tables import keyframe_tables
from PIL import Image

from aqr_bench.cli.main import main as cli
from aqr_bench.compat import load_safe_pickle
from aqr_bench.data.check.check import check_root
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.errors import UserError
from aqr_bench.foreign_files import LFS_POINTER, WEB_PAGE

PLACEHOLDERS = {
    LFS_POINTER: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 694720\n",
    WEB_PAGE: b"<!DOCTYPE html>\n<title>Log in</title>\n",
}


@pytest.fixture(scope="module")
def info(keyframe) -> dict:
    (path,) = keyframe.glob("*.pkl")
    return load_safe_pickle(path)["data_list"][0]


@pytest.fixture(scope="module")
def tables(info) -> dict[str, list[dict]]:
    return keyframe_tables(info)


@pytest.fixture
def root(keyframe, tables, tmp_path) -> Path:
    root = tmp_path / "nuScenes, ein Schlüsselbild"  # no check may stumble over spaces or umlauts
    for record in tables["sample_data"]:
        target = root / record["filename"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(keyframe / target.name, target)
    (root / "maps").mkdir()
    Image.new("L", (8, 8), 255).save(root / "maps/plain.png")
    (root / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows, indent=0))
    return root


def errors(root: Path, version: str | None = "v1.0-mini", partial: bool = True) -> list[str]:
    """The lines of what is wrong, without warnings."""
    return [finding.line() for finding in check_root(root, version, partial=partial).findings if not finding.warning]


def test_it_passes_as_a_part_of_the_release_and_the_devkit_agrees(root, info, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert cli(["data", "check", "--root", str(root), "--partial"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert "1 scene, 1 sample, 7 files looked for, 7 opened" in first
    assert len(rest) == 1 and rest[0].startswith("warning: splits: no scene of the official val split of v1.0-mini")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before, "nothing is written"
    nusc = open_nuscenes(root, "v1.0-mini")
    _, boxes, _ = nusc.get_sample_data(nusc.sample[0]["data"]["LIDAR_TOP"])
    centres = [instance["bbox_3d"][:3] for instance in info["instances"]]
    np.testing.assert_allclose([box.center for box in boxes], centres, atol=1e-3)


def test_missing_counts_and_scenes_of_the_release_are_named(root, capsys):
    assert cli(["data", "check", "--root", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(": ")[1] for line in lines] == ["counts", "splits", "splits"]
    assert "1 row of scene.json, not 10, 1 row of sample.json, not 404" in lines[0] and "--partial" in lines[0]
    assert "7 of 8 scenes of the official train split missing in scene.json: scene-0553" in lines[1]
    assert "and 4 more" in lines[1]


def test_missing_tables_are_named_until_they_are_there(root, tmp_path):
    aside = tmp_path / "aside"
    shutil.move(root / "v1.0-mini", aside)
    (line,) = errors(root)
    assert "has no folder v1.0-mini with tables (it has: none)" in line
    (root / "v1.0-mini").mkdir()
    for name in ("sample.json", "sensor.json"):
        shutil.copy(aside / name, root / "v1.0-mini")
    (line,) = errors(root)
    assert "v1.0-mini lacks 11 of the 13 tables: attribute.json, calibrated_sensor.json, category.json" in line
    assert "visibility.json. Unpack v1.0-mini.tgz" in line and "sample.json," not in line and "sensor.json, c" in line
    for path in aside.iterdir():
        shutil.copy(path, root / "v1.0-mini")
    assert errors(root) == []


@pytest.mark.parametrize("asked", [None, "v1.0-mini", "v1.0-trainval"])
def test_a_wrong_version_is_named(root, asked):
    if asked == "v1.0-trainval":
        (line,) = errors(root, asked)
        assert "has no folder v1.0-trainval with tables (it has: v1.0-mini)" in line
        return
    os.rename(root / "v1.0-mini", root / "v1.0-trainval")
    if asked:
        (line,) = errors(root, asked)
        assert "has no folder v1.0-mini with tables (it has: v1.0-trainval)" in line
    else:
        counts, *splits = errors(root, asked, partial=False)
        assert "not as many rows as v1.0-trainval has: 1 row of scene.json, not 850" in counts
        assert "699 of 700 scenes of the official train split" in splits[0]


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep) // 20 * 20 + 7])


def blank(path: Path) -> None:
    """As a download that was given its length but not its content: the second half is zeros."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((800, 450)).save(path)


def four_columns(path: Path) -> None:
    """Without the ring, as other data sets have it."""
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    points[:30_000, :4].tofile(path)


def not_finite(path: Path) -> None:
    points = np.fromfile(path, np.float32)
    points[5000] = np.nan
    points.tofile(path)


@pytest.mark.parametrize(
    ("channel", "damage", "message"),
    [
        ("LIDAR_TOP", lambda p: cut(p, 0.6), "samples/LIDAR_TOP, 1 of 1 file cut short (no multiple of 20 bytes)"),
        ("LIDAR_TOP", lambda p: p.write_bytes(b""), "samples/LIDAR_TOP, 1 of 1 file empty"),
        ("LIDAR_TOP", lambda p: p.unlink(), "samples/LIDAR_TOP, 1 of 1 file missing"),
        ("LIDAR_TOP", not_finite, "contents: 1 of 7 opened files with points that are not finite"),
        ("LIDAR_TOP", four_columns, "contents: 1 of 7 opened files with -3.29064 in column 4, which holds the ring"),
        ("CAM_FRONT", lambda p: p.unlink(), "samples/CAM_FRONT, 1 of 1 file missing"),
        ("CAM_BACK", lambda p: shutil.rmtree(p.parent), "samples/CAM_BACK, the folder of 1 file, cannot be read (No"),
        (
            "CAM_FRONT",
            lambda p: cut(p, 0.9),
            "1 of 7 opened files cut short (no end-of-image marker): samples/CAM_FRONT/n015",
        ),
        ("CAM_FRONT", blank, "1 of 7 opened files cut short (no end-of-image marker): samples/CAM_FRONT/n015"),
        (
            "CAM_FRONT",
            lambda p: p.write_bytes(b"GIF89a and more"),
            "1 of 7 opened files no JPEG (the first bytes are '4749', not 'ffd8'): samples/CAM_FRONT/n015",
        ),
        ("CAM_FRONT", shrink, "1 of 7 opened files of another width or height than sample_data.json says"),
    ],
)
def test_a_damaged_file_is_named(root, tables, channel, damage, message):
    name = next(r["filename"] for r in tables["sample_data"] if f"/{channel}/" in r["filename"])
    damage(root / name)
    (line,) = errors(root)
    assert message in line and "v1.0-mini.tgz" in line
    assert Path(name).name in line or "folder" in line


@pytest.mark.parametrize("channel", ["LIDAR_TOP", "CAM_FRONT"])
@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_a_placeholder_is_called_by_its_name(root, tables, channel, kind):
    name = next(r["filename"] for r in tables["sample_data"] if f"/{channel}/" in r["filename"])
    (root / name).write_bytes(PLACEHOLDERS[kind])
    (line,) = errors(root)
    assert f"each {kind.name}" in line and Path(name).name in line and line.endswith(kind.remedy)


def test_tables_that_are_placeholders_are_one_finding(root):
    for table in (root / "v1.0-mini").iterdir():
        table.write_bytes(PLACEHOLDERS[LFS_POINTER])
    (line,) = errors(root)
    assert "tables: 13 tables, each a Git LFS pointer, not the file itself: attribute.json, " in line
    assert line.endswith(LFS_POINTER.remedy)
    with pytest.raises(UserError, match=r"attribute\.json is a Git LFS pointer.* git lfs pull"):
        open_nuscenes(root, "v1.0-mini")


def test_opencv_accepts_a_jpeg_without_its_end(root, tables):
    """Why the marker is looked at: the reader of the pipeline gives a picture of full size for this file."""
    import cv2

    path = root / tables["sample_data"][1]["filename"]
    cut(path, 0.5)
    assert cv2.imread(str(path)).shape == (900, 1600, 3)
    assert "cut short (no end-of-image marker)" in errors(root)[0]


def test_bytes_behind_a_picture_do_no_harm(root, tables):
    path = root / tables["sample_data"][1]["filename"]
    path.write_bytes(path.read_bytes() + b"made with a camera" + bytes(100))
    assert errors(root) == []


def test_a_cloud_cut_between_two_points_is_a_warning(root, tables):
    path = root / tables["sample_data"][0]["filename"]
    path.write_bytes(path.read_bytes()[: 20 * 20_000])
    report = check_root(root, "v1.0-mini", partial=True)
    assert not report.errors
    assert any("a sector of 60 degrees or more without a return" in finding.line() for finding in report.findings)


def test_broken_json_is_named_with_its_position(root):
    path = root / "v1.0-mini" / "sample_data.json"
    path.write_text(path.read_text()[:-40])
    (line,) = errors(root)
    assert "tables: sample_data.json is not valid JSON" in line and "column" in line and "cut short" in line


def test_a_missing_map_mask_is_a_warning_because_nothing_reads_it(root):
    from nuscenes import nuscenes as devkit

    (root / "maps/plain.png").unlink()
    report = check_root(root, "v1.0-mini", partial=True)
    (line,) = [finding.line() for finding in report.findings if finding.group == "maps"]
    assert not report.errors and line.startswith("warning: maps: 1 map mask of map.json missing")
    assert "maps/plain.png" in line
    assert open_nuscenes(root, "v1.0-mini").map[0]["mask"] is None
    with pytest.raises(AssertionError, match="map mask"):
        devkit.NuScenes("v1.0-mini", str(root), verbose=False)


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("calibrated_sensor", "rotation", [1.0, 1.0, 0.0, 0.0], "calibration: calibrated_sensor.json, 1 row where"),
        ("calibrated_sensor", "camera_intrinsic", [[0.0] * 3] * 3, "'camera_intrinsic' is not an invertible 3 x 3"),
        ("calibrated_sensor", "camera_intrinsic", [], "1 row of a camera without 'camera_intrinsic': row 1"),
        ("calibrated_sensor", "translation", [1, 2, float("nan")], "'translation' is not three finite numbers"),
        ("ego_pose", "rotation", [0, 0, 0, 10**400], "ego_pose.json, 1 row where 'rotation' is not a rotation"),
        ("sample_data", "calibrated_sensor_token", "nobody", "is no token of calibrated_sensor.json: row 1"),
        ("sample_data", "is_key_frame", False, "sample.json, 1 row without a keyframe of CAM_FRONT"),
        ("sample_data", "filename", "../../etc/passwd", "names 1 path outside of ROOT: ../../etc/passwd"),
        ("sample_data", "timestamp", 10**30, "'timestamp' is not an integer from 0: row 1 (1000"),
        ("sample_annotation", "size", [1.0, 0.0, 1.0], "'size' is not width, length and height above 0"),
        ("sample_annotation", "next", "a999", "'next' is no token of sample_annotation.json: row 1"),
        ("sample_annotation", "attribute_tokens", ["gone"], "'attribute_tokens' is no token of attribute.json: row 1"),
        ("instance", "token", "i0", "instance.json has 1 token more than once: i0"),
        ("category", "name", None, "category.json, 1 row where 'name' is not a string: row 1 (None)"),
    ],
)
def test_a_wrong_value_is_named(root, tables, table, field, value, message):
    rows = json.loads(json.dumps(tables[table]))
    rows[1][field] = value
    (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))
    assert any(message in line for line in errors(root)), errors(root)


def write(root: Path, table: str, rows: list[dict]) -> None:
    (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))


def test_a_log_without_a_map(root, tables):
    write(root, "map", [tables["map"][0] | {"log_tokens": []}])
    (line,) = errors(root)
    assert "log.json, 1 row that no map of map.json names" in line


def test_one_bad_field_has_no_consequences(root, tables):
    """A row with a bad time is still a row: its files are looked for, and nothing seems to lack it."""
    for table in ("sample", "sample_data"):
        write(root, table, [row | {"timestamp": row["timestamp"] + 0.5} for row in tables[table]])
    report = check_root(root, "v1.0-mini", partial=True)
    lines = [finding.line() for finding in report.findings if not finding.warning]
    assert [line.split(" where ")[0] for line in lines] == [
        "error: tables: sample.json, 1 row",
        "error: tables: sample_data.json, 7 rows",
    ]
    assert all(f"row 0 ({tables['sample'][0]['timestamp']}.5)" in line for line in lines[:1])
    assert (report.files, report.opened) == (7, 7)
    (root / tables["sample_data"][2]["filename"]).unlink()
    assert "1 of 1 file missing" in errors(root)[2]


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("sample_data", "is_key_frame"),
        ("sample_data", "sample_token"),
        ("sample_data", "calibrated_sensor_token"),
        ("calibrated_sensor", "sensor_token"),
        ("sensor", "channel"),
        ("scene", "name"),
        ("map", "log_tokens"),
    ],
)
def test_nothing_is_absent_for_a_value_that_cannot_be_read(root, tables, table, field):
    for row in (tables[table][0] | {field: 7}, {k: v for k, v in tables[table][0].items() if k != field}):
        write(root, table, [row, *tables[table][1:]])
        (line,) = errors(root)
        assert f"{table}.json, 1 row" in line and f"'{field}'" in line


def test_remedies_fit_the_cause(root, tables):
    write(root, "scene", [tables["scene"][0] | {"name": "my-drive"}])
    lines = [finding.line() for finding in check_root(root, "v1.0-mini", partial=True).findings]
    assert len(lines) == 3 and all("docs/extend.md" in line for line in lines)
    write(root, "scene", tables["scene"])
    write(root, "sample_annotation", tables["sample_annotation"][1:])
    assert all("add what these rows need, or leave them out" in line for line in errors(root))
