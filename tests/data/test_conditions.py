"""Sensor transforms: conditions work on raw data inside the pipeline, and what comes out has a fingerprint."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints

from aqr_bench.data.conditions import InputFingerprint, RandomCondition, SensorCondition, SensorDropout, frame_of
from aqr_bench.data.raw_frames import BadFrameError, InfoFile, SceneHistory
from aqr_bench.data.transforms import AddProjections, LoadPoseCorrectedSweeps
from aqr_bench.errors import UserError

CAMERAS = ("CAM_BACK", "CAM_FRONT")


def sample(folder, seed=0, sweeps=1):
    """What mmdet3d's loaders leave: key points, views of one stacked array, infos."""
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, 3] = [0.0, -2.0, 0.0]  # key frame LiDAR to sweep LiDAR: the sweep was taken 2 m ahead
    lidar_sweeps = []
    for number in range(sweeps):
        points = np.concatenate([rng.uniform(-20, 20, (30, 3)), np.full((30, 1), 9.0), np.arange(30)[:, None]], 1)
        path = folder / f"sweep{seed}-{number}.bin"
        points.astype(np.float32).tofile(path)
        lidar_sweeps.append({"timestamp": 9.9, "lidar_points": {"lidar_path": str(path), "lidar2sensor": pose}})
    stacked = rng.integers(0, 255, (9, 16, 3, 2), dtype=np.uint8)
    points = np.concatenate([rng.uniform(-20, 20, (50, 4)), np.arange(50)[:, None] % 32], 1).astype(np.float32)
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    cam2img = [[10.0, 0, 8], [0, 10, 4], [0, 0, 1]]
    boxes = LiDARInstance3DBoxes(torch.tensor([[3.0, 12, -1, 4, 2, 1.5, 0.4, 5, 1]] * 2), box_dim=9)
    images = {c: {"cam2img": cam2img, "lidar2cam": lidar2cam, "timestamp": 10.0} for c in CAMERAS}
    return {
        "token": f"token{seed}",
        "timestamp": 10.0,
        "lidar_points": {"lidar_path": f"{folder}/key{seed}.bin"},
        "lidar_sweeps": lidar_sweeps,
        "points": LiDARPoints(torch.from_numpy(points), points_dim=5),
        "images": images,
        "img": [stacked[..., i] for i in range(2)],
        "cam2img": [cam2img] * 2,
        "lidar2cam": [lidar2cam] * 2,
        "eval_ann_info": {"gt_bboxes_3d": boxes, "gt_labels_3d": np.array([0, -1])},
    }


def run(results, condition, **kwargs):
    """The part of a test pipeline from the loaders to packing."""
    merge = LoadPoseCorrectedSweeps(sweeps_num=1, use_dim=[0, 1, 2, 3, 4], test_mode=True)
    for step in (SensorCondition(condition, sweeps_num=1, **kwargs), merge, AddProjections(), InputFingerprint()):
        results = step(results)
    return results


def test_clean_changes_nothing(tmp_path):
    plain, out = sample(tmp_path), run(sample(tmp_path), "clean")
    merged = LoadPoseCorrectedSweeps(sweeps_num=1, use_dim=[0, 1, 2, 3, 4], test_mode=True)(plain)["points"].tensor
    assert torch.equal(out["points"].tensor, merged) and out["sensor_state"] == 0
    assert all(np.array_equal(a, b) for a, b in zip(out["img"], sample(tmp_path)["img"], strict=True))
    np.testing.assert_array_equal(out["lidar2img"], AddProjections()(plain)["lidar2img"])


def test_the_frame_holds_what_was_recorded(tmp_path):
    results = sample(tmp_path)
    frame = frame_of(results, 1, None)
    assert [view.camera for view in frame.views] == list(CAMERAS)
    assert frame.views[0].image.flags.c_contiguous and np.array_equal(frame.views[1].image, results["img"][1])
    assert len(frame.clouds) == 2 and np.array_equal(frame.clouds[1].points[:, 4], np.arange(30))
    np.testing.assert_allclose(frame.clouds[1].to_key[:3, 3], [0, 2, 0])
    # Boxes of other classes are no objects; centres are gravity centres (mmdet3d boxes stand on their bottom).
    np.testing.assert_allclose(frame.boxes, [[3, 12, -1 + 0.75, 4, 2, 1.5, 0.4]], rtol=1e-6)


def test_conditions_leave_a_state_and_a_fingerprint(tmp_path):
    fingerprints = {}
    for name, state in (("clean", 0), ("no_lidar", 1), ("no_cameras", 2), ("no_cam_back", 0)):
        out = run(sample(tmp_path), name)
        assert out["sensor_state"] == state
        fingerprints[name] = out["input_proof"]
        assert (out["points"].tensor.abs().sum() == 0) == (name == "no_lidar")
        assert [bool(image.any()) for image in out["img"]] == [
            name not in ("no_cameras", "no_cam_back"),
            name != "no_cameras",
        ]
    assert len({fingerprint["sha256"] for fingerprint in fingerprints.values()}) == 4
    assert (
        fingerprints["clean"]["points"] == fingerprints["no_lidar"]["points"] == 80
        and fingerprints["no_lidar"]["range_m"] == 0
    )
    assert fingerprints["no_cameras"]["brightness"] == 0 and fingerprints["clean"]["views"] == 2
    assert run(sample(tmp_path), "clean")["input_proof"] == fingerprints["clean"]


