"""Info files of a tiny world: boxes, sweeps and cameras agree with nuscenes-devkit."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from aqr_bench.data.__main__ import main
from aqr_bench.data.digests import table_digests, tables_digest
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.errors import UserError


def test_splits_follow_the_official_scene_lists(infos):
    assert {split: len(entries) for split, entries in infos.items()} == {"train": 4, "val": 2}
    assert [entry["sample_idx"] for entry in infos["val"]] == [0, 1]


def test_boxes_are_the_devkits_boxes_in_the_lidar_frame(infos, nusc):
    for info in infos["train"]:
        sample = nusc.get("sample", info["token"])
        _, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        assert len(boxes) == len(info["instances"]) > 0
        for box, instance in zip(boxes, info["instances"], strict=True):
            x, y, z, length, width, height, yaw = instance["bbox_3d"]
            np.testing.assert_allclose([x, y, z], box.center, atol=1e-6)
            np.testing.assert_allclose([width, length, height], box.wlh)
            heading = box.orientation.rotation_matrix[:, 0]
            np.testing.assert_allclose([np.cos(yaw), np.sin(yaw)], heading[:2] / np.hypot(*heading[:2]), atol=1e-6)


def test_velocity_is_the_displacement_between_frames(infos, nusc):
    for info in infos["train"][:1]:
        for token, instance in zip(nusc.get("sample", info["token"])["anns"], info["instances"], strict=True):
            following = nusc.get("sample_annotation", token)["next"]
            if not following:
                continue
            moved = np.subtract(
                nusc.get("sample_annotation", following)["translation"],
                nusc.get("sample_annotation", token)["translation"],
            )
            speed = np.linalg.norm(moved[:2]) / 0.5
            assert np.linalg.norm(instance["velocity"]) == pytest.approx(speed, abs=0.02)


def test_lidar_points_project_into_the_cameras_as_the_devkit_says(infos, nusc):
    info = infos["val"][0]
    for camera, view in info["images"].items():
        token = view["sample_data_token"]
        _, boxes, intrinsic = nusc.get_sample_data(token)
        matrix = np.eye(4)
        matrix[:3, :3] = view["cam2img"]
        lidar2img = matrix @ np.array(view["lidar2cam"])
        lidar_boxes = {tuple(np.round(i["bbox_3d"][3:6], 9)): i["bbox_3d"][:3] for i in info["instances"]}
        assert np.array_equal(intrinsic, view["cam2img"]) and camera.startswith("CAM_")
        for box in boxes:
            width, length, height = box.wlh
            centre = np.append(lidar_boxes[tuple(np.round([length, width, height], 9))], 1)
            expected = intrinsic @ box.center
            projected = (lidar2img @ centre)[:3]
            np.testing.assert_allclose(projected, expected, atol=1e-4)


def test_sweeps_come_nearest_first_and_map_static_points(infos):
    info = infos["val"][1]
    times = [sweep["timestamp"] for sweep in info["lidar_sweeps"]]
    assert len(times) == 3 and times == sorted(times, reverse=True) and max(times) < info["timestamp"]
    key2global = np.array(info["ego2global"]) @ np.array(info["lidar_points"]["lidar2ego"])
    for sweep in info["lidar_sweeps"]:
        sweep2global = np.array(sweep["ego2global"]) @ np.array(sweep["lidar_points"]["lidar2ego"])
        np.testing.assert_allclose(
            sweep2global @ np.array(sweep["lidar_points"]["lidar2sensor"]), key2global, atol=1e-6
        )


def test_command_writes_what_mmdet3d_reads(world, tmp_path, capsys):
    assert main(["--tier", "smoke", "--root", str(world), "--out", str(tmp_path), "--quiet"]) == 0
    summary = json.loads((tmp_path / "data.json").read_text())
    tables = table_digests(world, "v1.0-mini")
    assert summary["splits"]["train"]["samples"] == 4 and len(tables) == 13
    assert summary["data_sha256"] == tables_digest(tables) and summary["sha256"]["tables"] == tables
    content = pickle.loads((tmp_path / "infos_train.pkl").read_bytes())
    assert content["metainfo"]["info_version"] == "1.1" and len(content["data_list"]) == 4
    assert "train 4 samples, val 2 samples" in capsys.readouterr().out


def test_wrong_roots_are_named(world, tmp_path):
    with pytest.raises(UserError, match="nuScenes root not found"):
        open_nuscenes(tmp_path / "nowhere", "v1.0-mini")
    with pytest.raises(UserError, match=r"no tables of version 'v1.0-trainval'.*it has: v1.0-mini"):
        open_nuscenes(world, "v1.0-trainval")
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "v1.0-mini" / "category.json").write_text("[{")
    with pytest.raises(UserError, match=r"do not load: category\.json is damaged"):
        open_nuscenes(tmp_path, "v1.0-mini")
