"""Sensor corruptions: one registry of pure, seeded functions on raw sensor data, before sweeps are merged."""

from aqr_bench.corruptions.condition import Condition, Draws, Registry, corrupt, sample_rng
from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, History, View
from aqr_bench.corruptions.proof import Proof, fingerprint
from aqr_bench.corruptions.suites import SUITES

CONDITIONS = Registry(condition for suite in SUITES for condition in suite.CONDITIONS)
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
