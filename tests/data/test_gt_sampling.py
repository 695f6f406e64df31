"""Pasting: objects keep their places, points and pixels agree, and nothing that was there is written to."""

from __future__ import annotations

import copy
import functools
import os
import pickle

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import ObjectSample
from mmdet3d.registry import DATASETS, TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.ops import box_np_ops
from sampler_cases import (
    CAR,
    CLASSES,
    GROUPS,
    equal_states,
    sampler_config,
    small_config,
    small_frame,
    state_of,
)
from shapely.geometry import Polygon

from aqr_bench.data.dbinfos import max_lag_s
from aqr_bench.data.gt_database import project_boxes
from aqr_bench.data.gt_sampling import UnifiedDataBaseSampler, UnifiedObjectSample, overlaps_bev
from aqr_bench.data.infos import CAMERAS
from aqr_bench.errors import UserError


@pytest.fixture(scope="module")
def frames(world, database):
    """The training frames as the pipeline has them where objects are pasted."""
    infos = database[0]
    pipeline = [
        dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5),
        dict(type="LoadPoseCorrectedSweeps", sweeps_num=10, use_dim=[0, 1, 2, 3, 4], test_mode=True),
        dict(type="LoadMultiViewImageFromFiles", num_views=6),
        dict(type="AddProjections"),
        dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    ]
    dataset = DATASETS.build(
        dict(
            type="NuScenesDataset",
            data_root=str(world),
            ann_file=str(infos / "infos_train.pkl"),
            data_prefix=dict(pts="samples/LIDAR_TOP", sweeps="sweeps/LIDAR_TOP")
            | {camera: f"samples/{camera}" for camera in CAMERAS},
            modality=dict(use_lidar=True, use_camera=True),
            metainfo=dict(classes=CLASSES, version="v1.0-mini"),
            pipeline=[],
            filter_empty_gt=False,
        )
    )
    # Built here: a pipeline inside the data set would look its transforms up in the current default scope.
    transforms = [TRANSFORMS.build(config) for config in pipeline]
    return [functools.reduce(lambda results, step: step(results), transforms, frame) for frame in dataset]


def footprint(box):
    x, y, _, length, width, _, yaw = box[:7].astype(np.float64)
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2 * [length, width]
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return Polygon(corners @ turn.T + [x, y])


def empty(results):
    """The frame without its boxes."""
    none = LiDARInstance3DBoxes(torch.zeros((0, 9)), box_dim=9)
    return results | {"gt_bboxes_3d": none, "gt_labels_3d": np.zeros(0, np.int64)}


# ------------------------------------------------------------------ a real database


def test_pasted_boxes_collide_with_nothing_and_fill_up_their_groups(database, frames):
    np.random.seed(0)
    sampler = UnifiedDataBaseSampler(**sampler_config(database[0]))
    total = 0
    for frame in (*frames, *(empty(frame) for frame in frames)):
        boxes, labels = frame["gt_bboxes_3d"].tensor.numpy(), frame["gt_labels_3d"]
        drawn = sampler.sample_all(boxes, labels)
        total += len(drawn["gt_bboxes_3d"])
        assert drawn["gt_labels_3d"].dtype == np.int64 and drawn["gt_bboxes_3d"].shape[1] == 9
        assert drawn["group_ids"].tolist() == list(range(len(boxes), len(boxes) + len(drawn["gt_bboxes_3d"])))
        assert drawn["images"] == [None] * len(drawn["gt_bboxes_3d"])
        shapes = [footprint(box) for box in (*boxes, *drawn["gt_bboxes_3d"])]
        for index in range(len(boxes), len(shapes)):
            for other in range(index):
                assert shapes[index].intersection(shapes[other]).area < 1e-4
        for label, name in enumerate(CLASSES):
            added = int((drawn["gt_labels_3d"] == label).sum())
            assert added <= max(0, GROUPS[name] - int((labels == label).sum()))
    assert total > 40


