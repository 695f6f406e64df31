"""The database of a tiny world: each object's points and pixels are those of the frame it was cut from."""

from __future__ import annotations

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from aqr_bench.data.__main__ import main
from aqr_bench.data.gt_database import DBINFOS, _best_crop, _load_cloud, build_database, project_boxes
from aqr_bench.data.infos import INFO_CLASSES, write_infos
from aqr_bench.data.raw_frames import BadFrameError
from aqr_bench.errors import UserError


@pytest.fixture(scope="module")
def entries(database):
    return pickle.loads((database[0] / DBINFOS).read_bytes())


def all_of(entries):
    return [entry for objects in entries.values() for entry in objects]


def points_of(folder, entry):
    return np.fromfile(folder / entry["path"], dtype=np.float32).reshape(-1, 5)


def in_box(points, box, margin=0.0):
    """[n] bool: points [n, 3], relative to the bottom centre of a box (l, w, h, yaw at 3:7), lie inside of it."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    along, across = points[:, 0] * cos + points[:, 1] * sin, points[:, 1] * cos - points[:, 0] * sin
    half_length, half_width = box[3] / 2 + margin, box[4] / 2 + margin
    upright = (points[:, 2] >= -margin) & (points[:, 2] <= box[5] + margin)
    return (np.abs(along) <= half_length) & (np.abs(across) <= half_width) & upright


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_class_is_there_and_entries_are_plain(database, entries):
    folder, counts = database
    assert tuple(entries) == tuple(counts) == INFO_CLASSES
    assert {name: len(objects) for name, objects in entries.items()} == counts
    assert sum(counts.values()) > 20 and counts["barrier"] == 0
    for name, objects in entries.items():
        for entry in objects:
            assert entry["name"] == name and entry["difficulty"] == 0
            assert entry["box3d_lidar"].shape == (9,) and entry["box3d_lidar"].dtype == np.float32
            assert entry["num_points_in_gt"] == len(points_of(folder, entry)) > 0
            assert bool(entry["image_path"]) == bool(entry["image_crop_key"])
            assert entry["sweeps"] == 10 and len(entry["sweep_lags"]) <= 10
            lags = {0.0, *np.float32(entry["sweep_lags"]).tolist()}
            assert set(points_of(folder, entry)[:, 4].tolist()) <= lags
    named = {entry[key] for entry in all_of(entries) for key in ("path", "image_path")} - {""}
    assert {name for name in files_of(folder) if name.startswith("gt_database")} == named


def test_boxes_are_the_infos_boxes_at_their_bottom_centre(infos, entries):
    frames = {info["token"]: info for info in infos["train"]}
    for entry in all_of(entries):
        instance = frames[entry["image_idx"]]["instances"][entry["gt_idx"]]
        box = np.array(instance["bbox_3d"])
        assert INFO_CLASSES[instance["bbox_label_3d"]] == entry["name"]
        np.testing.assert_allclose(entry["box3d_lidar"][[0, 1, 3, 4, 5, 6]], box[[0, 1, 3, 4, 5, 6]], rtol=1e-6)
        assert entry["box3d_lidar"][2] == pytest.approx(box[2] - box[5] / 2, abs=1e-5)


def test_points_are_exactly_those_inside_the_box(database, infos, world, entries):
    folder, _ = database
    frames = {info["token"]: info for info in infos["train"]}
    for entry in all_of(entries):
        box, points = entry["box3d_lidar"].astype(np.float64), points_of(folder, entry)
        assert in_box(points, box, margin=1e-3).all()
        # The points of the keyframe have no lag; all of them inside, but for the faces, are there.
        path = world / "samples" / "LIDAR_TOP" / frames[entry["image_idx"]]["lidar_points"]["lidar_path"]
        key = np.fromfile(path, dtype=np.float32).reshape(-1, 5)
        moved = key[:, :3] - box[:3]
        count = int((points[:, 4] == 0).sum())
        assert in_box(moved, box, -1e-3).sum() <= count <= in_box(moved, box, 1e-3).sum()
    assert any((points_of(folder, entry)[:, 4] > 0).any() for entry in all_of(entries))


def test_sweeps_lose_the_car_itself_and_the_number_of_sweeps_is_a_choice(tmp_path):
    np.array([[0.5, 0.5, 0, 7, 3], [5, 5, 0, 7, 3]], np.float32).tofile(tmp_path / "cloud.bin")
    cloud = {"lidar_path": str(tmp_path / "cloud.bin"), "lidar2sensor": np.eye(4).tolist()}
    sweeps = [{"timestamp": 10 - lag, "lidar_points": cloud} for lag in (0.25, 0.5)]
    frame = {"token": "t", "timestamp": 10.0, "lidar_points": cloud, "lidar_sweeps": sweeps, "images": {}}
    key = [[0.5, 0.5, 0, 7, 0], [5, 5, 0, 7, 0]]
    assert _load_cloud(dict(frame), 10).tolist() == [*key, [5, 5, 0, 7, 0.25], [5, 5, 0, 7, 0.5]]
    assert _load_cloud(dict(frame), 1).tolist() == [*key, [5, 5, 0, 7, 0.25]]


def test_crops_are_the_largest_region_of_the_images(database, infos, world, entries):
    folder, _ = database
    frames = {info["token"]: info for info in infos["train"]}
    with_crop = 0
    for entry in all_of(entries):
        x, y, z, length, width, height, yaw = entry["box3d_lidar"][:7].astype(np.float64)
        signs = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (0, 1)])
        local = signs * [length, width, height]
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        corners = np.concatenate([local[:, :2] @ turn.T + [x, y], local[:, 2:] + z], 1)
        areas = {}
        for camera, view in frames[entry["image_idx"]]["images"].items():
            seen = np.c_[corners, np.ones(8)] @ np.array(view["lidar2cam"]).T
            if (seen[:, 2] <= 0).any():
                continue
            pixels = seen[:, :3] @ np.array(view["cam2img"]).T
            pixels = np.clip(pixels[:, :2] / pixels[:, 2:], 0, [view["width"], view["height"]])
            (left, top), (right, bottom) = pixels.min(0).astype(int), pixels.max(0).astype(int)
            if min(right - left, bottom - top) >= 10:
                areas[camera] = (right - left) * (bottom - top), np.s_[top:bottom, left:right]
        if not areas:
            assert entry["image_path"] == ""
            continue
        with_crop += 1
        camera = max(areas, key=lambda name: areas[name][0])
        assert entry["image_crop_key"] == camera
        view = frames[entry["image_idx"]]["images"][camera]
        image = cv2.imread(str(world / "samples" / camera / view["img_path"]))
        assert np.array_equal(cv2.imread(str(folder / entry["image_path"])), image[areas[camera][1]])
    assert with_crop > 10


def test_two_workers_and_the_command_write_the_same_bytes(database, world, tmp_path, capsys):
    command = ["--tier", "smoke", "--root", str(world), "--out", str(tmp_path), "--quiet"]
    assert main(command) == 0
    before = json.loads((tmp_path / "data.json").read_text())
    assert "database" not in before and {path.name for path in tmp_path.iterdir()} == {
        "data.json", "digests.json", "infos_train.pkl", "infos_val.pkl",
    }  # fmt: skip
    assert main([*command, "--database", "--workers", "2"]) == 0
    summary = json.loads((tmp_path / "data.json").read_text())
    assert summary.pop("database") == {"objects": database[1]} and summary == before
    assert f"ground-truth database: {sum(database[1].values())} objects" in capsys.readouterr().out
    written = files_of(tmp_path)
    del written["data.json"], written["digests.json"]
    assert written == files_of(database[0])
    with pytest.raises(SystemExit) as stop:
        main([*command, "--database", "--workers", "0"])
    assert stop.value.code == 2 and "--workers: must be at least 1, not 0" in capsys.readouterr().err


def test_a_database_has_no_more_sweeps_than_its_info_files(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "aqr_bench.data.gt_database.build_database", lambda *arguments: asked.append(arguments[4]) or {}
    )
    command = [
        "--tier",
        "smoke",
        "--root",
        "x",
        "--out",
        str(tmp_path),
        "--quiet",
        "--database-only",
        "--max-sweeps",
        "7",
    ]
    for summary in ({"max_sweeps": 3}, {"max_sweeps": 9}, {}):
        (tmp_path / "data.json").write_text(json.dumps(summary))
        assert main(command) == 0
    assert asked == [3, 7, 7]


def test_bad_frames_are_named_and_leave_no_finished_database(world, infos, tmp_path):
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    write_infos(infos, tmp_path, "v1.0-mini")
    build_database(tmp_path, copy, tmp_path)
    last = infos["train"][-1]
    sweep = copy / last["lidar_sweeps"][0]["lidar_points"]["lidar_path"]
    image = copy / "samples" / "CAM_BACK" / last["images"]["CAM_BACK"]["img_path"]
    cloud = copy / "samples" / "LIDAR_TOP" / last["lidar_points"]["lidar_path"]
    for path in (image, sweep, cloud):
        payload = path.read_bytes()
        path.write_bytes(payload[: len(payload) // 2 + 1])
        with pytest.raises(BadFrameError, match=rf"cut short.*{path.name}"):
            build_database(tmp_path, copy, tmp_path)
        assert not (tmp_path / DBINFOS).exists()
        path.write_bytes(payload)
    command = ["--tier", "smoke", "--root", str(copy), "--out", str(tmp_path), "--quiet", "--database"]
    image.unlink()
    with pytest.raises(UserError, match=rf"1 of 42 files of keyframes are missing, .*{image.name}"):
        main(command)
    image.write_bytes(b"")
    with pytest.raises(UserError, match=rf"{image.name}.*Restore the file"):
        main(command)
    image.write_bytes(cv2.imencode(".jpg", np.zeros((96, 176, 3), np.uint8))[1].tobytes())
    build_database(tmp_path, copy, tmp_path)
    assert (tmp_path / DBINFOS).is_file() and not (tmp_path / "gt_database.partial").exists()


def test_what_does_not_count_is_left_out(world, infos, database, entries, tmp_path):
    content = pickle.loads((database[0] / "infos_train.pkl").read_bytes())
    chosen = entries["car"][0]["image_idx"]
    info = next(info for info in content["data_list"] if info["token"] == chosen)
    valid, ignored, invalid = [entry["gt_idx"] for entry in all_of(entries) if entry["image_idx"] == chosen][:3]
    info["instances"][valid]["velocity"] = [float("nan"), float("nan")]
    info["instances"][ignored]["bbox_label_3d"] = -1
    info["instances"][invalid]["bbox_3d_isvalid"] = False
    content["data_list"] = [info]
    (tmp_path / "infos_train.pkl").write_bytes(pickle.dumps(content))
    build_database(tmp_path, world, tmp_path)
    by_index = {entry["gt_idx"]: entry for entry in all_of(pickle.loads((tmp_path / DBINFOS).read_bytes()))}
    assert valid in by_index and ignored not in by_index and invalid not in by_index
    assert np.array_equal(by_index[valid]["box3d_lidar"][7:], [0, 0])
    info["instances"] = []
    (tmp_path / "infos_train.pkl").write_bytes(pickle.dumps(content))
    assert set(build_database(tmp_path, world, tmp_path).values()) == {0}


def test_other_files_are_refused(world, database, tmp_path):
    with pytest.raises(UserError, match=r"info file not found: .*infos_train\.pkl.*aqr-bench data"):
        build_database(tmp_path, world, tmp_path)
    content = pickle.loads((database[0] / "infos_train.pkl").read_bytes())
    content["metainfo"]["categories"] = {"car": 1}
    (tmp_path / "infos_train.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"infos_train\.pkl: metainfo\.categories is \{'car': 1\}"):
        build_database(tmp_path, world, tmp_path)
    (tmp_path / "infos_train.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match=r"infos_train\.pkl is no info file"):
        build_database(tmp_path, world, tmp_path)
    (tmp_path / "gt_database" / "holiday").mkdir(parents=True)
    with pytest.raises(UserError, match="gt_database holds more than points/ and images/"):
        build_database(database[0], world, tmp_path)
    assert (tmp_path / "gt_database" / "holiday").is_dir()


# Camera at the origin that looks along LiDAR y: depth is y.
LIDAR2IMG = np.array([[100.0, 80, 0, 0], [0, 45, -100, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def cube(x, y, z, side=1.0):
    return np.array([[[x + a, y + b, z + c] for a in (0, side) for b in (0, side) for c in (0, side)]])


def test_rectangles_are_clipped_and_corners_behind_are_flagged():
    boxes = np.concatenate([cube(0, 10, 0), cube(-9, 10, 0), cube(20, 10, 0), cube(0, -0.5, 0), cube(0, -9, 0)])
    rectangles, depth, in_front = project_boxes(boxes, LIDAR2IMG, 160, 90)
    # u from 80 to 80 + 100 / 10; v from 45 - 100 / 10 to 45.
    assert rectangles[0].tolist() == [80, 35, 90, 45] and depth[0] == 10.5
    assert rectangles[1].tolist() == [0, 35, 7, 45]
    assert rectangles[2, 0] == rectangles[2, 2] == 160
    assert in_front.tolist() == [True, True, True, False, False]
    for array in project_boxes(np.zeros((0, 8, 3)), LIDAR2IMG, 160, 90):
        assert len(array) == 0


def test_the_largest_view_wins_whatever_the_order():
    near = np.full((90, 160, 3), 1, np.uint8), LIDAR2IMG
    far = (
        np.full((90, 160, 3), 2, np.uint8),
        LIDAR2IMG @ np.array([[1, 0, 0, 0], [0, 1, 0, 3.0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    # One corner behind this camera would make its rectangle the largest of all.
    half_behind = (
        np.full((90, 160, 3), 3, np.uint8),
        LIDAR2IMG @ np.array([[1, 0, 0, 0], [0, 1, 0, -6.5], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    box = cube(0, 6, 0)
    for views in ({"A": near, "B": far, "C": half_behind}, {"C": half_behind, "B": far, "A": near}):
        camera, crop = _best_crop(box, views)
        assert camera == "A" and crop.shape == (17, 16, 3) and (crop == 1).all()
    assert _best_crop(cube(0, 12, 0), {"A": near}) == ("", None)  # 8 px
