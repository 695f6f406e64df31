"""The attention bias under test, torch alone: windows, router, generator, biased attention, locality prior."""

from .attention import BACKENDS, biased_attention
from .generator import AttentionBias, BiasOutput
from .layout import MemoryLayout, project_to_cameras
from .prior import LocalityPrior, Prior
from .router import QueryRouter, router_loss, sensor_weights
from .windows import WindowBias, bev_window, camera_window, self_window

__all__ = [
    "BACKENDS",
    "AttentionBias",
    "BiasOutput",
    "LocalityPrior",
    "MemoryLayout",
    "Prior",
    "QueryRouter",
    "WindowBias",
    "bev_window",
    "biased_attention",
    "camera_window",
    "project_to_cameras",
    "router_loss",
    "self_window",
    "sensor_weights",
]
