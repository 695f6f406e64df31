"""The figure of a query's attention: its caption's numbers, what is left out for a model without a sensor or bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from aqr_bench.bias import MemoryLayout
from aqr_bench.engine.attention_maps import LayerAttention, QueryAttention
from aqr_bench.report.figures.attention import attention_caption, draw_attention


def made_up(bev=(4, 4), cameras=(2, 2, 3), layers=1) -> QueryAttention:
    """Without the bias attention is uniform, with it half of it is inside of two cells."""
    layout = MemoryLayout(bev, cameras, (-8.0, -8.0, -5.0, 8.0, 8.0, 3.0))
    keys = layout.num_keys
    window = np.zeros(keys, bool)
    window[[1, keys - 1]] = True
    biased = np.where(window, 0.25, 0.5 / (keys - 2))
    layers = (LayerAttention(biased, np.full(keys, 1 / keys)),) * layers
    pixel = np.array([[np.nan, np.nan], [0.9, 0.8]])
    return QueryAttention(7, 0.4, np.array([-3.0, -7.0, 0.0]), pixel, (0.5, -0.5), layout, layers, window)


def test_the_caption_has_the_share_inside_the_window():
    caption = attention_caption(made_up(layers=2))
    assert "Query 7" in caption and "in the window (2 of 28 tokens)" in caption
    assert "layer 1: 7.1% to 50.0%, layer 2: 7.1% to 50.0%" in caption
    assert "no bias" in attention_caption(replace(made_up(), window_K=None))


@pytest.mark.parametrize(
    ("attention", "columns"),
    [(made_up(), 4), (replace(made_up(bev=None), window_K=None), 1)],
)
def test_there_are_columns_for_each_sensor_with_and_without_the_bias(attention, columns, tmp_path):
    images = None if attention.layout.camera_shape is None else np.full((2, 3, 20, 30), 90, np.uint8)
    points = None if attention.layout.bev_shape is None else np.zeros((5, 4))
    path = tmp_path / "new" / "x.png"
    caption = draw_attention(path, attention, images, points, "title", ["CAM_FRONT", "CAM_BACK"])
    with Image.open(path) as image:
        assert image.width == pytest.approx(110 * (3.1 * columns + 0.5), abs=2)
        assert image.info["Description"] == caption