def test_points_in_pasted_boxes_are_the_objects_points(database, frames):
    np.random.seed(1)
    transform = UnifiedObjectSample(sampler_config(database[0]))
    dbinfos = pickle.loads((database[0] / "dbinfos_train.pkl").read_bytes())
    for frame in frames:
        before, results = state_of(frame), transform(dict(frame))
        boxes, points = results["gt_bboxes_3d"].tensor.numpy(), results["points"].tensor.numpy()
        count = len(before["boxes"])
        assert len(boxes) > count and np.array_equal(boxes[:count], before["boxes"])
        assert np.array_equal(results["gt_labels_3d"][:count], before["labels"])
        start = len(points)
        for box, label in zip(boxes[count:][::-1], results["gt_labels_3d"][count:][::-1], strict=True):
            # Objects come last in the cloud, in the order of their boxes. A box that stands still has several entries.
            entries = [e for e in dbinfos[CLASSES[label]] if np.array_equal(e["box3d_lidar"], box)]
            clouds = [np.fromfile(database[0] / e["path"], dtype=np.float32).reshape(-1, 5) for e in entries]
            ends = [points[start - len(cloud) : start] - np.pad(box[:3], (0, 2)) for cloud in clouds]
            stored = next(
                cloud for cloud, end in zip(clouds, ends, strict=True) if np.allclose(end, cloud, rtol=0, atol=1e-5)
            )
            start -= len(stored)
            core = box[:7] - np.array([0, 0, -1e-3, 2e-3, 2e-3, 2e-3, 0], np.float32)
            inside = np.flatnonzero(box_np_ops.points_in_rbbox(points[:, :3].copy(), core[None])[:, 0])
            assert ((inside >= start) & (inside < start + len(stored))).all()
        assert equal_states(before, state_of(frame))


def test_images_change_only_where_objects_fall(database, frames):
    np.random.seed(2)
    transform = UnifiedObjectSample(sampler_config(database[0]), sample_2d=True, mixup_rate=0.5)
    changed = 0
    for frame in frames:
        before, results = state_of(frame), transform(dict(frame))
        assert equal_states(before, state_of(frame))
        count, corners = len(before["boxes"]), results["gt_bboxes_3d"].corners.numpy()
        for old, new, lidar2img in zip(frame["img"], results["img"], frame["lidar2img"], strict=True):
            assert new.dtype == np.uint8 and new.shape == old.shape
            rectangles, _, in_front = project_boxes(corners[count:], lidar2img, old.shape[1], old.shape[0])
            allowed = np.zeros(old.shape[:2], bool)
            for left, top, right, bottom in rectangles[in_front]:
                allowed[top:bottom, left:right] = True
            difference = (old != new).any(-1)
            assert not (difference & ~allowed).any()
            changed += difference.any()
    assert changed > 3


def test_an_empty_frame_takes_objects_and_a_lidar_only_frame_needs_no_images(database, frames):
    np.random.seed(3)
    transform = UnifiedObjectSample(sampler_config(database[0]), sample_2d=True)
    results = transform(empty(frames[0]))
    assert len(results["gt_bboxes_3d"]) == len(results["gt_labels_3d"]) > 5
    lidar_only = {key: frames[0][key] for key in ("points", "gt_bboxes_3d", "gt_labels_3d")}
    results = UnifiedObjectSample(sampler_config(database[0]))(dict(lidar_only))
    assert len(results["gt_bboxes_3d"]) > len(lidar_only["gt_bboxes_3d"]) and "img" not in results
    with pytest.raises(UserError, match="sample_2d needs img and lidar2img"):
        transform(dict(lidar_only))


def test_disabled_gives_the_frame_back(database, frames):
    config = sampler_config(database[0])
    before = copy.deepcopy(config)
    transform = TRANSFORMS.build(dict(type="UnifiedObjectSample", db_sampler=config, sample_2d=True))
    assert isinstance(transform, ObjectSample) and transform.disabled is False and config == before
    transform.disabled = True
    given = state_of(frames[0])
    results = transform(dict(frames[0]))
    assert all(results[key] is frames[0][key] for key in frames[0]) and equal_states(given, state_of(results))


def test_a_draw_depends_on_the_seed_alone(database, frames):
    boxes, labels = frames[0]["gt_bboxes_3d"].tensor.numpy(), frames[0]["gt_labels_3d"]
    first = UnifiedDataBaseSampler(**sampler_config(database[0]))
    for _ in range(3):
        first.sample_all(boxes, labels)
    other = UnifiedDataBaseSampler(**sampler_config(database[0]))
    drawn = []
    for sampler in (first, other):
        np.random.seed(7)
        drawn.append(sampler.sample_all(boxes, labels)["gt_bboxes_3d"])
    assert np.array_equal(*drawn)


def test_classes_without_entries_are_passed_over(database, frames, tmp_path):
    dbinfos = pickle.loads((database[0] / "dbinfos_train.pkl").read_bytes())
    assert dbinfos["barrier"] == []
    del dbinfos["bus"]
    (tmp_path / "dbinfos_train.pkl").write_bytes(pickle.dumps(dbinfos))
    few = dict.fromkeys(CLASSES, 0) | {"trailer": 10**6, "bus": 5}
    config = sampler_config(
        tmp_path,
        data_root=str(database[0]),
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=few),
        sample_groups=dict(bus=4, trailer=4, barrier=4, motorcycle=500),
    )
    np.random.seed(0)
    drawn = UnifiedDataBaseSampler(**config).sample_all(np.zeros((0, 9), np.float32), np.zeros(0, np.int64))
    assert {CLASSES[label] for label in drawn["gt_labels_3d"]} == {"motorcycle"}
    assert len(drawn["gt_labels_3d"]) <= len(dbinfos["motorcycle"])
    config["sample_groups"] = dict(barrier=4)
    transform = UnifiedObjectSample(config)
    before = state_of(frames[0])
    assert equal_states(before, state_of(transform(dict(frames[0]))))


