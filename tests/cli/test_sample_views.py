"""What is gathered of a sample: the queries' windows around their reference points, and the boxes that count."""

from __future__ import annotations

import numpy as np
from cmt_small import RANGE, features, metas, run, small_head, wake_router

from aqr_bench.cli.sample_views import RecordedWindows, counted_boxes, query_views
from aqr_bench.engine.router_log import RouterLog
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


def test_without_a_router_there_are_no_queries_and_without_windows_no_windows():
    assert queries_of() is None
    queries = queries_of(aqr=dict(site="self"))
    assert queries.bev_window_Q4 is None and queries.camera_windows_W6.shape == (0, 6)


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
