"""Transforms on small synthetic frames: sweeps land where they were seen, projections follow every change."""

from __future__ import annotations

import copy
import struct

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import LoadMultiViewImageFromFiles
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints

from aqr_bench.data.raw_frames import BadFrameError, read_image
from aqr_bench.data.transforms import (
    AddProjections,
    CheckFrame,
    EqualizeViews,
    LoadPoseCorrectedSweeps,
    LoadViewImages,
    RandomRotate180,
    ResizeViews,
)


def frame(seed=0, height=90, width=160):
    rng = np.random.default_rng(seed)
    cam2img = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # camera looks along LiDAR y
    lidar2cam[:3, 3] = [0.1, 1.5, -0.3]
    points = torch.from_numpy(rng.uniform(-20, 20, (50, 5)).astype(np.float32))
    return {
        "token": f"token{seed}",
        "points": LiDARPoints(points, points_dim=5),
        "img": [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(2)],
        "cam2img": [cam2img] * 2,
        "lidar2cam": [lidar2cam] * 2,
        "timestamp": 10.0,
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor([[3.0, 12, -1, 4, 2, 1.5, 0.4, 5, 1]]), box_dim=9),
    }


def project(lidar2img, xyz):
    u, v, depth = (lidar2img @ np.append(xyz, 1.0))[:3]
    return np.array([u / depth, v / depth])


def pose(yaw, x, y):
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    matrix[:2, 3] = x, y
    return matrix


@pytest.mark.parametrize("yaw", [0.0, 0.1, 1.0])
def test_static_points_of_a_turning_sweep_coincide(tmp_path, yaw):
    key2global, sweep2global = pose(0.3, 7, 4), pose(0.3 - yaw, 2, 3)
    rng = np.random.default_rng(0)
    world = np.concatenate([rng.uniform(-20, 20, (30, 3)), np.ones((30, 1))], 1)
    key = (world @ np.linalg.inv(key2global).T)[:, :3]
    seen_by_sweep = (world @ np.linalg.inv(sweep2global).T)[:, :3]
    np.concatenate([seen_by_sweep, np.ones((30, 2))], 1).astype(np.float32).tofile(tmp_path / "sweep.bin")
    cloud = torch.from_numpy(np.concatenate([key, np.ones((30, 2))], 1).astype(np.float32))
    sweep = {
        "timestamp": 9.75,
        "lidar_points": {
            "lidar_path": str(tmp_path / "sweep.bin"),
            "lidar2sensor": (np.linalg.inv(sweep2global) @ key2global).tolist(),
        },
    }
    results = {"points": LiDARPoints(cloud, points_dim=5), "timestamp": 10.0, "lidar_sweeps": [sweep]}
    merge = LoadPoseCorrectedSweeps(sweeps_num=1, use_dim=[0, 1, 2, 3, 4], test_mode=True)
    out = merge(results)["points"].tensor.numpy()
    assert out.shape == (60, 5)
    np.testing.assert_allclose(out[30:, :3], out[:30, :3], atol=1e-4)
    assert set(out[:30, 4]) == {0.0} and np.allclose(out[30:, 4], 0.25)


def test_resize_keeps_the_bottom_and_moves_the_projection():
    results = AddProjections()(frame())
    before = results["lidar2img"][0].copy()
    xyz = np.array([2.0, 15.0, -1.0])
    u, v = project(before, xyz)
    out = ResizeViews(size=(40, 80))(results)
    assert out["img"][0].shape == (40, 80, 3) and out["pad_shape"] == (40, 80)
    np.testing.assert_allclose(project(out["lidar2img"][0], xyz), [u / 2, v / 2 - 5])
    np.testing.assert_allclose(
        project(ResizeViews((50, 80))(AddProjections()(frame()))["lidar2img"][0], xyz)[1], v / 2 + 5
    )


def test_views_of_other_sizes_and_kinds_fill_the_input_like_any_other(tmp_path):
    """The same picture twice as large, with alpha, grey, and with more sky: the networks get the same pixels."""
    rows, columns = np.mgrid[:40, :80]
    picture = cv2.merge([np.uint8(rows + columns)] * 3)
    stored = {
        "plain": picture,
        "large": cv2.resize(picture, (160, 80), interpolation=cv2.INTER_NEAREST),
        "alpha": cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA),
        "grey": picture[..., 0],
        "tall": cv2.copyMakeBorder(picture, 32, 0, 0, 0, cv2.BORDER_CONSTANT),
    }
    images, scales = {}, {"large": 2.0}
    for name, pixels in stored.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        cam2img = np.diag([50.0 * scales.get(name, 1), 50.0 * scales.get(name, 1), 1.0])
        cam2img[1, 2] = 32.0 * (name == "tall")
        images[name] = {"img_path": str(tmp_path / f"{name}.png"), "cam2img": cam2img.tolist(), "lidar2cam": np.eye(4)}
    out = ResizeViews((20, 40))(AddProjections()(LoadViewImages()({"images": images})))
    assert [image.shape for image in out["img"]] == [(20, 40, 3)] * 5
    for name, image, lidar2img in zip(stored, out["img"], out["lidar2img"], strict=True):
        assert np.array_equal(image, out["img"][0]) or name == "large", name
        np.testing.assert_allclose(image.astype(int), out["img"][0], atol=1)
        np.testing.assert_allclose(project(lidar2img, np.array([0.3, 0.2, 1.0])), [7.5, 5.0], atol=1e-9)


