"""Sensor corruptions: one registry of pure, seeded functions on raw sensor data."""

from .conditions import CONDITIONS, Condition, SensorData, corrupt, fingerprint, get_condition, sample_rng

__all__ = ["CONDITIONS", "Condition", "SensorData", "corrupt", "fingerprint", "get_condition", "sample_rng"]
