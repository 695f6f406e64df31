"""The real keyframe's points, numbered."""

import numpy as np
import pytest
from corruption_frames import real_keyframe


@pytest.fixture(scope="session")
def numbered(keyframe):
    """The real keyframe's points; column 4 numbers them, so that those left can be found again."""
    points = real_keyframe(keyframe).clouds[0].points.copy()
    points[:, 4] = np.arange(len(points))
    return points