@pytest.mark.parametrize("name", ["points", "img", "lidar2img"])
def test_input_that_is_not_finite_is_refused_before_the_detector_sees_it(tmp_path, name):
    results = run(sample(tmp_path), "clean")
    if name == "points":
        results["points"].tensor[3, 3] = torch.nan
    else:
        results[name] = [np.full((4, 4), np.inf), *results[name][1:]]
    with pytest.raises(BadFrameError, match=f"sample token0: '{name}' is not finite"):
        InputFingerprint()(results)


def test_published_configs_may_name_input_proof():
    assert type(TRANSFORMS.build(dict(type="InputProof"))) is InputFingerprint


def test_several_corruptions_are_applied_in_order(tmp_path):
    parts = [{"corruption": "nuscenes_r.limited_fov", "severity": 2}, {"corruption": "no_cameras"}]
    composed = run(sample(tmp_path), "clean", corruptions=parts)["input_proof"]
    alone = [run(sample(tmp_path), part["corruption"], severity=part.get("severity"))["input_proof"] for part in parts]
    assert 0 < composed["points"] == alone[0]["points"] < alone[1]["points"]
    assert composed["brightness"] == 0 < alone[0]["brightness"]


def test_absent_sensors_leave_the_sample(tmp_path):
    out = run(sample(tmp_path), "no_lidar_absent")
    assert "points" not in out and out["input_proof"]["points"] == 0 and len(out["img"]) == 2
    out = run(sample(tmp_path), "no_cameras_absent")
    assert "img" not in out and out["lidar2img"].shape == (0, 4, 4) and len(out["points"]) == 80
    out = run(sample(tmp_path), "no_cam_back", options={"form": "absent"})
    assert len(out["img"]) == 1 and out["lidar2img"].shape == (1, 4, 4) and list(out["images"]) == ["CAM_FRONT"]


def bevfusion_sample(folder):
    """As the loader of mmdet3d's BEVFusion (BEVLoadMultiViewImageFromFiles) leaves it: float32 stacks, inverses too."""
    results = sample(folder)
    intrinsics = [np.eye(4) for _ in CAMERAS]
    for matrix, cam2img in zip(intrinsics, results["cam2img"], strict=True):
        matrix[:3, :3] = cam2img
    lidar2cam = np.stack(results["lidar2cam"]).astype(np.float32)
    results["cam2img"] = np.stack(intrinsics).astype(np.float32)
    results["lidar2cam"], results["cam2lidar"] = lidar2cam, np.linalg.inv(lidar2cam)
    results["lidar2img"] = results["cam2img"] @ lidar2cam
    results["ori_cam2img"] = results["cam2img"].copy()
    return results


@pytest.mark.parametrize("condition", ["nuscenes_c.spatial_misalignment", "nuscenes_r.extrinsic_noise"])
def test_matrices_that_a_loader_derived_follow_the_calibration(condition, tmp_path):
    clean = SensorCondition("clean", sweeps_num=1)(bevfusion_sample(tmp_path))
    for key in ("cam2lidar", "lidar2img"):
        np.testing.assert_array_equal(clean[key], bevfusion_sample(tmp_path)[key])
    out = SensorCondition(condition, severity=2, sweeps_num=1)(bevfusion_sample(tmp_path))
    lidar2cam = np.stack(out["lidar2cam"])
    assert np.abs(lidar2cam - np.stack(clean["lidar2cam"])).max() > 1e-3
    assert out["cam2lidar"].dtype == np.float32 and out["cam2lidar"].shape == (2, 4, 4)
    np.testing.assert_allclose(lidar2cam @ out["cam2lidar"], np.stack([np.eye(4)] * 2), atol=1e-5)
    np.testing.assert_allclose(out["lidar2img"], AddProjections()(dict(out))["lidar2img"], rtol=1e-5, atol=1e-4)


def test_derived_matrices_of_a_camera_that_is_gone(tmp_path):
    out = SensorCondition("no_cam_back", sweeps_num=1, options={"form": "absent"})(bevfusion_sample(tmp_path))
    assert out["cam2lidar"].shape == out["ori_cam2img"].shape == (1, 4, 4)


def test_an_unknown_matrix_per_camera_is_refused_where_the_calibration_changes(tmp_path):
    results = bevfusion_sample(tmp_path) | {"camera2ego": [np.eye(4)] * 2}
    assert SensorCondition("no_lidar", sweeps_num=1)(dict(results))["camera2ego"] is results["camera2ego"]
    with pytest.raises(UserError, match="the pipeline leaves 'camera2ego', a matrix per camera, before the condition"):
        SensorCondition("nuscenes_r.extrinsic_noise", severity=2, sweeps_num=1)(results)