SIZES = {"A": (80, 160), "B": (40, 80), "C": (40, 80), "D": (72, 80), "E": (40, 80)}  # of the recorded images


def padded_views(folder, loader: str) -> dict:
    """What mmdet3d's loader, or that of its BEVFusion, leaves of a frame whose cameras differ in the size of images.

    Each view shows a bright pixel block where a point projects to.
    """
    images = {}
    for name, (height, width) in SIZES.items():
        pixels = np.full((height, width, 3), 40, np.uint8)
        row, column = height // 4, width // 4  # of the point
        pixels[row - 3 : row + 4, column - 3 : column + 4] = 250
        pixels[:, -width // 10 :] = 200  # its right edge, and the lowest rows
        pixels[-height // 10 :] = 200
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
        cam2img = np.array([[width, 0, 0.0], [0, height, 0.0], [0, 0, 1]])
        images[name] = {"img_path": str(folder / f"{name}.png"), "cam2img": cam2img.tolist(), "lidar2cam": np.eye(4)}
    results = LoadMultiViewImageFromFiles(to_float32=True, num_views=5)({"images": images})
    if loader == "bevfusion":
        intrinsics = np.stack([np.eye(4)] * 5)
        intrinsics[:, :3, :3] = results["cam2img"]
        lidar2cam = np.stack(results["lidar2cam"])
        results |= {"cam2img": intrinsics, "lidar2cam": lidar2cam, "lidar2img": intrinsics @ lidar2cam}
        results |= {"ori_cam2img": intrinsics.copy(), "cam2lidar": np.linalg.inv(lidar2cam)}
    return results


@pytest.mark.parametrize("loader", ["mmdet3d", "bevfusion"])
def test_padded_views_become_views_of_one_size(tmp_path, loader):
    results = padded_views(tmp_path, loader)
    assert {image.shape for image in results["img"]} == {(80, 160, 3)}, "padded to the largest"
    single = {"images": {"B": results["images"]["B"]}}
    out = EqualizeViews()(copy.deepcopy(results))
    assert {image.shape for image in out["img"]} == {(40, 80, 3)} and out["img_shape"] == out["pad_shape"] == (40, 80)
    assert np.array_equal(out["img"][1], LoadViewImages()(single)["img"][0]), "those of the usual size are as recorded"
    projections = AddProjections()({k: v for k, v in out.items() if k != "lidar2img"})["lidar2img"]
    for image, projection in zip(out["img"], projections, strict=True):
        assert image.dtype == np.float32 and image[-1].min() > 150 and image[:, -1].min() > 150, "no padding is left"
        column, row = project(projection, np.array([0.25, 0.25, 1.0]))
        assert (column, row) == (20, 10) and image[10, 20].min() > 240 and image[20, 40].max() < 60
    if loader == "bevfusion":
        np.testing.assert_allclose(out["lidar2img"], projections)
        np.testing.assert_allclose(out["ori_cam2img"], out["cam2img"])


def test_views_of_one_size_or_of_a_loader_that_scales_are_left_alone(tmp_path):
    results = padded_views(tmp_path, "mmdet3d")
    scaled = {**results, "img": [np.zeros((20, 40, 3), np.float32)] * 5}
    equal = {**results, "images": {name: results["images"]["B"] for name in SIZES}}
    for before in (scaled, equal, {"points": 1}, {"img": [], "images": {}}):
        after = EqualizeViews()(dict(before))
        assert all(after[key] is before[key] for key in before) and after.keys() == before.keys()


def test_half_a_turn_keeps_everything_in_its_pixel():
    results = AddProjections()(frame())
    xyz, box = results["points"].tensor[0, :3].numpy().copy(), results["gt_bboxes_3d"].tensor[0].numpy().copy()
    centre = results["gt_bboxes_3d"].gravity_center[0].numpy()
    pixel, image = project(results["lidar2img"][0], centre), results["img"][0].copy()
    out = RandomRotate180(prob=1.0)(results)
    np.testing.assert_allclose(out["points"].tensor[0, :3].numpy(), xyz * [-1, -1, 1])
    turned = out["gt_bboxes_3d"].tensor[0].numpy()
    np.testing.assert_allclose(turned[:3], box[:3] * [-1, -1, 1])
    np.testing.assert_allclose(turned[7:], -box[7:])
    assert np.cos(turned[6] - box[6]) == pytest.approx(-1) and np.array_equal(out["img"][0], image)
    np.testing.assert_allclose(project(out["lidar2img"][0], out["gt_bboxes_3d"].gravity_center[0].numpy()), pixel)
    assert out["lidar2img"].shape == (2, 4, 4)


def test_damaged_frames_are_named(tmp_path):
    (tmp_path / "cut.bin").write_bytes(b"\0" * 30)
    results = {"token": "abc", "lidar_points": {"lidar_path": str(tmp_path / "cut.bin")}, "images": {}}
    with pytest.raises(BadFrameError, match=r"cut short.*cut\.bin has 30 bytes"):
        CheckFrame()(results)
    results["lidar_points"]["lidar_path"] = str(tmp_path / "gone.bin")
    with pytest.raises(BadFrameError, match=r"missing.*gone\.bin"):
        CheckFrame()(results)


def cloud_file(path, column=None, value=np.nan):
    points = np.ones((30, 5), np.float32)
    if column is not None:
        points[7, column] = value
    points.tofile(path)
    return {"lidar_path": str(path)}


@pytest.mark.parametrize(("column", "name"), enumerate(("x", "y", "z", "intensity", "ring")))
def test_a_point_that_is_not_finite_is_refused_in_keyframe_and_sweep(tmp_path, column, name):
    """In training, which begins with CheckFrame, as in evaluation; filters of the range would drop it or not."""
    message = rf"not finite: .*bad\.bin, 1 of 30 \(the first is point 7, its {name} is (nan|-inf)\)"
    bad = cloud_file(tmp_path / "bad.bin", column, np.nan if column else -np.inf)
    with pytest.raises(BadFrameError, match=message):
        CheckFrame(cameras=False)({"token": "abc", "lidar_points": bad})
    key = {"token": "abc", "lidar_points": cloud_file(tmp_path / "key.bin"), "timestamp": 1.0}
    key["lidar_sweeps"] = [{"timestamp": 0.5, "lidar_points": bad | {"lidar2sensor": np.eye(4)}}]
    key["points"] = LiDARPoints(torch.ones(3, 5), points_dim=5)
    with pytest.raises(BadFrameError, match=message):
        LoadPoseCorrectedSweeps(sweeps_num=1)(CheckFrame(cameras=False)(key))


@pytest.mark.parametrize("place", ["lidar2sensor of LiDAR sweep 1", "cam2img of A", "lidar2cam of A", "box 1 of"])
def test_a_matrix_or_box_that_is_not_finite_is_named(tmp_path, place):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    pose, images = np.eye(4), {"A": {"img_path": str(tmp_path / "a.png"), "cam2img": np.eye(3), "lidar2cam": np.eye(4)}}
    boxes = torch.ones(2, 9)
    boxes[0, 7:] = torch.nan  # an unknown velocity
    results = {
        "token": "abc",
        "lidar_points": cloud_file(tmp_path / "key.bin"),
        "lidar_sweeps": [{"lidar_points": {"lidar2sensor": pose}}],
        "images": images,
        "ann_info": {"gt_bboxes_3d": LiDARInstance3DBoxes(boxes, box_dim=9)},
    }
    assert CheckFrame()(results) is results
    key = place.split()[0]
    if key == "box":
        results["ann_info"]["gt_bboxes_3d"].tensor[1, 4] = torch.inf
    else:
        (pose if key == "lidar2sensor" else images["A"][key])[0, 2] = np.nan
    with pytest.raises(BadFrameError, match=f"sample abc: {place}.* is not finite"):
        CheckFrame()(results)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "cut short .no end-of-image marker.*front.jpg"),
        (lambda data: b"", "no JPEG.*front.jpg, 0 bytes"),
        (lambda data: b"\0\0" + data[2:], "no JPEG .*'0000'.*front.jpg"),
    ],
)
def test_damaged_images_are_named(tmp_path, damage, message):
    image = tmp_path / "front.jpg"
    intact = cv2.imencode(".jpg", np.full((40, 60, 3), 99, np.uint8))[1].tobytes()
    results = {"token": "abc", "images": {"CAM_FRONT": {"img_path": str(image)}}}
    image.write_bytes(intact + b"\0" * 100)  # some cameras pad
    assert CheckFrame(lidar=False)(results) is results
    image.write_bytes(damage(intact))
    with pytest.raises(BadFrameError, match=message):
        CheckFrame(lidar=False)(results)


def test_images_are_read_as_the_pipeline_reads_them(tmp_path):
    """The rotation that a camera may note in a file is not applied: boxes are projected into the pixels as stored."""
    plain = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))[1].tobytes()
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)  # turn by 90 degrees
    segment = b"Exif\0\0" + tiff
    image = tmp_path / "front.jpg"
    image.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:])
    assert cv2.imread(str(image)).shape == (60, 40, 3)
    info = {"images": {"CAM_FRONT": {"img_path": str(image), "cam2img": np.eye(3), "lidar2cam": np.eye(4)}}}
    loaded = LoadMultiViewImageFromFiles(num_views=1)(info)["img"][0]
    assert np.array_equal(read_image(image), loaded)
    assert np.array_equal(LoadViewImages()(info)["img"][0], loaded)
    image.write_bytes(plain[: len(plain) // 2])
    with pytest.raises(BadFrameError, match=r"cut short .*front\.jpg"):
        read_image(image)
    with pytest.raises(BadFrameError, match=r"cannot be read: .*gone\.png"):
        read_image(tmp_path / "gone.png")
