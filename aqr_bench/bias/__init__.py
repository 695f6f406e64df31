"""The attention bias under test, torch alone: windows, router, generator, biased attention, locality prior."""

from aqr_bench.bias.attention.dispatch import BACKENDS, biased_attention, choose_backend
from aqr_bench.bias.attention.window import GuardCount, count_guarded
from aqr_bench.bias.generator import AttentionBias, BiasOutput
from aqr_bench.bias.layout import MemoryLayout, project_to_cameras
from aqr_bench.bias.locality_prior import LocalityPrior, Prior
from aqr_bench.bias.router import QueryRouter, RouterWeights, router_loss, sensor_weights
from aqr_bench.bias.windows import (
    GridWindow,
    WindowBias,
    bev_window,
    camera_windows,
    grid_windows,
    self_window,
    window_bias,
)

__all__ = [
    "BACKENDS",
    "AttentionBias",
    "BiasOutput",
    "GridWindow",
    "GuardCount",
    "LocalityPrior",
    "MemoryLayout",
    "Prior",
    "QueryRouter",
    "RouterWeights",
    "WindowBias",
    "bev_window",
    "biased_attention",
    "camera_windows",
    "choose_backend",
    "count_guarded",
    "grid_windows",
    "project_to_cameras",
    "router_loss",
    "self_window",
    "sensor_weights",
    "window_bias",
]