@pytest.mark.parametrize(("rate", "present", "expected"), [(1.0, 0, 4), (0.5, 1, 2), (0.3, 0, 1), (1.0, 6, 0)])
def test_numbers_follow_rate_and_what_is_there(tmp_path, rate, present, expected):
    objects = [("car", [10 * i, 50, 0, 2, 2, 2, 0, 0, 0], None) for i in range(9)]
    sampler = UnifiedDataBaseSampler(**small_config(tmp_path, objects, rate=rate, sample_groups=dict(car=4)))
    boxes = np.array([[10 * i, -50, 0, 2, 2, 2, 0, 0, 0] for i in range(present)], np.float32).reshape(-1, 9)
    drawn = sampler.sample_all(boxes, np.zeros(present, np.int64))
    assert (0 if drawn is None else len(drawn["gt_labels_3d"])) == expected
    if drawn is not None:
        assert len(np.unique(drawn["gt_bboxes_3d"][:, 0])) == expected
        assert drawn["points_idx"].tolist() == np.repeat(np.arange(expected), 3).tolist()


def test_the_same_box_twice_collides_and_a_free_position_does_not():
    rng = np.random.default_rng(0)
    boxes = np.zeros((60, 9), np.float32)
    boxes[:, :2], boxes[:, 3:5] = rng.uniform(-8, 8, (60, 2)), rng.uniform(0.5, 6, (60, 2))
    boxes[:, 6] = rng.uniform(-4, 4, 60)
    shapes = [footprint(box) for box in boxes]
    for box, shape in zip(boxes, shapes, strict=True):
        assert overlaps_bev(box, boxes).tolist() == [shape.intersection(other).area > 0 for other in shapes]
    side_by_side = np.array([[0, 0, 0, 2, 2, 2, 0], [2, 0, 0, 2, 2, 2, 0], [9, 0, 0, 2, 2, 2, 1]], np.float32)
    assert overlaps_bev(side_by_side[0], side_by_side).tolist() == [True, False, False]
    assert overlaps_bev(side_by_side[0], side_by_side[:0]).shape == (0,)


def test_pasted_points_are_not_older_than_the_frames_own(database, frames):
    """The database has ten sweeps; frames of fewer get the points of as many."""
    sampler = UnifiedDataBaseSampler(**sampler_config(database[0]))
    transform = UnifiedObjectSample(sampler_config(database[0]))
    nothing = np.zeros((0, 9), np.float32), np.zeros(0, np.int64)
    totals = []
    for sweeps in (None, 10, 2, 1, 0):
        np.random.seed(0)
        drawn = sampler.sample_all(*nothing, sweeps=sweeps)
        lag, count = drawn["points"].tensor[:, 4].numpy(), len(drawn["gt_bboxes_3d"])
        assert len(drawn["gt_labels_3d"]) == len(drawn["images"]) == len(drawn["group_ids"]) == count
        assert set(drawn["points_idx"].tolist()) == set(range(count)), "each object has a point"
        assert sweeps is None or lag.max() <= 0.251 * sweeps  # a sweep every 0.25 s
        totals.append(len(lag))
    assert totals[0] == totals[1] > totals[2] > totals[3] > totals[4] > 0
    assert frames[-1]["merged_sweeps"] == 10
    pasted = []
    for sweeps in (10, 0):
        np.random.seed(0)
        pasted.append(len(transform(dict(frames[-1]) | {"merged_sweeps": sweeps})["points"]))
    assert pasted[0] > pasted[1], "the transform hands the frame's number on"


def test_a_database_says_how_many_sweeps_it_has(tmp_path):
    entry = {"sweeps": 3, "sweep_lags": (0.05, 0.1)}  # the scene had begun two sweeps before
    assert [max_lag_s("x", entry, sweeps) for sweeps in (None, 3)] == [None, None]
    assert [max_lag_s("x", entry, sweeps) for sweeps in (0, 1, 2)] == pytest.approx([0.001, 0.051, 0.101])
    with pytest.raises(UserError, match=r"database x has 3 sweeps, the training merges 9\..*--max-sweeps 9"):
        max_lag_s("x", entry, 9)
    assert max_lag_s("x", {}, 10) is None, "those of mmdet3d say nothing, and have ten"
    with pytest.raises(UserError, match=r"database x has 10 sweeps \(it does not say.*merges 1\..*--max-sweeps 1"):
        max_lag_s("x", {}, 1)


