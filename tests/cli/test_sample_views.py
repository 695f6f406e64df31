"""What is gathered of a sample: the queries' windows around their reference points, and the boxes that count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cmt_small import RANGE, features, metas, run, small_head, small_mome, wake_router

from aqr_bench.cli.sample_views import (
    EFFECTS,
    RecordedWindows,
    chosen_attention,
    counted_boxes,
    detected_objects,
    input_area,
    query_views,
)
from aqr_bench.engine.attention_maps import AttentionRecorder
from aqr_bench.engine.router_log import RouterLog
from aqr_bench.errors import UserError
from aqr_bench.report.figures.detections import DrawnBoxes


def queries_of(**changes):
    head = small_head(**changes)
    if head.aqr is not None:
        wake_router(head)
    x, x_img = features(1)
    with RouterLog(head) as log, RecordedWindows(head) as windows:
        run(head, x, x_img, metas(1))
    return query_views(head, log, windows)


def test_the_windows_of_a_query_are_around_its_reference_point():
    queries = queries_of(aqr=dict(bev_window=3, camera_window=5, site="cross"))
    assert queries.reference_Q3.shape == (20, 3) and queries.weight_Q2.shape == (20, 2)
    assert len(np.unique(queries.weight_Q2)) > 10 and (np.abs(queries.weight_Q2) <= 1).all()
    low, high, xy = queries.bev_window_Q4[:, :2], queries.bev_window_Q4[:, 2:], queries.reference_Q3[:, :2]
    assert (low <= xy).all() and (xy < high).all()
    cell = (RANGE[3] - RANGE[0]) / 10  # of a map of 10 x 10 cells
    inside = (np.abs(xy) < RANGE[3] - 2 * cell).all(1)
    assert inside.sum() > 3 and np.allclose(high[inside] - low[inside], 3 * cell)
    lidar2img = metas(1)[0]["lidar2img"]
    for query, camera, *corner in queries.camera_windows_W6:
        u, v, depth, _ = lidar2img[int(camera)] @ [*queries.reference_Q3[int(query)], 1]
        share = np.array([u, v]) / depth / [80, 48]
        assert depth > 0 and (corner[:2] <= share).all() and (share < corner[2:]).all()
    assert len(queries.camera_windows_W6) > 3


def test_queries_of_experts_have_the_weights_of_their_expert():
    head = small_mome()
    x, x_img = features(1)
    with torch.no_grad(), RouterLog(head) as log, RecordedWindows(head) as windows, AttentionRecorder(head) as recorder:
        run(head, x, x_img, metas(1))
    queries = query_views(head, log, windows)
    assert queries.bev_window_Q4 is None and queries.camera_windows_W6.shape == (0, 6)
    for attention in chosen_attention(recorder, DrawnBoxes(np.zeros((0, 7)), [], np.zeros(0))).values():
        uses = tuple(queries.weight_Q2[attention.query] > 0)
        assert uses == {"fused": (True, True), "bev": (True, False), "img": (False, True)}[attention.expert]


def test_without_a_router_there_are_no_queries_and_without_windows_no_windows():
    assert queries_of() is None
    queries = queries_of(aqr=dict(site="self"))
    assert queries.bev_window_Q4 is None and queries.camera_windows_W6.shape == (0, 6)


def test_what_the_network_gets_of_an_image():
    """Resized to a half, 10 rows cut off at the top and 20 of padding added below: 160 x 90 of 320 x 160 pixels."""
    lidar2img = metas(1)[0]["lidar2img"][0]
    warp = np.diag([0.5, 0.5, 1.0, 1.0])
    warp[1, 2] = -10
    area = input_area(warp @ lidar2img, (90, 160), lidar2img, (160, 320))
    np.testing.assert_allclose(area, [0, 20 / 160, 1, 200 / 160], atol=1e-9)
    np.testing.assert_allclose(input_area(lidar2img, (48, 80), lidar2img, (48, 80)), [0, 0, 1, 1], atol=1e-9)


@pytest.mark.parametrize("aqr", [None, dict(bev_window=3, camera_window=5, site="cross")])
def test_queries_are_chosen_by_score_by_mistakes_and_by_what_the_bias_does(aqr):
    head = small_head(aqr=aqr)
    if aqr:
        wake_router(head)
    x, x_img = features(1)
    with torch.no_grad(), AttentionRecorder(head) as recorder:
        run(head, x, x_img, metas(1))
        every = [recorder.attention_of(query) for query in range(20)]
    boxes = np.zeros((2, 7))
    boxes[:, :2] = recorder.outputs[0][0]["center"][-1][0, [5, 11]]
    chosen = chosen_attention(recorder, DrawnBoxes(boxes, ["car", "bus"], np.array([0.1, 0.3])), query=2)
    by_effect = sorted(range(20), key=lambda query: -every[query].bias_effect)
    expected = {"as asked": 2, "highest score": int(np.argmax([a.score for a in every])), "highest false positive": 11}
    expected |= dict(zip(EFFECTS, by_effect, strict=False)) if aqr else {}
    assert {reason: attention.query for reason, attention in chosen.items()} == expected
    for attention in chosen.values():
        for layer, engine in zip(attention.layers, every[attention.query].layers, strict=True):
            np.testing.assert_array_equal(layer.biased_K, engine.biased_K)
    nothing = chosen_attention(recorder, DrawnBoxes(np.zeros((0, 7)), [], np.zeros(0)))
    assert "highest false positive" not in nothing and "as asked" not in nothing


@pytest.mark.parametrize("text", ["{", "[]", '{"results": {"a": [{"detection_score": 1.0}]}}', '{"results": []}'])
def test_a_damaged_submission_is_named(text, tmp_path):
    (tmp_path / "results_nusc.json").write_text(text)
    with pytest.raises(UserError, match=r"submission cannot be used: .*results_nusc.json.*evaluate again"):
        detected_objects(tmp_path / "results_nusc.json", 0.0)


def test_boxes_count_within_the_range_of_their_class_around_the_ego():
    boxes = np.zeros((4, 7))
    boxes[:, 0] = [9, 11, 19, 21]
    lidar2ego = np.eye(4)
    lidar2ego[0, 3] = 1.0
    info = {"lidar_points": {"lidar2ego": lidar2ego}}
    drawn = DrawnBoxes(boxes, ["car", "car", "bus", "bus"], np.arange(4))
    counted = counted_boxes(drawn, info, {"car": 10, "bus": 20})
    assert counted.labels == ["car", "bus"] and counted.scores.tolist() == [0, 2]
    assert counted_boxes(drawn.select(np.zeros(4, bool)), info, {}).labels == []
