"""The paired scene bootstrap: the same draws for everybody, what pairing removes, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_boxes import CONFIG, made_up

from aqr_bench.metrics.bootstrap import Resampled, paired_scene_bootstrap, resample, scene_draws
from aqr_bench.metrics.matches import Matches, match_boxes


def model(seed: int = 0, quality: float = 1.0, scenes: int = 12) -> Matches:
    truth, found, scene_of = made_up(scenes, seed=seed, quality=quality)
    return match_boxes(truth, found, scene_of, CONFIG)


def test_draws_are_the_same_for_everybody_and_draw_every_scene_once_on_average():
    draws = scene_draws(20)
    assert draws.shape == (1000, 20) and (draws.sum(1) == 20).all() and abs(draws.mean(0) - 1).max() < 0.15
    scene_draws.cache_clear()
    assert (scene_draws(20) == draws).all() and not scene_draws(20).flags.writeable


def test_resampling_is_the_map_of_each_draw():
    matches = model()
    found = resample(matches, draws=50)
    assert found.value == matches.map()[0] and found.draws.shape == (50,)
    assert found.draws[7] == matches.map(scene_draws(12, 50)[7:8])[0]
    sd = found.draws.std(ddof=1)
    assert 0 < sd < 0.1 and found.draws.mean() == pytest.approx(found.value, abs=2 * sd)


def test_equal_models_differ_by_nothing():
    one = resample(model(), 100)
    found = paired_scene_bootstrap({0: one}, {0: one})
    assert (found.mean, found.low, found.high, found.sd) == (0, 0, 0, 0)


def test_pairing_on_scenes_beats_either_models_own_noise():
    """A slightly better model: its own scene noise hides the difference, that of the difference does not."""
    worse, better = resample(model()), resample(model(quality=1.1))
    found = paired_scene_bootstrap({3: better}, {3: worse})
    assert found.mean == better.value - worse.value and found.scenes == 12 and found.seeds == 1
    assert 0 < found.low < found.mean < found.high
    assert found.sd < 0.5 * np.hypot(better.draws.std(ddof=1), worse.draws.std(ddof=1))
    back = paired_scene_bootstrap({3: worse}, {3: better})
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_the_mean_over_common_seeds_is_what_is_resampled():
    rng = np.random.default_rng(0)
    scenes = tuple("abcdefgh")
    runs = [Resampled(scenes, v, v + rng.normal(0, 0.01, 500)) for v in (0.3, 0.4, 0.1, 0.2)]
    found = paired_scene_bootstrap({0: runs[0], 1: runs[1], 2: runs[0]}, {0: runs[2], 1: runs[3], 5: runs[3]})
    deltas = (runs[0].draws - runs[2].draws + runs[1].draws - runs[3].draws) / 2
    assert found.seeds == 2 and found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))


def test_nothing_is_said_of_few_scenes_or_of_other_scenes():
    assert resample(model(scenes=7)) is None
    one = resample(model(), 10)
    assert paired_scene_bootstrap({0: one}, {1: one}) is None
    assert paired_scene_bootstrap({0: one}, {0: replace(one, scenes=one.scenes[::-1])}) is None
