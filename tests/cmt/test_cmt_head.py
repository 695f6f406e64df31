"""The head beyond the official numbers: batches, shapes, empties, several tasks, and the optional biases."""

from __future__ import annotations

import pytest
import torch
from cmt_small import (
    NAMES,
    RANGE,
    assert_equal_outputs,
    assert_finite_gradients,
    boxes,
    data_sample,
    features,
    metas,
    ring,
    run,
    small_head,
    small_head_config,
    train_step,
    with_truth,
)
from mmdet3d.registry import MODELS

from aqr_bench.cmt.embedding import grid_references
from aqr_bench.errors import UserError

AQR = dict(site="both", bev_window=3, camera_window=3, ffn_dims=32)
LOCALITY = dict(bev_sigma=4.0, angle_sigma=0.3)


@pytest.mark.parametrize("options", [{}, dict(aqr=AQR, locality=LOCALITY)], ids=["plain", "biased"])
def test_a_batch_of_unlike_samples_equals_each_alone(options):
    head = small_head(**options)
    x, x_img = features(2)
    both = metas(2)
    # Different cameras (metas turns them) and different padded sizes: nothing may be taken from sample 0.
    both[1]["pad_shape"] = [(48, 60, 3)] * 3
    together = run(head, x, x_img, both)
    for b in range(2):
        alone = run(head, x[b : b + 1], x_img[3 * b : 3 * b + 3], both[b : b + 1])
        assert_equal_outputs({n: together[n][:, b : b + 1] for n in NAMES}, alone)


def test_padding_counts_for_keys_and_image_size_for_visibility():
    head = small_head()
    x, x_img = features(1)
    full_size, narrow = metas(1), metas(1)
    narrow[0]["pad_shape"] = [(48, 20, 3)] * 3
    narrow[0]["batch_input_shape"] = (48, 80)
    from aqr_bench.cmt.geometry import CameraGeometry

    a, b = (CameraGeometry.from_metas(m, torch.device("cpu")) for m in (full_size, narrow))
    with torch.no_grad():
        torch.testing.assert_close(head.embeddings.image_keys(a, 6, 10), head.embeddings.image_keys(b, 6, 10))
        reference = head.reference_points.weight[None]
        assert not torch.allclose(head.embeddings.ray_queries(reference, a), head.embeddings.ray_queries(reference, b))
    # mmdet3d's preprocessor writes one (h, w) for all views.
    single = metas(1)
    single[0]["pad_shape"] = (48, 80)
    assert_equal_outputs(run(head, x, x_img, full_size), run(head, x, x_img, single))


@pytest.mark.parametrize("bev", [(6, 14), (14, 6)])
@pytest.mark.parametrize("cameras", [1, 4])
def test_maps_need_not_be_square_and_cameras_can_be_any_number(bev, cameras):
    head = small_head(aqr=AQR, locality=LOCALITY)
    x, x_img = features(2, cameras=cameras, bev=bev, image=(3, 9))
    train_step(head, with_truth(metas(2, cameras=cameras), [3, 2]), x, x_img)
    assert_finite_gradients(head)
    centres = head.embeddings.bev_coordinates(*bev)
    rows, cols = bev
    torch.testing.assert_close(centres[0], torch.tensor([0.5 / cols, 0.5 / rows]))
    torch.testing.assert_close(centres[1], torch.tensor([1.5 / cols, 0.5 / rows]))
    torch.testing.assert_close(centres[-1], torch.tensor([1 - 0.5 / cols, 1 - 0.5 / rows]))


def test_bev_keys_sit_where_the_map_really_is_if_asked_to():
    stretched = small_head(bev_range=[-20, -20, 16, 16])
    true = small_head(bev_range=[-20, -20, 16, 16], stretch_bev_keys=False)
    assert stretched.embeddings.bev_coordinates(9, 9)[-1, 0] == pytest.approx(8.5 / 9)
    assert true.embeddings.bev_coordinates(9, 9)[-1, 0] == pytest.approx((-20 + 36 * 8.5 / 9 + 20) / 40)


@pytest.mark.parametrize(
    ("counts", "num_query"),
    [([0, 0], 20), ([0, 4], 20), ([25, 3], 20), ([30, 0], 7)],
    ids=["no object at all", "one sample empty", "more objects than queries", "far more objects than queries"],
)
@pytest.mark.parametrize("options", [{}, dict(aqr=AQR, locality=LOCALITY)], ids=["plain", "biased"])
def test_odd_batches_train_and_infer(counts, num_query, options):
    head = small_head(num_query=num_query, **options)
    x, x_img = features(2)
    metadata = with_truth(metas(2), counts)
    losses = train_step(head, metadata, x, x_img)
    assert set(losses) == {f"{d}{n}loss_{k}" for d in ("", "d0.") for n in ("", "dn_") for k in ("cls", "bbox")}
    assert all(torch.isfinite(v) for v in losses.values())
    assert_finite_gradients(head)
    if sum(counts) == 0:
        assert losses["loss_bbox"] == 0 and losses["dn_loss_cls"] == 0 and losses["loss_cls"] > 0
    # max_num (30) can be more than queries: 7 queries x 10 classes would do, but not with one class.
    detections = head.get_bboxes(head.eval()([x], [x_img], metadata), metadata)
    assert len(detections) == 2 and all(len(b) == len(s) == len(l) for b, s, l in detections)


