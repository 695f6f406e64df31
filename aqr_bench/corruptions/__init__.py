"""Sensor corruptions: one registry of pure, seeded functions on raw sensor data, before sweeps are merged."""

from aqr_bench.corruptions import missing_sensors, multicorrupt, nuscenes_c, nuscenes_r
from aqr_bench.corruptions.condition import Condition, Draws, Registry, corrupt, sample_rng
from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, History, View
from aqr_bench.corruptions.proof import Proof, fingerprint

_SUITES = (missing_sensors, nuscenes_r, multicorrupt, nuscenes_c)
CONDITIONS = Registry(condition for suite in _SUITES for condition in suite.CONDITIONS)
get_condition = CONDITIONS.get_condition

__all__ = [
    "CONDITIONS",
    "Cloud",
    "Condition",
    "Draws",
    "Frame",
    "FrameError",
    "History",
    "Proof",
    "Registry",
    "View",
    "corrupt",
    "fingerprint",
    "get_condition",
    "sample_rng",
]