def test_objects_that_lie_beside_their_boxes_are_refused(database, tmp_path):
    """As mmdet3d 0.x has them: w, l, h, and the negative yaw."""
    dbinfos = pickle.loads((database[0] / "dbinfos_train.pkl").read_bytes())
    for entry in (entry for entries in dbinfos.values() for entry in entries):
        entry["box3d_lidar"] = entry["box3d_lidar"][[0, 1, 2, 4, 3, 5, 6, 7, 8]] * np.float32([1] * 6 + [-1, 1, 1])
    (tmp_path / "dbinfos_train.pkl").write_bytes(pickle.dumps(dbinfos))
    with pytest.raises(UserError, match=r"only \d+ of \d+ points of its objects lie in their boxes.*Make it with"):
        UnifiedDataBaseSampler(**sampler_config(tmp_path, data_root=str(database[0])))


def test_an_object_is_not_pasted_onto_itself(tmp_path):
    sampler = UnifiedDataBaseSampler(**small_config(tmp_path, [("car", CAR, None)] * 3, sample_groups=dict(car=3)))
    drawn = sampler.sample_all(np.zeros((0, 9), np.float32), np.zeros(0, np.int64))
    assert len(drawn["gt_bboxes_3d"]) == 1
    assert sampler.sample_all(np.array([CAR], np.float32), np.zeros(1, np.int64)) is None


# ------------------------------------------------------------------ mistakes


def test_wrong_databases_and_arguments_are_named(database, tmp_path):
    good = sampler_config(database[0])
    with pytest.raises(UserError, match=r"not found: .*dbinfos_train\.pkl\. Make it with: aqr-bench data .*--database"):
        UnifiedDataBaseSampler(**sampler_config(tmp_path))
    with pytest.raises(UserError, match="class 'lorry' is not in classes"):
        UnifiedDataBaseSampler(**good | {"sample_groups": {"lorry": 1}})
    with pytest.raises(UserError, match=r"unknown filter 'filter_by_min_point'; did you mean 'filter_by_min_points'"):
        UnifiedDataBaseSampler(**good | {"prepare": {"filter_by_min_point": {}}})
    with pytest.raises(UserError, match="mixup_rate is 2"):
        UnifiedObjectSample(good, mixup_rate=2)
    with pytest.raises(UserError, match="sample_method is 'breadth'"):
        UnifiedObjectSample(good, sample_method="breadth")
    path = tmp_path / "dbinfos_train.pkl"
    entry = dict(name="car", path="0.bin", num_points_in_gt=3, difficulty=0)
    for content, message in (
        ([], "holds a list"),
        ({"car": 1}, "'car' is no list"),
        ({"car": [{}]}, "entry 0 of 'car' lacks"),
        ({"car": [entry | {"box3d_lidar": np.zeros(7)}]}, r"has shape \(7,\)"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=message):
            UnifiedDataBaseSampler(**sampler_config(tmp_path))


def test_a_hostile_database_executes_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    (tmp_path / "dbinfos_train.pkl").write_bytes(pickle.dumps({"car": [Hostile()]}))
    with pytest.raises(UserError, match=r"asks for '.*system'"):
        UnifiedDataBaseSampler(**sampler_config(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_missing_and_cut_files_of_objects_are_named(tmp_path):
    objects = [("car", [0, 10, 0, 2, 2, 2, 0, 0, 0], np.zeros((12, 12, 3), np.uint8))]
    sampler = UnifiedDataBaseSampler(**small_config(tmp_path, objects))
    nothing = np.zeros((0, 9), np.float32), np.zeros(0, np.int64)
    assert sampler.sample_all(*nothing, with_img=True)["images"][0].shape == (12, 12, 3)
    for name in ("0.png", "0.bin"):
        payload = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(payload[:13])
        with pytest.raises(UserError, match=rf"{name}.*aqr-bench data"):
            sampler.sample_all(*nothing, with_img=True)
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=rf"{name}.*aqr-bench data"):
            sampler.sample_all(*nothing, with_img=True)
        (tmp_path / name).write_bytes(payload)


def test_points_of_another_width_are_refused(tmp_path):
    objects = [("car", [0, 10, 0, 2, 2, 2, 0, 0, 0], None)]
    loader = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=[0, 1, 2, 3])
    with pytest.raises(UserError, match=r"5 columns, the database's 4; make .*use_dim fit"):
        UnifiedObjectSample(small_config(tmp_path, objects, points_loader=loader))(small_frame([]))
