"""Which sensors a sample has: the ground truth of the router, set by corruptions and by sensor dropout."""

from __future__ import annotations

from enum import IntEnum


class SensorState(IntEnum):
    """State of a sample's sensors; the numbers are those of ``sensor_state`` in a batch's metadata."""

    CLEAN = 0
    NO_LIDAR = 1
    NO_CAMERAS = 2