def test_fewer_candidates_than_max_num_decode_to_what_there_is():
    config = small_head_config(num_query=4, tasks=[dict(class_names=["car"])])
    config["bbox_coder"].update(num_classes=1, max_num=300, post_center_range=None)
    head = MODELS.build(config)
    x, x_img = features(1)
    (detections,) = head.get_bboxes(head.eval()([x], [x_img], metas(1)), metas(1))
    assert len(detections[0]) == 4 and (detections[2] == 0).all() and (detections[1].diff() <= 0).all()


def test_boxes_without_size_or_with_unknown_speed_give_a_finite_loss():
    head = small_head()
    metadata = with_truth(metas(1), [3])
    metadata[0]["gt_bboxes_3d"].tensor[0, 7:] = float("nan")
    metadata[0]["gt_bboxes_3d"].tensor[1, 3] = 0.0
    losses = train_step(head, metadata, *features(1))
    assert all(torch.isfinite(v) for v in losses.values())
    assert_finite_gradients(head)


def test_a_nan_shows_in_the_loss_and_does_not_stop_the_matcher():
    head = small_head()
    with torch.no_grad():
        head.task_heads[0].center[3].bias.fill_(float("nan"))
    losses = train_step(head, with_truth(metas(1), [3]), *features(1))
    assert torch.isnan(losses["loss_bbox"])


def test_several_tasks_share_the_queries():
    tasks = [dict(class_names=["car", "truck"]), dict(class_names=["bus"]), dict(class_names=["barrier", "cone"])]
    config = small_head_config(tasks=tasks)
    config["bbox_coder"].update(num_classes=5, post_center_range=None)
    torch.manual_seed(0)
    head = MODELS.build(config)
    head.init_weights()
    x, x_img = features(1)
    metadata = metas(1)
    metadata[0]["gt_bboxes_3d"], _ = boxes(5, seed=0)
    metadata[0]["gt_labels_3d"] = torch.arange(5)
    train_step(head, metadata, x, x_img)
    assert_finite_gradients(head)
    outputs = head.eval()([x], [x_img], metadata)
    assert [task[0]["cls_logits"].shape[-1] for task in outputs] == [2, 1, 2]
    with torch.no_grad():  # make query 7 the surest, as a bus: its box has to come from the second task
        outputs[1][0]["cls_logits"][-1, 0, 7, 0] = 50.0
        outputs[1][0]["center"][-1, 0, 7] = torch.tensor([3.0, -4.0])
    ((detections, scores, labels),) = head.get_bboxes(outputs, metadata)
    assert labels[0] == 2 and scores[0] == 1
    torch.testing.assert_close(detections.tensor[0, :2], torch.tensor([3.0, -4.0]))


def test_matching_assigns_the_right_boxes():
    """Losses fall to almost nothing if the outputs already are the truth, wherever they stand in the query order."""
    from aqr_bench.cmt.coder import normalize_bbox
    from aqr_bench.cmt.geometry import gravity_boxes

    head = small_head(scalar=0)
    truth, labels = boxes(6, seed=3)
    codes = torch.zeros(1, 1, 20, 10)
    logits = torch.full((1, 1, 20, 10), -20.0)
    places = torch.tensor([3, 17, 8, 0, 12, 5])
    codes[0, 0, places] = normalize_bbox(gravity_boxes(truth, torch.device("cpu")))
    logits[0, 0, places, labels] = 20.0
    parts = dict(zip(("center", "height", "dim", "rot", "vel"), codes.split((2, 1, 3, 2, 2), -1), strict=True))
    losses = head.loss([truth], [labels], ([{**parts, "cls_logits": logits}],))
    assert set(losses) == {"loss_cls", "loss_bbox"}
    assert losses["loss_cls"] < 1e-6 and losses["loss_bbox"] < 1e-6
    wrong = {**parts, "cls_logits": logits.roll(1, dims=-1)}
    assert head.loss([truth], [labels], ([wrong],))["loss_cls"] > 1


@pytest.mark.parametrize("kind", ["CmtLidarHead", "CmtImageHead"])
def test_single_sensor_heads_train_with_and_without_biases(kind):
    for options in ({}, dict(aqr=AQR, locality=LOCALITY)):
        head = small_head(kind, **options)
        x, x_img = features(2)
        x, x_img = (x, None) if kind == "CmtLidarHead" else (None, x_img)
        metadata = with_truth(metas(2), [3, 1])
        if kind == "CmtLidarHead":  # no cameras, no camera metadata
            for meta in metadata:
                del meta["lidar2img"], meta["pad_shape"]
        train_step(head, metadata, x, x_img)
        assert_finite_gradients(head)
        assert len(head.get_bboxes(head.eval()([x], [x_img], metadata), metadata)) == 2


