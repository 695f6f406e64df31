"""Slices: a partition of the objects, false positives by the detection's own value, and ``all`` as the metric."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_boxes import CONFIG, random_boxes
from metrics_devkit import match_boxes
from metrics_matches import DESCRIPTIONS, with_properties
from nuscenes.eval.detection.constants import DETECTION_NAMES

from aqr_bench.metrics.boxes import PROPERTIES
from aqr_bench.metrics.matches import Matches
from aqr_bench.metrics.nuscenes import evaluate
from aqr_bench.metrics.slices import ALL, BINS, SCENE_SLICES, has_slices, scene_condition, slice_scores


@pytest.fixture(scope="module")
def case():
    return with_properties()


@pytest.fixture(scope="module")
def scores(case):
    return slice_scores(case[2], draws=50)


def test_all_is_the_metric(case, scores):
    boxes, _, matches = case
    assert scores[ALL].value == matches.map()[0]
    assert scores[ALL].value == pytest.approx(evaluate(*boxes, 20, CONFIG).summary["mean_ap"], abs=1e-12)
    assert scores[ALL].objects == len(boxes[0]) and scores[ALL].classes == 3


def test_slices_of_a_criterion_are_a_partition_of_the_objects(case, scores):
    criteria = dict.fromkeys(criterion for criterion, _ in scores)
    assert set(criteria) == {"all", *SCENE_SLICES, *BINS}
    for criterion in criteria:
        of_criterion = [score for key, score in scores.items() if key[0] == criterion]
        assert sum(score.objects for score in of_criterion) == len(case[0][0]), criterion
        assert criterion == "all" or len(of_criterion) > 1
    assert {name for criterion, name in scores if criterion == "speed"} == {"stationary", "slow", "fast", "unknown"}


def test_a_slice_of_scenes_is_the_metric_on_these_scenes(case, scores):
    """Over the classes that have an object there."""
    boxes, _, matches = case
    night = np.array(["night" in text.lower() for text in matches.descriptions])
    inside = [side[night[matches.scene_of_sample[side.sample]]] for side in boxes]
    result = evaluate(*inside, 20, CONFIG).summary
    present = {DETECTION_NAMES[label] for label in inside[0].label}
    expected = np.mean([result["mean_dist_aps"][name] for name in present])
    assert scores["light", "night"].value == pytest.approx(expected, abs=1e-12)
    assert scores["light", "night"].scenes == 2 and scores["light", "night"].resampled is None  # too few scenes
    assert scores["light", "day"].resampled is None and scores["range", "0-20 m"].resampled is not None


@pytest.mark.parametrize("criterion", ["range", "size", "lidar_points"])
def test_a_slice_by_object_ignores_what_is_matched_elsewhere(case, scores, criterion):
    """A slow computation of the same rule: unmatched detections by their own value, or all where they have none."""
    boxes, properties, _ = case
    column = PROPERTIES.index(BINS[criterion].column)
    name = BINS[criterion].names[1]
    inside = BINS[criterion].of(properties[0][:, column]) == 1
    own = BINS[criterion].of(properties[1][:, column]) == 1 if column < 3 else np.ones(len(boxes[1]), bool)
    matching = evaluate(*boxes, 20, CONFIG).matching
    values = {}
    for class_name in CONFIG.class_names:
        label = DETECTION_NAMES.index(class_name)
        positives = int((inside & (boxes[0].label == label)).sum())
        if not positives:
            continue
        aps = []
        for d in range(4):
            hits = []
            part = matching.of(label)
            for row, taken in zip(matching.order[part], matching.matched[part, d], strict=True):
                if inside[taken] if taken >= 0 else own[row]:
                    hits.append(taken >= 0)
            recall, precision = np.cumsum(hits) / positives, np.cumsum(hits) / np.arange(1, len(hits) + 1)
            grid = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)[11:] if any(hits) else np.zeros(90)
            aps.append(np.maximum(grid - 0.1, 0).mean() / 0.9)
        values[class_name] = np.mean(aps)
    assert scores[criterion, name].value == pytest.approx(np.mean(list(values.values())), abs=1e-12)
    assert scores[criterion, name].classes == len(values) > 1


def test_the_words_of_a_description():
    light = ("Night, bus", "Synthetic, dusk, crossing", "", "day")
    assert [scene_condition("light", text) for text in light] == [2, 1, 0, 0]
    rain = ("Rain", "After rain", "rainy street", "train station, drains", "")
    assert [scene_condition("rain", text) for text in rain] == [1, 1, 1, 0, 0]


def test_draws_are_the_same_for_every_model(case, scores):
    """So that differences of two models are paired."""
    matches = case[2]
    assert scores[ALL].resampled.draws.shape == (50,) and scores[ALL].resampled.value == scores[ALL].value
    again = slice_scores(matches, draws=50)
    assert all((again[key].resampled is None) == (score.resampled is None) for key, score in scores.items())
    assert (again["speed", "slow"].resampled.draws == scores["speed", "slow"].resampled.draws).all()


def test_properties_survive_the_file_and_older_files_have_no_slices(case, scores, tmp_path):
    matches = case[2]
    loaded = Matches.load(matches.save(tmp_path / "matches.npz"))
    again = slice_scores(loaded, 0)
    assert loaded.descriptions == DESCRIPTIONS
    assert {key: score.value for key, score in again.items()} == {key: score.value for key, score in scores.items()}
    truth, detections, scene_of = random_boxes()
    older = match_boxes(truth, detections, scene_of, CONFIG)
    assert not has_slices(older) and has_slices(loaded)
    with pytest.raises(ValueError, match="no properties"):
        slice_scores(older, 0)
