"""Every reader calls a well-known wrong file by its name, and says what to do about it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from aqr_bench.compat import load_safe_pickle
from aqr_bench.data.check.check import check_root
from aqr_bench.data.check.files import cloud_fault, image_fault
from aqr_bench.data.dataset import keyframe_data, load_data
from aqr_bench.data.gt_database import _train_frames
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.data.raw_frames import BadFrameError, InfoFile, read_cloud, read_image
from aqr_bench.data.transforms import CheckFrame
from aqr_bench.engine.checkpoint import read_checkpoint
from aqr_bench.engine.config import open_config
from aqr_bench.engine.weights import weights_of
from aqr_bench.errors import UserError
from aqr_bench.foreign_files import LFS_POINTER, OLD_INFOS, TRACKING, WEB_PAGE, misplaced_tables, old_infos, placeholder
from aqr_bench.metrics.submission import load_results, read_submission

VERSIONS = ("v1.0-trainval", "v1.0-mini")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 694720\n"
CONTENTS = {LFS_POINTER: POINTER, WEB_PAGE: b"\n <!doctype HTML><html><title>Log in</title></html>"}


def check_frame(path: Path) -> None:
    CheckFrame(cameras=False)({"token": "a", "lidar_points": {"lidar_path": str(path)}})


def tables(path: Path) -> None:
    (path.parent / "v1.0-mini").mkdir(exist_ok=True)
    path.rename(path.parent / "v1.0-mini" / "category.json")  # the first one that nuscenes-devkit reads
    open_nuscenes(path.parent, "v1.0-mini")


READERS = {
    "x.pkl": [
        load_safe_pickle,
        lambda path: InfoFile(path, path.parent),
        _train_frames,
        lambda p: keyframe_data(p.parent),
    ],
    "data.json": [lambda path: load_data(path.parent), tables],
    "x.pcd.bin": [read_cloud, check_frame],
    "x.jpg": [read_image],
    "x.png": [read_image],
    "x.json": [load_results, lambda path: read_submission(path, {})],
    "x.pth": [read_checkpoint, weights_of],
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize(
    ("name", "reader"), [(name, reader) for name, readers in READERS.items() for reader in readers]
)
def test_every_reader_recognises_a_placeholder(tmp_path, kind, name, reader):
    path = tmp_path / name
    path.write_bytes(CONTENTS[kind])
    with pytest.raises((UserError, BadFrameError, RuntimeError)) as refused:
        reader(path)
    assert kind.name in str(refused.value)
    assert kind.remedy in str(refused.value) or name in ("x.jpg", "x.png")


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_data_check_recognises_a_placeholder(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[kind])
    assert image_fault(path, (-1, -1)) == f"each {kind.name}"
    for size in (len(CONTENTS[kind]), 140):  # that of seven points
        path.write_bytes(CONTENTS[kind].ljust(size))
        assert cloud_fault(path) == (f"each {kind.name}", "file")


@pytest.mark.parametrize("content", [b"", b"[]", b"<svg>", b"version 1", b"\xff\xd8\xff", b"html"])
def test_other_files_are_no_placeholders(content):
    assert placeholder(content) is None


@pytest.mark.parametrize("content", [{"infos": [], "metadata": {"version": "v1.0-mini"}}, [{"lidar_path": "a"}]])
def test_info_files_of_mmdet3d_0x(tmp_path, content):
    path = tmp_path / "infos_train.pkl"
    path.write_bytes(pickle.dumps(content))
    for reader in READERS["x.pkl"][1:]:
        with pytest.raises(UserError, match=r"infos_train\.pkl is an info file of mmdet3d 0\.x\. Make info files of"):
            reader(path)
    for other in ({"data_list": [], "metainfo": {}}, [], [{"boxes_3d": []}], "text", None):
        assert old_infos(other) is None


def test_configs_of_mmdet3d_0x(tmp_path):
    config = tmp_path / "my_detector.py"
    config.write_text("model = dict(type='X')\ndata = dict(samples_per_gpu=2, train=dict(), test=dict())\n")
    with pytest.raises(
        UserError, match=r"my_detector\.py is a config of mmdet3d 0\.x .*with train_dataloader and test_da"
    ):
        open_config(str(config))
    config = config.rename(tmp_path / "cmt_voxel0075_vov_1600x640_cbgs.py")
    with pytest.raises(UserError, match=r"a config of mmdet3d 0\.x .*ships here: cmt_voxel0075_vov_1600x640_cbgs\."):
        open_config(str(config))
    config.write_text("model = dict(type='X')\n")
    with pytest.raises(UserError, match="no train_dataloader"):
        open_config(str(config))


@pytest.mark.parametrize("token", ["a", "of another split"])
def test_tracking_submissions_come_before_what_follows_from_them(tmp_path, token):
    path = tmp_path / "tracking.json"
    box = {"sample_token": token, "tracking_name": "car", "tracking_id": "1", "translation": [0, 0, 0]}
    path.write_text(json.dumps({"meta": {}, "results": {"": [], token: [box]}}))
    for read in (load_results, lambda path: read_submission(path, {"a": 0})):
        with pytest.raises(UserError, match=r"tracking\.json is a nuScenes tracking submission\. Give a detection"):
            read(path)
    assert TRACKING.name == "a nuScenes tracking submission" and OLD_INFOS.remedy.endswith(".py.")


# ---------------------------------------------------------------- folders


def put_tables(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sample_data.json").write_text("[]")


@pytest.mark.parametrize(
    ("folder", "message", "remedy"),
    [
        (
            "v1.0-mini/v1.0-mini",
            "the tables are one folder deeper, in v1.0-mini/v1.0-mini",
            "Move v1.0-mini/v1.0-mini/ up",
        ),
        (".", "this is the folder of the tables itself", "Set the root to "),
        ("annotation", "there are tables in annotation/", "Rename that folder: v1.0-trainval or v1.0-mini."),
        ("v1.0-test", "v1.0-test has no annotations", "Nothing can be trained or scored on it"),
    ],
)
def test_tables_elsewhere_are_named_by_the_check_and_by_the_loader(tmp_path, folder, message, remedy):
    put_tables(tmp_path / folder)
    (finding,) = check_root(tmp_path, "v1.0-mini" if folder == "v1.0-test" else None).findings
    assert message in finding.what and finding.remedy.startswith(remedy)
    with pytest.raises(UserError, match=f"no tables of version 'v1.0-mini' in .*{message}"):
        open_nuscenes(tmp_path, "v1.0-mini")


def test_a_release_unpacked_into_its_version_is_a_root_of_its_own(tmp_path):
    put_tables(tmp_path / "v1.0-mini/v1.0-mini")
    (tmp_path / "v1.0-mini/samples").mkdir()
    (finding,) = check_root(tmp_path).findings
    assert finding.remedy == f"Set the root to {tmp_path / 'v1.0-mini'}."


def test_tables_in_their_place_are_not_misplaced(tmp_path):
    assert misplaced_tables(tmp_path, VERSIONS) is None and misplaced_tables(tmp_path / "gone", VERSIONS) is None
    put_tables(tmp_path / "v1.0-mini")
    assert misplaced_tables(tmp_path, VERSIONS) is None
    assert misplaced_tables(tmp_path, ["v1.0-trainval"]) is None, "the message lists the other version"
