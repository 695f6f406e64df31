"""aqr-bench: train, evaluate and compare CMT + AQR detectors across designs and sensor conditions."""

__version__ = "0.1.0"
