"""Pictures of detections: where boxes land in an image, and what a sheet shows for a detector without cameras."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sample_views import BOX, CENTRE, FOCAL, LOOKING_ALONG_Y

from aqr_bench.report.figures.detections import NEAR_M, DrawnBoxes, corners, draw_sample, projected_edges


def test_a_box_in_front_lands_where_the_pinhole_says():
    edges = np.concatenate(projected_edges(np.array([BOX]), LOOKING_ALONG_Y))
    assert len(edges) == 24  # two ends of twelve edges
    near = FOCAL / (BOX[1] - BOX[4] / 2)  # pixels per metre at its near face
    assert edges[:, 0].min() == pytest.approx(CENTRE[0] - near) and edges[:, 0].max() == pytest.approx(CENTRE[0] + near)
    assert edges[:, 1].min() == pytest.approx(CENTRE[1] - near) and edges[:, 1].max() == pytest.approx(CENTRE[1] + near)


def test_what_is_behind_is_left_out_and_what_passes_the_camera_is_cut():
    assert projected_edges(np.array([[0, -10, *BOX[2:]]]), LOOKING_ALONG_Y) == []
    beside = np.array([[3.0, 0.0, *BOX[2:]]])
    assert 0 < len(projected_edges(beside, LOOKING_ALONG_Y)) < 12
    assert np.isfinite(projected_edges(beside, LOOKING_ALONG_Y)).all()
    # The nearest corner that is drawn lies on the near plane, at x = 2 m.
    most = max(edge[:, 0].max() for edge in projected_edges(beside, LOOKING_ALONG_Y))
    assert most == pytest.approx(CENTRE[0] + FOCAL * 4.0 / NEAR_M)


@pytest.mark.parametrize("yaw", [0.0, 0.3, -2.0])
def test_corners_are_as_far_apart_as_the_box_is_large(yaw):
    result = corners(np.array([[1.0, 2.0, 3.0, 4.0, 2.0, 1.5, yaw]]))[0]
    sides = [np.linalg.norm(result[i] - result[j]) for i, j in ((0, 3), (0, 1), (0, 4))]
    assert sides == pytest.approx([4.0, 2.0, 1.5])
    assert result.mean(0) == pytest.approx([1.0, 2.0, 3.0])


def test_without_cameras_the_birds_eye_view_stands_alone(tmp_path):
    boxes = DrawnBoxes(np.array([BOX]), ["car"], np.array([0.9]))
    points = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    for name, more in (("both", {}), ("lidar", {"cameras": ()})):
        draw_sample(tmp_path / f"{name}.png", {}, {}, points, boxes, boxes, "clean, sample 0\n" + "long " * 40, **more)
    sizes = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    assert sizes["both"][0] > 2.5 * sizes["both"][1] and sizes["lidar"][0] == sizes["lidar"][1]
