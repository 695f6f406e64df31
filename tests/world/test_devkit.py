"""nuscenes-devkit, unpatched, on the written world: loads, draws, counts, aligns sweeps, scores."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import BoxVisibility, points_in_box
from nuscenes.utils.splits import create_splits_scenes
from pyquaternion import Quaternion

from aqr_bench.world.scene import simulate
from aqr_bench.world.tables import CHANNELS


def boxes_and_points(nusc, sample):
    token = sample["data"]["LIDAR_TOP"]
    path, boxes, _ = nusc.get_sample_data(token, box_vis_level=BoxVisibility.NONE)
    return boxes, LidarPointCloud.from_file(path).points[:3].astype(float)


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_sensor_can_be_drawn(nusc, tmp_path, channel):
    token = nusc.sample[1]["data"][channel]
    nusc.render_sample_data(token, out_path=str(tmp_path / "view.png"), verbose=False)
    plt.close("all")
    picture = plt.imread(tmp_path / "view.png")
    assert picture[..., :3].std() > 0.05


def test_a_sample_and_an_annotation_can_be_drawn(nusc, tmp_path):
    nusc.render_sample(nusc.sample[0]["token"], out_path=str(tmp_path / "sample.png"), verbose=False)
    visible = [
        box.token
        for channel in CHANNELS[1:]
        for box in nusc.get_sample_data(nusc.sample[0]["data"][channel], box_vis_level=BoxVisibility.ALL)[1]
    ]
    seen = max(visible, key=lambda token: nusc.get("sample_annotation", token)["num_lidar_pts"])
    nusc.render_annotation(seen, out_path=str(tmp_path / "annotation.png"))
    plt.close("all")
    assert (tmp_path / "sample.png").stat().st_size > 10_000
    assert (tmp_path / "annotation.png").stat().st_size > 10_000


def test_num_lidar_pts_is_what_the_devkit_counts(nusc):
    total = 0
    for sample in nusc.sample:
        boxes, points = boxes_and_points(nusc, sample)
        assert len(boxes) == len(sample["anns"])
        for box in boxes:
            count = int(points_in_box(box, points).sum())
            assert count == nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            total += count
    assert total > 5000


def test_most_returns_of_an_object_are_inside_its_box(nusc):
    """The margin between solid and box keeps range noise from pushing points out."""
    inside = around = 0
    for sample in nusc.sample:
        boxes, points = boxes_and_points(nusc, sample)
        points = points[:, points[2] > -1.6]  # leave the ground out
        for box in boxes:
            inside += points_in_box(box, points).sum()
            around += points_in_box(box, points, wlh_factor=1.1).sum()
    assert inside / around > 0.9


def test_most_annotations_have_points_and_some_have_none(nusc):
    counts = np.array([row["num_lidar_pts"] for row in nusc.sample_annotation])
    assert 0.02 < (counts == 0).mean() < 0.35
    assert (counts > 100).mean() > 0.1


def test_velocities_are_those_of_the_simulation(nusc, tiny_spec):
    """A centred difference of a circle is a chord: its direction is the heading, its length a little short."""
    speeds = {}
    for name, split, index in (("scene-0061", 0, 0), ("scene-0103", 1, 0)):
        scene = simulate(tiny_spec, split, index)
        actors = {tuple(np.round(a.poses(0.5)[:2], 3)): a for a in scene.actors if a.category}
        record = next(row for row in nusc.scene if row["name"] == name)
        middle = nusc.get("sample", nusc.get("sample", record["first_sample_token"])["next"])
        for token in middle["anns"]:
            row = nusc.get("sample_annotation", token)
            if not row["prev"] or not row["next"]:
                continue
            actor = actors[tuple(row["translation"][:2])]
            yaw = actor.poses(0.5)[2]
            velocity = nusc.box_velocity(token)
            expected = actor.speed * np.sinc(actor.yaw_rate * 0.5 / np.pi) * np.array([np.cos(yaw), np.sin(yaw), 0])
            np.testing.assert_allclose(velocity, expected, atol=0.003)
            speeds[row["category_name"]] = max(actor.speed, speeds.get(row["category_name"], 0))
    assert max(speeds.values()) > 4


def test_sweeps_align_once_the_devkit_has_moved_them(nusc):
    """Points of the sweep before, in the frame of the keyframe, fill the boxes of what stands still."""
    now, before = 0, 0
    for sample in nusc.sample:
        boxes, _ = boxes_and_points(nusc, sample)
        both, lag = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=2)
        earlier = both.points[:3, lag[0] > 0.1].astype(float)
        assert earlier.shape[1] > 4000
        np.testing.assert_allclose(lag[0][lag[0] > 0.1], 0.25, atol=1e-5)
        for box in boxes:
            row = nusc.get("sample_annotation", box.token)
            attribute = [nusc.get("attribute", token)["name"] for token in row["attribute_tokens"]]
            if row["num_lidar_pts"] > 50 and attribute in (["vehicle.parked"], ["vehicle.stopped"], []):
                now += row["num_lidar_pts"]
                before += points_in_box(box, earlier).sum()
    assert now > 3000
    assert 0.85 < before / now < 1.15


def test_moving_objects_have_moved_since_the_sweep(nusc):
    """Interpolated by the devkit to the time of the sweep, a moving box holds the points of the sweep."""
    now, then, stale = 0, 0, 0
    for sample in nusc.sample:
        if not sample["prev"]:
            continue
        sweep = nusc.get("sample_data", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["prev"])
        assert not sweep["is_key_frame"]
        path, boxes, _ = nusc.get_sample_data(sweep["token"], box_vis_level=BoxVisibility.NONE)
        points = LidarPointCloud.from_file(path).points[:3].astype(float)
        for box in boxes:
            row = nusc.get("sample_annotation", box.token)
            if row["num_lidar_pts"] > 100 and row["prev"] and np.linalg.norm(nusc.box_velocity(box.token)) > 2:
                now += row["num_lidar_pts"]
                then += points_in_box(box, points).sum()
                box.translate(rotation_to(nusc, sweep) @ nusc.box_velocity(box.token) * 0.25)  # where it is now
                stale += points_in_box(box, points).sum()
    assert now > 1000
    assert 0.85 < then / now < 1.15
    assert stale < 0.95 * then  # frozen objects would turn this round


def rotation_to(nusc, sample_data) -> np.ndarray:
    """Return the rotation (3, 3) from the global frame to the frame of a recording's sensor."""
    pose = nusc.get("ego_pose", sample_data["ego_pose_token"])
    mount = nusc.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
    return (Quaternion(pose["rotation"]) * Quaternion(mount["rotation"])).inverse.rotation_matrix


