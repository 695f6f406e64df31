"""The statistics of a nuScenes root: against the devkit, on a handwritten data set, and as a command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aqr_bench.world.classes import CLASSES, NUSCENES_COUNTS
from aqr_bench.world.statistics import PUBLISHED_SIZES_LWH, main, read_annotations, report


def test_annotations_are_what_the_devkit_says(tiny_root, nusc):
    from nuscenes.eval.detection.utils import category_to_detection_name

    annotations = read_annotations(tiny_root)
    rows = [row for row in nusc.sample_annotation if category_to_detection_name(row["category_name"])]
    assert len(annotations.name) == len(rows) > 100 and annotations.keyframes == len(nusc.sample)
    for index, row in enumerate(rows):
        assert annotations.name[index] == category_to_detection_name(row["category_name"])
        speed = np.linalg.norm(nusc.box_velocity(row["token"])[:2])
        np.testing.assert_allclose(annotations.speed[index], speed, atol=1e-9)
        lidar = nusc.get("sample_data", nusc.get("sample", row["sample_token"])["data"]["LIDAR_TOP"])
        ego = nusc.get("ego_pose", lidar["ego_pose_token"])["translation"]
        assert annotations.distance[index] == pytest.approx(np.hypot(*np.subtract(row["translation"], ego)[:2]))
        assert annotations.points[index] == row["num_lidar_pts"]


@pytest.fixture
def by_hand(tmp_path):
    """Two keyframes, half a second apart: a car that moves at 4 m/s and an animal, no detection class."""
    tables = {
        "sample": [{"token": f"s{k}", "timestamp": 500_000 * k} for k in (0, 1)],
        "category": [{"token": "c", "name": "vehicle.car"}, {"token": "a", "name": "animal"}],
        "instance": [{"token": "i", "category_token": "c"}, {"token": "j", "category_token": "a"}],
        "ego_pose": [{"token": f"p{k}", "translation": [10.0 * k, 0, 0]} for k in (0, 1)],
        "sample_data": [
            {
                "sample_token": f"s{k}",
                "ego_pose_token": f"p{k}",
                "is_key_frame": True,
                "filename": "samples/LIDAR_TOP/x",
            }
            for k in (0, 1)
        ],
        "sample_annotation": [
            {
                "token": f"{instance}{k}",
                "sample_token": f"s{k}",
                "instance_token": instance,
                "translation": [5.0 + 2 * k, 0, 1],
                "size": [2, 4, 1.5],
                "prev": f"{instance}0" if k else "",
                "next": "" if k else f"{instance}1",
                "num_lidar_pts": 30 * k,
                "visibility_token": str(1 + 3 * k),
            }
            for instance in "ij"
            for k in (0, 1)
        ],
    }
    folder = tmp_path / "root" / "v1.0-mini"
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder.parent


def test_numbers_of_a_data_set_made_by_hand(by_hand):
    annotations = read_annotations(by_hand)
    assert (annotations.keyframes, annotations.boxes, list(annotations.name)) == (2, 4, ["car", "car"])
    np.testing.assert_allclose(annotations.distance, [5, 3])
    np.testing.assert_allclose(annotations.speed, [4, 4])
    text = report(annotations)
    assert "| boxes per keyframe | 2.0 | 34.1 |" in text
    assert "| boxes without a LiDAR point | 50.0 % | - |" in text
    assert "| visibility v80-100 | 50.0 % | - |" in text
    assert "| car | 100.0 % | 43.6 % | 4.00, 2.00, 1.50 | 4.62, 1.95, 1.73 | 100.0 % | 4.0 | 6.6 |" in text
    assert "| car | 15 | - | - | - | 50.0 % |" in text
    assert "| bus | 0.0 % | 1.4 % | - | 11.23, 2.93, 3.47 | - | - | - |" in text


def test_published_numbers_cover_all_classes():
    names = {info.name for info in CLASSES}
    assert set(NUSCENES_COUNTS) == set(PUBLISHED_SIZES_LWH) == names
    assert sum(NUSCENES_COUNTS.values()) == 1_132_409  # of 1,166,187; the rest is no detection class


def test_command_line(by_hand, tmp_path, capsys):
    assert main([str(by_hand), "--out", str(tmp_path / "out.md")]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([str(by_hand), "--version", "v1.0-mini"]) == 0
    assert capsys.readouterr().out == (tmp_path / "out.md").read_text()


@pytest.mark.parametrize(
    ("args", "message"), [([], "holds no v1.0-*"), (["--version", "v1.0-trainval"], "only v1.0-mini")]
)
def test_a_mistake_is_one_line_and_exit_code_2(by_hand, tmp_path, capsys, args, message):
    root = by_hand if args else tmp_path / "nothing"
    assert main([str(root), *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
