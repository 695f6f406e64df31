"""A made-up sample for the tests of viewers: a cloud, two cameras, one box of every outcome, and attention."""

from __future__ import annotations

import numpy as np

from aqr_bench.bias import MemoryLayout
from aqr_bench.engine.attention_maps import LayerAttention, QueryAttention
from aqr_bench.report.figures.detections import DrawnBoxes
from aqr_bench.report.viewer.sample_view import QueryViews, SampleView

FOCAL, CENTRE = 100.0, (80.0, 45.0)
# A camera at the origin of the LiDAR frame that looks along y: u grows with x, v with falling z.
LOOKING_ALONG_Y = np.array([[FOCAL, CENTRE[0], 0, 0], [0, CENTRE[1], -FOCAL, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
BOX = [0.0, 10.0, 0.0, 2.0, 4.0, 2.0, 0.0]  # 2 m along x, 4 m along y, 2 m high


def made_up_view(points: int = 500, model: str = "cross seed 0", condition: str = "clean", **changes) -> SampleView:
    """The first detection and the first object match; the others are a false positive and a missed object."""
    rng = np.random.default_rng(0)
    cloud = np.c_[rng.uniform(-30, 30, (points, 2)), rng.uniform(-2, 3, points), rng.uniform(0, 100, points)]
    image = rng.integers(0, 255, (90, 160, 3), dtype=np.uint8)
    away = [12.0, -10.0, 0.0, 2.0, 1.0, 1.5, 0.5]
    fields = dict(
        model=model,
        condition=condition,
        token="abcdef0123456789",
        scene="scene",
        timestamp_s=1.5e9,
        points_P4=cloud.astype(np.float32),
        images={"CAM_BACK": image, "CAM_FRONT": image},
        lidar2img={"CAM_BACK": LOOKING_ALONG_Y * [[1], [1], [-1], [1]], "CAM_FRONT": LOOKING_ALONG_Y},
        detections=DrawnBoxes(np.array([BOX, away]), ["car", "bus"], np.array([0.9, 0.4])),
        threshold=0.3,
        truth=DrawnBoxes(np.array([BOX, [-5.0, -8.0, *BOX[2:]]]), ["car", "car"]),
        true_positive_D=np.array([True, False]),
        detected_T=np.array([True, False]),
        queries=QueryViews(
            reference_Q3=np.array([[0.0, 10.0, 0.0], [5.0, 5.0, 0.0]]),
            score_Q=np.array([0.9, 0.1], np.float32),
            weight_Q2=np.array([[1.0, -1.0], [0.25, 0.5]], np.float32),
            bev_window_Q4=np.array([[-1.0, 9.0, 1.0, 11.0], [4.0, 4.0, 6.0, 6.0]]),
            camera_windows_W6=np.array([[0, 1, 0.25, 0.5, 0.5, 0.75]]),
        ),
        attention={
            "highest score": made_up_attention(layers=2),
            "highest false positive": made_up_attention(query=1, layers=2),
        },
    )
    return SampleView(**{**fields, **changes})


def made_up_attention(bev=(4, 4), cameras=(2, 2, 3), layers: int = 1, query: int = 7) -> QueryAttention:
    """Without the bias attention is uniform, with it half of it is inside of two cells: in BEV and in an image."""
    layout = MemoryLayout(bev, cameras, (-8.0, -8.0, -5.0, 8.0, 8.0, 3.0))
    keys = layout.num_keys
    window = np.zeros(keys, bool)
    window[[1, keys - 1]] = True
    biased = np.where(window, 0.25, 0.5 / (keys - 2))
    layers = (LayerAttention(biased, np.full(keys, 1 / keys)),) * layers
    pixel = np.array([[np.nan, np.nan], [0.9, 0.8]])
    return QueryAttention(query, 0.4, np.array([-3.0, -7.0, 0.0]), pixel, (0.5, -0.5), layout, layers, window)
