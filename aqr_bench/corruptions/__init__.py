"""Sensor corruptions: one registry of pure, seeded functions on raw sensor data, before sweeps are merged."""

from aqr_bench.corruptions.fingerprint import Fingerprint, sample_fingerprint
from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, History, View
from aqr_bench.corruptions.registry import Corruption, RandomStream, Registry, corrupt, sample_rng
from aqr_bench.corruptions.suites import SUITES

CORRUPTIONS = Registry(corruption for suite in SUITES for corruption in suite.CORRUPTIONS)
get_corruption = CORRUPTIONS.get_corruption

__all__ = [
    "CORRUPTIONS",
    "Cloud",
    "Corruption",
    "Fingerprint",
    "Frame",
    "FrameError",
    "History",
    "RandomStream",
    "Registry",
    "View",
    "corrupt",
    "get_corruption",
    "sample_fingerprint",
    "sample_rng",
]
