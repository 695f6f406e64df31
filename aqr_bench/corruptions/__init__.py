"""Sensor corruptions: one registry of pure, seeded functions on raw sensor data, before sweeps are merged."""

from aqr_bench.corruptions.custom import check_corruption, corruption, custom_family, probe_frame
from aqr_bench.corruptions.fingerprint import Fingerprint, sample_fingerprint
from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, History, View
from aqr_bench.corruptions.registry import Corruption, RandomStream, Registry, corrupt, sample_rng
from aqr_bench.corruptions.suites import SUITES

CORRUPTIONS = Registry((entry for suite in SUITES for entry in suite.CORRUPTIONS), custom_family)
get_corruption = CORRUPTIONS.get_corruption
get_composition = CORRUPTIONS.resolve

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
    "check_corruption",
    "corrupt",
    "corruption",
    "get_composition",
    "get_corruption",
    "probe_frame",
    "sample_fingerprint",
    "sample_rng",
]
