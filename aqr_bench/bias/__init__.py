"""The attention bias under test, torch alone: windows, router, generator, biased attention, locality prior."""

from .attention import BACKENDS, biased_attention, choose_backend
from .corrected import GuardCount, count_guarded
from .generator import AttentionBias, BiasOutput
from .layout import MemoryLayout, project_to_cameras
from .prior import LocalityPrior, Prior
from .router import QueryRouter, router_loss, sensor_weights
from .windows import GridWindow, WindowBias, bev_window, camera_windows, grid_windows, self_window, window_bias

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
