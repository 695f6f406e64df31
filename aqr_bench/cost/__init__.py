"""Costs of a model: time, memory, FLOPs and parameters, each measured by a separate module."""
