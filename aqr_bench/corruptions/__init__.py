"""Sensor corruptions: one registry of pure, seeded functions on raw sensor data, before sweeps are merged."""

from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, History, View
from aqr_bench.corruptions.proof import Proof, fingerprint
from aqr_bench.corruptions.registry import Corruption, Draws, Registry, corrupt, sample_rng
from aqr_bench.corruptions.suites import SUITES

CORRUPTIONS = Registry(corruption for suite in SUITES for corruption in suite.CORRUPTIONS)
get_corruption = CORRUPTIONS.get_corruption

__all__ = [
    "CORRUPTIONS",
    "Cloud",
    "Corruption",
    "Draws",
    "Frame",
    "FrameError",
    "History",
    "Proof",
    "Registry",
    "View",
    "corrupt",
    "fingerprint",
    "get_corruption",
    "sample_rng",
]
