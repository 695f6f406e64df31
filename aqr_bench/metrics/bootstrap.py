"""How far a score, or a difference of scores, depends on the scenes it was measured on: the paired scene bootstrap.

Scenes are drawn with replacement, the same draws for every model, and the scores are recomputed on each draw. What is
hard or easy about a scene is so for both sides and cancels in a comparison; seeds of the training are not resampled.
Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval, section 13.3.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aqr_bench.metrics.matches import Matches

DRAWS = 1000
SEED = 20240501
MIN_SCENES = 8  # below, so few different draws exist that an interval from them would look far too sure


@dataclass(frozen=True)
class Resampled:
    """A score of one model on all its scenes, and on every draw of them [draws]."""

    scenes: tuple[str, ...]
    value: float
    draws: np.ndarray


@dataclass(frozen=True)
class SceneInterval:
    """Difference of a score, mean over the seeds both sides have; 95 % interval and sd over draws of scenes."""

    seeds: int
    scenes: int
    mean: float
    low: float
    high: float
    sd: float


@functools.lru_cache(maxsize=4)
def scene_draws(scenes: int, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """How often each scene is in each draw [draws, scenes]; a function of the arguments alone, so shared by all."""
    chance = np.full(scenes, 1 / scenes)
    weights = np.random.default_rng(seed).multinomial(scenes, chance, size=draws)
    weights.setflags(write=False)
    return weights


def resample(matches: Matches, draws: int = DRAWS) -> Resampled | None:
    """mAP of a model on every draw; None with too few scenes."""
    if len(matches.scenes) < MIN_SCENES:
        return None
    value = float(matches.map()[0])
    return Resampled(matches.scenes, value, matches.map(scene_draws(len(matches.scenes), draws)))


def paired_scene_bootstrap(
    variant: Mapping[int, Resampled], baseline: Mapping[int, Resampled], confidence: float = 0.95
) -> SceneInterval | None:
    """Interval of variant - baseline by seed; None where no seed has both, or where the scenes are not the same."""
    seeds = sorted(set(variant) & set(baseline))
    if not seeds or len({run[s].scenes for run in (variant, baseline) for s in seeds}) > 1:
        return None
    deltas = np.mean([variant[s].draws - baseline[s].draws for s in seeds], axis=0)
    mean = float(np.mean([variant[s].value - baseline[s].value for s in seeds]))
    tail = 50 * (1 - confidence)
    low, high = map(float, np.percentile(deltas, [tail, 100 - tail]))
    return SceneInterval(len(seeds), len(variant[seeds[0]].scenes), mean, low, high, float(deltas.std(ddof=1)))
