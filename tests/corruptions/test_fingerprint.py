"""Fingerprints: they differ with any change of the input, and not with the order of the samples."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.corruptions.fingerprint import emptied_sensors, evaluation_fingerprint, sample_fingerprint

POINTS = np.array([[3, 4, 0, 9, 1], [0, 0, 1, 9, 2]], np.float32)
IMAGES = [np.full((2, 3, 3), 10, np.uint8), np.full((4, 4, 3), 30, np.uint8)]
POSE = np.eye(4)


def test_counts_and_means_by_hand():
    fingerprint = sample_fingerprint(POINTS, IMAGES, [POSE])
    # Distances 5 and 1 m; each image counts alike, whatever its size.
    assert (fingerprint.points, fingerprint.views) == (2, 2) and (
        fingerprint.range_m,
        fingerprint.brightness,
    ) == pytest.approx((3.0, 20.0))
    empty = sample_fingerprint(POINTS[:0], [])
    assert (empty.points, empty.range_m, empty.views, empty.brightness) == (0, 0.0, 0, 0.0)


def test_any_change_of_the_input_changes_the_hash():
    moved, shape = POSE + [[0, 0, 0, 1e-12]] * 4, [IMAGES[0].reshape(3, 2, 3), IMAGES[1]]
    inputs = [
        (POINTS, IMAGES, [POSE]),
        (POINTS[::-1], IMAGES, [POSE]),
        (POINTS.astype(np.float64), IMAGES, [POSE]),
        (POINTS, IMAGES[::-1], [POSE]),
        (POINTS, shape, [POSE]),
        (POINTS, IMAGES, [moved]),
        (POINTS, IMAGES, []),
    ]
    assert len({sample_fingerprint(*each).sha256 for each in inputs}) == len(inputs)
    assert sample_fingerprint(np.asfortranarray(POINTS), IMAGES) == sample_fingerprint(POINTS, IMAGES)


def test_the_order_of_samples_is_no_part_of_an_evaluation():
    first, second = sample_fingerprint(POINTS, IMAGES), sample_fingerprint(POINTS[:1], IMAGES[:1])
    both = evaluation_fingerprint({"a": first, "b": second})
    assert both == evaluation_fingerprint({"b": second, "a": first})
    assert both["sha256"] != evaluation_fingerprint({"a": second, "b": first})["sha256"]
    assert (both["samples"], both["points"], both["range_m"]) == (2, 1.5, 4.0)
    assert evaluation_fingerprint({})["samples"] == 0


NONE = frozenset()


def test_samples_without_points_or_images_are_counted():
    full, blank = sample_fingerprint(POINTS, IMAGES), sample_fingerprint(POINTS * 0, [image * 0 for image in IMAGES])
    bare = sample_fingerprint(POINTS[:0], [])
    assert blank.empty_sensors == bare.empty_sensors == {"lidar", "camera"} and not full.empty_sensors
    clean = evaluation_fingerprint({"a": full, "b": full, "c": full})
    some = evaluation_fingerprint({"a": full, "b": blank, "c": bare})
    assert some["without_points"] == some["without_images"] == 2 and not {"without_points", "without_images"} & set(
        clean
    )
    every = evaluation_fingerprint({"a": bare, "b": bare, "c": blank})
    assert emptied_sensors(some, clean, NONE) == {"lidar": 2, "camera": 2}
    assert emptied_sensors(every, clean, frozenset(["camera"])) == {"lidar": 3}
    # What is empty without the condition as well is none of its doing, but is a mistake itself.
    assert emptied_sensors(some, some.copy(), NONE) == {} and emptied_sensors(some, some, NONE) == {
        "lidar": 2,
        "camera": 2,
    }
    assert emptied_sensors(clean, None, NONE) == {}
    lidar_alone = evaluation_fingerprint({"a": sample_fingerprint(POINTS, []), "b": sample_fingerprint(POINTS, [])})
    assert emptied_sensors(lidar_alone, lidar_alone, NONE) == {}
