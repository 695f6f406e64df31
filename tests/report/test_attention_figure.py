"""The figure of a query's attention: its caption's numbers, what is left out for a model without a sensor or bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sample_views import made_up_attention

from aqr_bench.report.figures.attention import attention_caption, draw_attention


def test_the_caption_has_the_share_inside_the_window():
    caption = attention_caption(made_up_attention(layers=2))
    assert "Query 7" in caption and "in the window (2 of 28 tokens)" in caption
    assert "layer 1: 7.1% to 50.0%, layer 2: 7.1% to 50.0%" in caption
    assert "no bias" in attention_caption(replace(made_up_attention(), window_K=None))
    assert attention_caption(replace(made_up_attention(), expert="bev")).startswith("Query 7, expert bev: share")


@pytest.mark.parametrize(
    ("attention", "columns"),
    [(made_up_attention(), 4), (replace(made_up_attention(bev=None), window_K=None), 1)],
)
def test_there_are_columns_for_each_sensor_with_and_without_the_bias(attention, columns, tmp_path):
    images = None if attention.layout.camera_shape is None else np.full((2, 3, 20, 30), 90, np.uint8)
    points = None if attention.layout.bev_shape is None else np.zeros((5, 4))
    path = tmp_path / "new" / "x.png"
    caption = draw_attention(path, attention, images, points, "title", ["CAM_FRONT", "CAM_BACK"])
    with Image.open(path) as image:
        assert image.width == pytest.approx(110 * (3.1 * columns + 0.5), abs=2)
        assert image.info["Description"] == caption
