"""Data sets and info files of other projects, as they are: what is wrong is named, once, with the right remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aqr_bench.cli.corruptions import load_frame
from aqr_bench.cli.main import main as cli
from aqr_bench.data.__main__ import main as data
from aqr_bench.data.check.check import check_root
from aqr_bench.data.raw_frames import BadFrameError
from aqr_bench.errors import UserError
from aqr_bench.foreign_files import LFS_POINTER


@pytest.fixture
def strangers(shared) -> Path:
    folder = shared / "data" / "strangers"
    if not folder.is_dir():
        pytest.skip("data of other projects, ../shared/data/strangers, is not here")
    return folder


@pytest.fixture
def t4(strangers, tmp_path) -> Path:
    """The T4 data set with its tables where they are looked for."""
    root = tmp_path / "t4"
    root.mkdir()
    for name in ("data", "map"):
        (root / name).symlink_to(strangers / "t4_dataset" / name)
    (root / "v1.0-mini").symlink_to(strangers / "t4_dataset" / "annotation")
    return root


def findings(root: Path) -> list[str]:
    return [finding.line() for finding in check_root(root, partial=True).findings if not finding.warning]


def refused(root: Path, out: Path) -> str:
    with pytest.raises(UserError) as error:
        data(["--version", "v1.0-mini", "--root", str(root), "--out", str(out), "--quiet"])
    return str(error.value)


def test_git_lfs_pointers(strangers, tmp_path):
    root = strangers / "lfs_pointers"
    (line,) = findings(root)
    assert "13 tables, each a Git LFS pointer" in line and line.endswith(LFS_POINTER.remedy)
    assert LFS_POINTER.remedy in refused(root, tmp_path)


def test_a_t4_data_set(strangers, t4, tmp_path):
    root = strangers / "t4_dataset"
    (line,) = findings(root)
    assert "there are tables in annotation/. Rename that folder" in line
    assert "there are tables in annotation/. Rename that folder: v1.0-mini." in refused(root, tmp_path)
    lines = findings(t4)
    sensors = next(line for line in lines if "sensor.json" in line)
    assert "has CAM_BACK, CAM_FRONT, LIDAR_TOP, and lacks 4 sensors" in sensors and "CAM_BACK_LEFT" in sensors
    assert not any("without a keyframe" in line or "missing" in line for line in lines), "its own folders are read"
    message = refused(t4, tmp_path)
    assert "3 names of annotated objects that nuScenes does not have" in message and "data.categories" in message


def test_a_custom_vehicle(strangers, tmp_path):
    lines = findings(strangers / "custom_vehicle")
    (sensors,) = (line for line in lines if "sensor.json" in line and "calibrated" not in line)
    assert "LIDAR_FRONT" in sensors and "lacks 7 sensors: LIDAR_TOP, CAM_FRONT" in sensors
    assert "name them as nuScenes does (docs/extend.md)" in sensors
    (rotation,) = (line for line in lines if "'rotation'" in line)
    assert "12 rows where 'rotation' is not a rotation quaternion" in rotation and "row 0 ([[1.0, 0.0, 0.0]" in rotation
    assert any("'timestamp' is not an integer from 0: row 0 (1.673069019066784e+18)" in line for line in lines)
    for consequence in ("without a keyframe", "0 files looked for", "(0, not"):
        assert not any(consequence in line for line in lines)
    assert check_root(strangers / "custom_vehicle", partial=True, samples=0).files == 596
    assert "category.json" in refused(strangers / "custom_vehicle", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmdet3d_tests_nus_info_0.x", "is an info file of mmdet3d 0.x. Make info files of mmdet3d 1.x"),
        ("mmdet3d_tests_nus_info_1.x", "cannot be read"),
        ("lyft_infos", "cannot be read"),
        ("trainval_10samples_val", "cannot be read"),
    ],
)
def test_info_files_are_refused_in_one_line(strangers, tmp_path, capsys, name, message):
    shutil.copy(strangers / "infos" / f"{name}.pkl", tmp_path)
    with pytest.raises((UserError, BadFrameError), match=message):
        load_frame(None, str(tmp_path), "0", 0)
    if "0.x" in name:
        command = ["evaluate", "--tier", "quick", "--train", "no record", "--keyframe", str(tmp_path)]
        assert cli([*command, "--pictures", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
