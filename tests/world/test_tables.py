"""The written tables: every token resolves, every chain closes, every file is there and is what its record says."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from aqr_bench.world.classes import ATTRIBUTES, CATEGORIES, visibility_token
from aqr_bench.world.tables import CHANNELS, TABLES

FIELDS = {
    "attribute": {"token", "name", "description"},
    "calibrated_sensor": {"token", "sensor_token", "translation", "rotation", "camera_intrinsic"},
    "category": {"token", "name", "description"},
    "ego_pose": {"token", "translation", "rotation", "timestamp"},
    "instance": {"token", "category_token", "nbr_annotations", "first_annotation_token", "last_annotation_token"},
    "log": {"token", "logfile", "vehicle", "date_captured", "location"},
    "map": {"token", "log_tokens", "category", "filename"},
    "sample": {"token", "timestamp", "scene_token", "next", "prev"},
    "sample_annotation": {
        "token", "sample_token", "instance_token", "attribute_tokens", "visibility_token", "translation", "size",
        "rotation", "num_lidar_pts", "num_radar_pts", "next", "prev",
    },
    "sample_data": {
        "token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename", "fileformat", "width",
        "height", "timestamp", "is_key_frame", "next", "prev",
    },
    "scene": {"token", "name", "description", "log_token", "nbr_samples", "first_sample_token", "last_sample_token"},
    "sensor": {"token", "channel", "modality"},
    "visibility": {"token", "level", "description"},
}  # fmt: skip
POINTS_TO = {
    "calibrated_sensor": {"sensor_token": "sensor"},
    "instance": {
        "category_token": "category",
        "first_annotation_token": "sample_annotation",
        "last_annotation_token": "sample_annotation",
    },
    "map": {"log_tokens": "log"},
    "sample": {"scene_token": "scene", "next": "sample", "prev": "sample"},
    "sample_annotation": {
        "sample_token": "sample",
        "instance_token": "instance",
        "attribute_tokens": "attribute",
        "visibility_token": "visibility",
        "next": "sample_annotation",
        "prev": "sample_annotation",
    },
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
        "next": "sample_data",
        "prev": "sample_data",
    },
    "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
}


@pytest.fixture(scope="module")
def tables(tiny_root) -> dict[str, dict[str, dict]]:
    rows = {name: json.loads((tiny_root / "v1.0-mini" / f"{name}.json").read_text()) for name in TABLES}
    return {name: {row["token"]: row for row in table} for name, table in rows.items()}


def test_all_thirteen_tables_have_the_published_fields(tables, tiny_root):
    assert set(tables) == set(FIELDS) == {path.stem for path in (tiny_root / "v1.0-mini").iterdir()}
    for name, table in tables.items():
        assert table
        for row in table.values():
            assert set(row) == FIELDS[name], name


def test_tokens_are_unique_and_look_like_tokens(tables, tiny_root):
    counts = json.loads((tiny_root / "world.json").read_text())["counts"]
    for name, table in tables.items():
        assert len(table) == counts[name]
        for token in table:
            if name != "visibility":
                assert len(token) == 32 and set(token) <= set("0123456789abcdef")
    assert list(tables["visibility"]) == ["1", "2", "3", "4"]


def test_every_token_resolves(tables):
    for name, links in POINTS_TO.items():
        for row in tables[name].values():
            for field, target in links.items():
                tokens = row[field] if isinstance(row[field], list) else [row[field]]
                for token in tokens:
                    assert token in tables[target] or (token == "" and field in ("prev", "next")), (name, field)


@pytest.mark.parametrize("name", ["sample", "sample_annotation", "sample_data"])
def test_chains_close_and_run_forward(tables, name):
    table = tables[name]

    def time(row):
        return row["timestamp"] if "timestamp" in row else tables["sample"][row["sample_token"]]["timestamp"]

    def owner(row):
        return row.get("scene_token") or row.get("instance_token") or row["calibrated_sensor_token"]

    starts = [row for row in table.values() if not row["prev"]]
    visited = 0
    for row in starts:
        while True:
            visited += 1
            if not row["next"]:
                break
            following = table[row["next"]]
            assert following["prev"] == row["token"]
            assert time(following) > time(row)
            assert owner(following) == owner(row)
            row = following
    assert visited == len(table)
    assert len(starts) == {"sample": 4, "sample_annotation": len(tables["instance"]), "sample_data": 4 * 7}[name]


def test_scenes_and_instances_know_their_ends(tables):
    for scene in tables["scene"].values():
        assert not tables["sample"][scene["first_sample_token"]]["prev"]
        assert not tables["sample"][scene["last_sample_token"]]["next"]
        rows = [row for row in tables["sample"].values() if row["scene_token"] == scene["token"]]
        assert len(rows) == scene["nbr_samples"] == 3
    for instance in tables["instance"].values():
        rows = [a for a in tables["sample_annotation"].values() if a["instance_token"] == instance["token"]]
        assert len(rows) == instance["nbr_annotations"]
        assert rows[0]["token"] == instance["first_annotation_token"] and not rows[0]["prev"]
        assert rows[-1]["token"] == instance["last_annotation_token"] and not rows[-1]["next"]
        assert len({tuple(a["size"]) for a in rows}) == 1


def test_recordings_of_each_channel(tables, tiny_root):
    channel_of = {
        row["token"]: tables["sensor"][row["sensor_token"]]["channel"] for row in tables["calibrated_sensor"].values()
    }
    names = set()
    for sample in tables["sample"].values():
        rows = [row for row in tables["sample_data"].values() if row["sample_token"] == sample["token"]]
        keys = [row for row in rows if row["is_key_frame"]]
        assert sorted(channel_of[row["calibrated_sensor_token"]] for row in keys) == sorted(CHANNELS)
        assert all(row["timestamp"] == sample["timestamp"] for row in keys)
        (sweep,) = [row for row in rows if not row["is_key_frame"]]
        assert sweep["timestamp"] == sample["timestamp"] - 250_000
        assert sweep["filename"].startswith("sweeps/LIDAR_TOP/")
        names |= {row["filename"] for row in rows}
        for row in rows:
            content = (tiny_root / row["filename"]).read_bytes()
            pose = tables["ego_pose"][row["ego_pose_token"]]
            assert pose["timestamp"] == row["timestamp"]
            if row["fileformat"] == "jpg":
                picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
                assert picture.shape == (row["height"], row["width"], 3) == (96, 176, 3)
                assert picture.std() > 5
            else:
                points = np.frombuffer(content, np.float32).reshape(-1, 5)
                assert len(points) > 5000 and np.isfinite(points).all()
    on_disk = {
        str(p.relative_to(tiny_root))
        for kind in ("samples", "sweeps")
        for p in (tiny_root / kind).rglob("*")
        if p.is_file()
    }
    assert on_disk == names


def test_vocabularies_are_those_of_nuscenes(tables):
    from nuscenes.eval.detection.utils import category_to_detection_name
    from nuscenes.utils.color_map import get_colormap

    known = set(get_colormap())
    assert {row["name"] for row in tables["category"].values()} == {name for name, _ in CATEGORIES} <= known
    assert len(CATEGORIES) == 23 and len(ATTRIBUTES) == 8
    named = {category_to_detection_name(row["name"]) for row in tables["category"].values()} - {None}
    assert len(named) == 10


def test_attributes_fit_their_class(tables):
    from nuscenes.eval.detection.utils import category_to_detection_name, detection_name_to_rel_attributes

    for row in tables["sample_annotation"].values():
        instance = tables["instance"][row["instance_token"]]
        category = tables["category"][instance["category_token"]]["name"]
        allowed = detection_name_to_rel_attributes(category_to_detection_name(category))
        assert len(row["attribute_tokens"]) == (1 if allowed else 0)
        assert all(tables["attribute"][token]["name"] in allowed for token in row["attribute_tokens"])


def test_annotations_are_those_in_range(tables, tiny_spec):
    poses = {row["timestamp"]: row for row in tables["ego_pose"].values()}
    outside, farthest = 0, 0.0
    for row in tables["sample_annotation"].values():
        pose = poses[tables["sample"][row["sample_token"]]["timestamp"]]
        yaw = 2 * np.arctan2(pose["rotation"][3], pose["rotation"][0])
        offset = np.array(row["translation"][:2]) - pose["translation"][:2]
        offset = offset @ np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]) - [0.94, 0]
        outside += np.abs(offset).max() > tiny_spec.half_range_m + 0.01
        farthest = max(farthest, np.abs(offset).max())
    assert outside <= 0.01 * len(tables["sample_annotation"])  # those that leave and come back are kept in between
    assert farthest > 0.9 * tiny_spec.half_range_m


@pytest.mark.parametrize(("share", "token"), [(0, "1"), (0.4, "1"), (0.41, "2"), (0.7, "3"), (0.81, "4"), (1, "4")])
def test_visibility_levels(share, token):
    assert visibility_token(share) == token


def test_train_and_val_share_nothing(tables):
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    names = [row["name"] for row in tables["scene"].values()]
    assert names == splits["mini_train"][:2] + splits["mini_val"][:2]
    instances, positions = {}, {}
    for row in tables["sample_annotation"].values():
        scene = tables["scene"][tables["sample"][row["sample_token"]]["scene_token"]]
        instances.setdefault(scene["name"], set()).add(row["instance_token"])
        positions.setdefault(scene["name"], set()).add(tuple(row["translation"][:2]))
    for first in names:
        for second in names:
            assert first == second or not positions[first] & positions[second]
            assert first == second or not instances[first] & instances[second]