def submission(nusc, perfect: bool) -> dict:
    """Return a detection submission for mini_val: the ground truth, or one box where there is no such thing.

    Without a single box the devkit's evaluation fails, whatever the data.
    """
    val = set(create_splits_scenes()["mini_val"])
    samples = [s for s in nusc.sample if nusc.get("scene", s["scene_token"])["name"] in val]
    results = {sample["token"]: [] for sample in samples}
    for sample in samples:
        for token in sample["anns"]:
            row = nusc.get("sample_annotation", token)
            if row["num_lidar_pts"] and perfect:
                attribute = [nusc.get("attribute", t)["name"] for t in row["attribute_tokens"]]
                results[sample["token"]].append(
                    {
                        "sample_token": sample["token"],
                        "translation": row["translation"],
                        "size": row["size"],
                        "rotation": row["rotation"],
                        "velocity": nusc.box_velocity(token)[:2].tolist(),
                        "detection_name": category_to_detection_name(row["category_name"]),
                        "detection_score": 1.0,
                        "attribute_name": attribute[0] if attribute else "",
                    }
                )
    if not perfect:
        token = samples[0]["token"]
        pose = nusc.get("ego_pose", nusc.get("sample_data", samples[0]["data"]["LIDAR_TOP"])["ego_pose_token"])
        box = {"sample_token": token, "translation": pose["translation"], "size": [1, 1, 1], "rotation": [1, 0, 0, 0]}
        box |= {"velocity": [0, 0], "detection_name": "bus", "detection_score": 1.0, "attribute_name": "vehicle.parked"}
        results[token].append(box)
    modalities = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")
    return {"meta": dict.fromkeys(modalities, False), "results": results}


@pytest.mark.parametrize("perfect", [True, False])
def test_the_official_evaluation_scores_it(nusc, tmp_path, perfect):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(submission(nusc, perfect)))
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(nusc, config, str(path), "mini_val", str(tmp_path / "out"), verbose=False)
    metrics, _ = evaluation.evaluate()
    present = {box.detection_name for boxes in evaluation.gt_boxes.boxes.values() for box in boxes}
    assert len(present) == 10, "choose another seed for the tiny world: a class is missing from its val split"
    if perfect:
        assert metrics.mean_ap == pytest.approx(1, abs=1e-6)
        assert metrics.nd_score == pytest.approx(1, abs=1e-3)
    else:
        assert metrics.mean_ap == 0
        assert metrics.nd_score == 0


def test_visible_objects_show_in_the_pictures(nusc):
    """In a box that is fully visible, the image is not what it is beside the box."""
    differences = []
    for sample in nusc.sample:
        for channel in CHANNELS[1:]:
            path, boxes, matrix = nusc.get_sample_data(sample["data"][channel], box_vis_level=BoxVisibility.ALL)
            picture = plt.imread(path).astype(float)
            for box in boxes:
                row = nusc.get("sample_annotation", box.token)
                corners = matrix @ box.corners()
                u, v = corners[:2] / corners[2]
                wide = u.max() - u.min()
                if row["visibility_token"] != "4" or wide < 12 or v.max() - v.min() < 8 or u.max() + 8 > 176:
                    continue
                rows = slice(int(v.min()) + 2, int(v.max()) - 1)
                inside = picture[rows, int(u.min() + 0.25 * wide) : int(u.max() - 0.25 * wide)].mean((0, 1))
                beside = picture[rows, int(u.max()) + 2 : int(u.max()) + 7].mean((0, 1))
                differences.append(np.abs(inside - beside).max() / max(picture.mean(), 1))
    assert len(differences) > 20
    assert np.quantile(differences, 0.1) > 0.05
