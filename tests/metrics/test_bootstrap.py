"""The paired scene bootstrap: the same draws for all models, what pairing removes, and when there is no interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_boxes import CONFIG, random_boxes
from metrics_devkit import match_boxes

from aqr_bench.metrics.bootstrap import Resampled, paired_scene_bootstrap, resample, scene_draws
from aqr_bench.metrics.matches import Matches


def model(seed: int = 0, quality: float = 1.0, scenes: int = 12) -> Matches:
    return match_boxes(*random_boxes(scenes, seed=seed, quality=quality), CONFIG)


def test_draws_are_the_same_for_all_models_and_have_every_scene_once_on_average():
    draws = scene_draws(20)
    assert draws.shape == (1000, 20) and (draws.sum(1) == 20).all() and abs(draws.mean(0) - 1).max() < 0.15
    scene_draws.cache_clear()
    assert (scene_draws(20) == draws).all() and not scene_draws(20).flags.writeable


def test_resampling_is_the_map_of_each_draw():
    matches = model()
    score = resample(matches, draws=50)
    assert score.value == matches.map()[0] and score.draws.shape == (50,)
    assert score.draws[7] == matches.map(scene_draws(12, 50)[7:8])[0]
    sd = score.draws.std(ddof=1)
    assert 0 < sd < 0.1 and score.draws.mean() == pytest.approx(score.value, abs=2 * sd)


def test_equal_models_differ_by_nothing():
    resampled = resample(model(), 100)
    interval = paired_scene_bootstrap({0: resampled}, {0: resampled})
    assert (interval.mean, interval.low, interval.high, interval.sd) == (0, 0, 0, 0)


def test_pairing_on_scenes_has_less_noise_than_either_score():
    """A slightly better model: the scene noise of its score hides the difference, that of the difference does not."""
    worse, better = resample(model()), resample(model(quality=1.1))
    interval = paired_scene_bootstrap({3: better}, {3: worse})
    assert interval.mean == better.value - worse.value and interval.scenes == 12 and interval.seeds == 1
    assert 0 < interval.low < interval.mean < interval.high
    assert interval.sd < 0.5 * np.hypot(better.draws.std(ddof=1), worse.draws.std(ddof=1))
    back = paired_scene_bootstrap({3: worse}, {3: better})
    assert (back.low, back.high) == pytest.approx((-interval.high, -interval.low))


def test_the_mean_over_common_seeds_is_what_is_resampled():
    rng = np.random.default_rng(0)
    scenes = tuple("abcdefgh")
    runs = [Resampled(scenes, v, v + rng.normal(0, 0.01, 500)) for v in (0.3, 0.4, 0.1, 0.2)]
    interval = paired_scene_bootstrap({0: runs[0], 1: runs[1], 2: runs[0]}, {0: runs[2], 1: runs[3], 5: runs[3]})
    deltas = (runs[0].draws - runs[2].draws + runs[1].draws - runs[3].draws) / 2
    assert interval.seeds == 2 and interval.mean == pytest.approx(0.2)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))


def test_few_or_different_scenes_give_no_interval():
    assert resample(model(scenes=7)) is None
    resampled = resample(model(), 10)
    assert paired_scene_bootstrap({0: resampled}, {1: resampled}) is None
    assert paired_scene_bootstrap({0: resampled}, {0: replace(resampled, scenes=resampled.scenes[::-1])}) is None