def test_a_pipeline_of_one_sensor(tmp_path):
    results = {k: v for k, v in sample(tmp_path).items() if k not in ("img", "cam2img", "lidar2cam")}
    out = SensorCondition("no_cameras", sweeps_num=1)(results)
    assert len(out["points"]) == 50 and "img" not in out and len(out["sweep_clouds"].clouds) == 1


def test_a_condition_that_loads_too_few_sweeps_is_refused(tmp_path):
    """The loader would merge fewer sweeps than its config says, and nobody would see it."""
    results = SensorCondition("clean", sweeps_num=1)(sample(tmp_path, sweeps=3))
    merge = LoadPoseCorrectedSweeps(sweeps_num=3, use_dim=[0, 1, 2, 3, 4], test_mode=True)
    with pytest.raises(UserError, match=r"merges 3 sweeps, the condition before it loads 1; set its sweeps_num to 3"):
        merge(results)
    results = SensorCondition("clean", sweeps_num=3)(sample(tmp_path))  # the sample has one: no mistake
    assert len(merge(results)["points"]) == 80


def test_random_conditions_in_training(tmp_path):
    np.random.seed(0)
    step = RandomCondition(["no_lidar", "no_cameras"], prob=0.5, sweeps_num=1)
    before = dict(vars(step))
    states = [step(sample(tmp_path))["sensor_state"] for _ in range(100)]
    np.testing.assert_allclose(np.bincount(states, minlength=3) / 100, [0.5, 0.25, 0.25], atol=0.1)
    assert vars(step) == before, "no state from one sample to the next"
    with pytest.raises(ValueError, match="at least one name"):
        RandomCondition([])


def test_sensor_dropout_frequencies(tmp_path):
    np.random.seed(0)
    dropout = SensorDropout(lidar=0.25, cameras=0.5)
    outs = [dropout(sample(tmp_path)) for _ in range(100)]
    counts = np.bincount([out["sensor_state"] for out in outs], minlength=3) / 100
    np.testing.assert_allclose(counts, [0.25, 0.25, 0.5], atol=0.1)
    for out in outs[:40]:
        assert (out["points"].tensor.abs().sum() == 0) == (out["sensor_state"] == 1)
        assert (not any(image.any() for image in out["img"])) == (out["sensor_state"] == 2)
    with pytest.raises(ValueError, match="sum to at most 1"):
        SensorDropout(0.7, 0.7)


def write_scene(folder):
    """Two scenes of two and one key frames, with the files that the info file names."""
    rng = np.random.default_rng(0)
    infos = []
    for number, (token, prev, scene) in enumerate([("a", "", "s"), ("b", "a", "s"), ("c", "", "t")]):
        images = {}
        for camera in CAMERAS:
            for kind in ("samples", "sweeps"):
                (folder / kind / camera).mkdir(parents=True, exist_ok=True)
                image = np.full((9, 16, 3), 40 * number + 10 * (kind == "sweeps"), np.uint8)
                cv2.imwrite(str(folder / kind / camera / f"{token}.png"), image)
            sweeps = [{"img_path": f"sweeps/{camera}/{token}.png", "timestamp": number - 0.1}]
            eye = {"cam2img": np.eye(3).tolist(), "lidar2cam": np.eye(4).tolist()}
            images[camera] = {"img_path": f"{token}.png", "timestamp": float(number), "sweeps": sweeps, **eye}
        (folder / "samples" / "LIDAR_TOP").mkdir(parents=True, exist_ok=True)
        rng.normal(size=(10 + number, 5)).astype(np.float32).tofile(folder / "samples" / "LIDAR_TOP" / f"{token}.bin")
        infos.append(
            {"token": token, "prev": prev, "scene_token": scene, "timestamp": float(number), "images": images}
            | {"lidar_points": {"lidar_path": f"{token}.bin"}, "lidar_sweeps": [], "instances": []}
        )
    path = folder / "infos.pkl"
    path.write_bytes(pickle.dumps({"data_list": infos, "metainfo": {}}))
    return path


def test_history_stays_in_its_scene(tmp_path):
    infos = InfoFile(write_scene(tmp_path), tmp_path)
    second, other = SceneHistory(infos, "b", 10), SceneHistory(infos, "c", 10)
    assert [second.token(k) for k in range(3)] == ["b", "a", None]
    assert [other.token(k) for k in range(2)] == ["c", None]
    assert len(second.clouds(1)[0].points) == 10 and second.view(1, "CAM_BACK").image[0, 0, 0] == 0
    assert second.view_sweep(1, "CAM_BACK").image[0, 0, 0] == 50 and second.view_sweep(2, "CAM_BACK") is None
    assert second.view_sweep(0, "CAM_BACK").image[0, 0, 0] == 40
    frame = infos.frame(1)
    assert len(frame.views) == 2 and frame.boxes.shape == (0, 7) and frame.history.token(1) == "a"


def test_history_reaches_only_conditions_that_need_it(tmp_path):
    path = write_scene(tmp_path)
    step = SensorCondition("clean", ann_file=str(path), data_root=str(tmp_path))
    assert step._history("b", step.condition) is None
