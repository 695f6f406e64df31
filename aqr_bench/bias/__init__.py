"""The attention bias under test, torch alone: windows, router, generator, biased attention, locality prior."""

from aqr_bench.bias.attention.dispatch import BACKENDS, biased_attention, choose_backend
from aqr_bench.bias.attention.window import GuardCount, count_guarded
from aqr_bench.bias.custom_router import RouterInput, check_router, register_router
from aqr_bench.bias.generator import AttentionBias, BiasOutput
from aqr_bench.bias.layout import MemoryLayout, project_to_cameras
from aqr_bench.bias.locality_prior import LocalityPrior, Prior
from aqr_bench.bias.router import QueryRouter, RouterWeights
from aqr_bench.bias.windows import WindowBias, grid_windows, window_bias

__all__ = [
    "BACKENDS",
    "AttentionBias",
    "BiasOutput",
    "GuardCount",
    "LocalityPrior",
    "MemoryLayout",
    "Prior",
    "QueryRouter",
    "RouterInput",
    "RouterWeights",
    "WindowBias",
    "biased_attention",
    "check_router",
    "choose_backend",
    "count_guarded",
    "grid_windows",
    "project_to_cameras",
    "register_router",
    "window_bias",
]
