"""Corruptions of LiDAR points: noise and loss, and weather by physical models that are integrated here."""