def test_mmdet3d_style_loss_and_predict_equal_the_official_calls():
    head = small_head()
    x, x_img = features(1)
    sample = data_sample(3, ring(3, 48, 80), pad_shape=(48, 80))
    meta = dict(
        sample.metainfo,
        gt_bboxes_3d=sample.gt_instances_3d.bboxes_3d,
        gt_labels_3d=sample.gt_instances_3d.labels_3d,
    )
    torch.manual_seed(1)
    head.train()
    ours = head.loss([x], [x_img], [sample])
    torch.manual_seed(1)
    by_cmt = head.loss([meta["gt_bboxes_3d"]], [meta["gt_labels_3d"]], head([x], [x_img], [meta]))
    for name, value in by_cmt.items():
        torch.testing.assert_close(ours[name], value)
    head.eval()
    with torch.no_grad():
        (detections,) = head.predict([x], [x_img], [sample])
        ((expected, scores, labels),) = head.get_bboxes(head([x], [x_img], [meta]), [meta])
    torch.testing.assert_close(detections.bboxes_3d.tensor, expected.tensor)
    torch.testing.assert_close(detections.scores_3d, scores)
    assert torch.equal(detections.labels_3d, labels)


def test_references_start_as_asked():
    random = small_head(num_query=200).reference_points.weight
    assert random.min() >= 0 and random.max() <= 1 and random.std() > 0.2
    grid = small_head(num_query=144, reference_init="grid").reference_points.weight
    assert sorted(set(grid[:, 0].tolist())) == pytest.approx([(i + 0.5) / 12 for i in range(12)])
    assert (grid[:, 2] == 0.5).all()
    for count, aspect in [(1, 1.0), (7, 1.0), (150, 2.0), (10, 30.0)]:
        points = grid_references(count, aspect)
        assert points.shape == (count, 3) and ((points > 0) & (points < 1)).all()
        assert len({tuple(p) for p in points.tolist()}) == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(aqr=dict(site="crosss")), "crosss"),
        (dict(aqr=dict(windows=5)), "windows"),
        (dict(locality=dict(bev_sigma=-1.0)), "bev_sigma"),
        (dict(attention_backend="fast"), "attention_backend 'fast'"),
        (dict(attention_dtype="half"), "attention_dtype 'half'"),
        (
            dict(attention_dtype="float16", locality=dict(bev_sigma=4.0)),
            "locality prior needs attention_dtype 'float32'",
        ),
        (dict(attention_dtype="float16", attention_backend="window"), "'window' needs attention_dtype 'float32'"),
        (dict(reference_init="grids"), "reference_init"),
        (dict(hidden_dim=64), "hidden_dim is 64"),
        (dict(bev_range=[0, 0, -1, 1]), "bev_range"),
        (dict(transformer=None), "transformer"),
    ],
)
def test_config_mistakes_are_reported(changes, message):
    with pytest.raises(UserError, match=message):
        MODELS.build(small_head_config(**changes))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("separate_head", "type"), "SeperateTaskHead", "SeparateTaskHead"),
        (("bbox_coder", "type"), "MultiTaskBoxCoder", "MultiTaskBBoxCoder"),
        (("train_cfg", "assigner", "cls_cost", "type"), "FocalCost", "FocalLossCost"),
        (("train_cfg", "assigner", "iou_cost", "weight"), 1.0, "iou_cost"),
        (("transformer", "decoder", "num_layers"), 0, "num_layers"),
    ],
)
def test_nested_config_mistakes_are_reported(path, value, message):
    config = small_head_config()
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(UserError, match=message):
        MODELS.build(config)


def test_wrong_batches_are_reported():
    head = small_head()
    x, x_img = features(2)
    with pytest.raises(KeyError, match="gt_bboxes_3d"):
        head.train()([x], [x_img], metas(2))
    head.eval()
    with pytest.raises(ValueError, match="2 BEV maps for 3 samples"):
        head([x], [x_img], metas(3))
    with pytest.raises(ValueError, match="image maps"):
        head([x], [x_img[:5]], metas(2))
    flat = metas(2)
    flat[0]["lidar2img"][0] = 0
    with pytest.raises(ValueError, match="singular"):
        head([x], [x_img], flat)
    lacking = metas(2)
    del lacking[1]["pad_shape"]
    with pytest.raises(KeyError, match="sample 1"):
        head([x], [x_img], lacking)


def test_outputs_stay_inside_the_range():
    head = small_head()
    out = run(head, *features(2), metas(2))
    for axis in range(2):
        assert out["center"][..., axis].min() >= RANGE[axis] and out["center"][..., axis].max() <= RANGE[3 + axis]
