"""Do 95 % intervals cover the true value 95 times in 100? Simulated detections; true mAP from a large population."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_boxes import CONFIG, random_boxes
from metrics_devkit import match_boxes

from aqr_bench.metrics.bootstrap import paired_scene_bootstrap, resample
from aqr_bench.metrics.matches import ClassMatches, Matches

SIMULATIONS, SCENES, POPULATION = 500, 60, 3000


def detect(rng, like: Matches, ease: np.ndarray, objects: np.ndarray, skill: float) -> Matches:
    """Matches of one class: a scene is easy or hard for every model; objects are detected by chance."""
    scene = np.repeat(np.arange(len(ease)), objects)
    hit = rng.random(len(scene)) < ease[scene] * skill
    false = rng.poisson(6 * (1 - ease) + 1)
    scenes = np.concatenate([scene[hit], np.repeat(np.arange(len(ease)), false)])
    score = np.concatenate([rng.beta(3, 2, hit.sum()), rng.beta(2, 3, false.sum())])
    order = np.argsort(-score, kind="stable")
    tp = np.concatenate([np.ones(hit.sum(), bool), np.zeros(false.sum(), bool)])[order]
    cars = ClassMatches(score[order], scenes[order], np.repeat(tp[:, None], len(like.distances), 1), objects)
    return replace(like, scenes=tuple(map(str, range(len(ease)))), classes={"car": cars})


@pytest.fixture(scope="module")
def like() -> Matches:
    return match_boxes(*random_boxes(8, seed=0), CONFIG)


@pytest.mark.slow
def test_intervals_of_a_score_and_of_a_difference_cover_the_true_value(like):
    rng = np.random.default_rng(7)
    ease, objects = rng.beta(4, 2, POPULATION), rng.poisson(12, POPULATION) + 1
    true = [float(detect(rng, like, ease, objects, skill).map()[0]) for skill in (0.9, 1.0)]
    inside = np.zeros(2)
    for _ in range(SIMULATIONS):
        ease, objects = rng.beta(4, 2, SCENES), rng.poisson(12, SCENES) + 1
        runs = [resample(detect(rng, like, ease, objects, skill), 400) for skill in (0.9, 1.0)]
        low, high = np.percentile(runs[1].draws, [2.5, 97.5])
        inside[0] += low <= true[1] <= high
        interval = paired_scene_bootstrap({0: runs[1]}, {0: runs[0]})
        inside[1] += interval.low <= true[1] - true[0] <= interval.high
    coverage = inside / SIMULATIONS
    print(f"coverage of 95 % intervals: mAP {coverage[0]:.3f}, paired difference {coverage[1]:.3f}")
    assert ((coverage >= 0.92) & (coverage <= 0.98)).all(), coverage
