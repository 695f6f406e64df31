"""Ground truth and filter equal the devkit's, bit by bit."""

from __future__ import annotations

import metrics_devkit
import numpy as np
import pytest
from metrics_boxes import CONFIG, assert_equal
from metrics_devkit import from_eval_boxes
from metrics_tables import SCENES, make_tables
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox

from aqr_bench.errors import UserError
from aqr_bench.metrics.ground_truth import filter_boxes, ground_truth, read_split


@pytest.mark.parametrize("seed", range(3))
def test_ground_truth_is_the_devkits(seed):
    tables = make_tables(seed=seed)
    expected = add_center_dist(tables, load_gt(tables, "val", DetectionBox))
    everything = read_split(tables, "val")
    samples, unfiltered = everything.samples, everything.boxes
    assert list(samples.tokens) == expected.sample_tokens and samples.scenes == SCENES[:2]
    assert_equal(unfiltered, from_eval_boxes(expected, samples.index_by_token))
    has_velocity = np.isfinite(unfiltered.velocity).all(1)
    assert 0 < has_velocity.sum() < len(has_velocity) and (unfiltered.attribute == -1).any()
    left = from_eval_boxes(filter_eval_boxes(tables, expected, CONFIG.class_range), samples.index_by_token)
    truth = ground_truth(tables, "val", CONFIG.class_range)
    assert_equal(truth.boxes, left)
    assert 0 < len(left) < len(unfiltered) and ground_truth(tables, "val", CONFIG.class_range) is truth


def detections(tables) -> EvalBoxes:
    """Around every annotation, half of them cycles; some on the very faces of racks, some without points."""
    rng, boxes = np.random.default_rng(0), EvalBoxes()
    for sample in tables.sample:
        if not sample["token"].startswith(SCENES[:2]):
            continue
        boxes_here = []
        for record in (tables.get("sample_annotation", token) for token in sample["anns"]):
            width, length, _ = record["size"]
            half = np.array(rng.choice([0, 1, 1.0001, 0.5], 2)) * [length, width] / 2
            angle = 2 * np.arctan2(record["rotation"][3], record["rotation"][0])
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            name = DETECTION_NAMES[rng.integers(10)] if rng.uniform() < 0.5 else "bicycle"
            position = np.add(record["translation"], [*(turn @ half), rng.choice([0, 1.25])])
            points = int(rng.choice([-1, -1, 0, 3]))
            boxes_here.append(
                DetectionBox(sample["token"], tuple(position.tolist()), detection_name=name, num_pts=points)
            )
        boxes.add_boxes(sample["token"], boxes_here)
    return boxes


def test_detections_are_filtered_as_the_devkit_filters_them():
    tables = make_tables(80)
    boxes = add_center_dist(tables, detections(tables))
    samples = read_split(tables, "val").samples
    before = from_eval_boxes(boxes, samples.index_by_token)
    ours = metrics_devkit.filter_eval_boxes(tables, add_center_dist(tables, detections(tables)), CONFIG.class_range)
    expected = filter_eval_boxes(tables, boxes, CONFIG.class_range)
    assert ours == expected
    left = filter_boxes(before, samples, CONFIG.class_range)
    assert_equal(left, from_eval_boxes(expected, samples.index_by_token))
    cycles = [(b.label == DETECTION_NAMES.index("bicycle")) & (b.points != 0) for b in (before, left)]
    near = np.hypot(*(before.translation[:, :2] - samples.ego[before.sample]).T) < 40
    assert 0 < cycles[1].sum() < (cycles[0] & near).sum()  # some of those in range are removed by racks


def test_the_edge_of_the_range_is_outside():
    tables = make_tables(20)
    samples = read_split(tables, "val").samples
    x, y = samples.ego[0]
    positions = [(x + 50.0, y, 0.0), (x + np.nextafter(50.0, 0) - 1e-9, y, 0.0), (x + 30.0, y + 40.0, 0.0)]
    boxes = EvalBoxes()
    boxes.add_boxes(samples.tokens[0], [DetectionBox(samples.tokens[0], position) for position in positions])
    inside = filter_boxes(from_eval_boxes(boxes, samples.index_by_token), samples, CONFIG.class_range)
    expected = filter_eval_boxes(tables, add_center_dist(tables, boxes), CONFIG.class_range)
    assert_equal(inside, from_eval_boxes(expected, samples.index_by_token))
    assert len(inside) == 1


def test_tables_without_samples_or_objects_are_refused():
    tables = make_tables()
    with pytest.raises(UserError, match="no sample of split"):
        read_split(tables, "mini_val")
    for record in tables.sample_annotation:
        record["category_name"] = "animal"
    with pytest.raises(UserError, match="no object"):
        read_split(tables, "val")


def test_two_attributes_are_refused():
    tables = make_tables()
    for record in tables.sample_annotation:
        record["attribute_tokens"] = ["tvehicle.parked", "tcycle.with_rider"]
    with pytest.raises(UserError, match="more than one attribute"):
        read_split(tables, "val")


def test_an_attribute_that_nuscenes_does_not_have_is_named():
    tables = make_tables()
    tables.attribute.append({"token": "own", "name": "parked illegally"})
    for record in tables.sample_annotation:
        record["attribute_tokens"] = ["own"]
    with pytest.raises(UserError, match=r"has the attribute 'parked illegally', which nuScenes does not have") as error:
        read_split(tables, "val")
    assert "data.attributes" in error.value.remedy
