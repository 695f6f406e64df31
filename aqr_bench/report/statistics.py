"""Means, paired differences with their confidence intervals, and what may be said about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from aqr_bench.metrics.bootstrap import SceneInterval

CONFIDENCE = 0.95
# Half of the last digit that the tables print. Below it nothing is claimed: with two seeds, two equal differences of
# 0.0001 would have an interval without 0, which says more of the seeds than of the design.
RESOLUTION = 0.0005


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1) over seeds; ``sd`` is None for fewer than two, ``mean`` for none."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """Mean difference to the baseline over the seeds both have, and how sure it is.

    low, high  95 % interval over seeds (Student t); None for fewer than two seeds
    sd         standard deviation of the differences over seeds; None likewise
    scenes     interval over scenes (bootstrap); None where it could not be had
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    sd: float | None = None
    scenes: SceneInterval | None = None

    @property
    def beyond_noise(self) -> bool:
        """True if the difference is one that the tables can show, and neither interval contains 0.

        Without an interval over seeds nothing is claimed: two trained models differ beyond their scenes, whatever the
        design. An interval over scenes counts where there is one.
        """
        if self.low is None or self.high is None or abs(self.mean) < RESOLUTION:
            return False
        return all(low > 0 for low, _ in self.intervals) or all(high < 0 for _, high in self.intervals)

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """The intervals that exist: over seeds, over scenes."""
        over_seeds = [] if self.low is None or self.high is None else [(self.low, self.high)]
        return over_seeds + ([] if self.scenes is None else [(self.scenes.low, self.scenes.high)])


def summarise(values: Sequence[float]) -> Summary:
    """Summary of the finite values."""
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    n = len(finite)
    if n == 0:
        return Summary(0, None, None)
    mean = math.fsum(finite) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in finite) / (n - 1)) if n > 1 else None
    return Summary(n, mean, sd)


def interval_half(values: Sequence[float]) -> float | None:
    """Half of the 95 % Student t interval of the mean; None for fewer than two finite values."""
    summary = summarise(values)
    if summary.sd is None:
        return None
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, summary.n - 1)) * summary.sd / math.sqrt(summary.n)


def paired_difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Difference variant - baseline, paired by seed, with a Student t interval of 95 %.

    The interval is mean +- t(n - 1) * sd / sqrt(n) of the per-seed differences. None if no seed has both.
    """
    seeds = sorted(set(variant) & set(baseline))
    deltas = [variant[s] - baseline[s] for s in seeds if math.isfinite(variant[s]) and math.isfinite(baseline[s])]
    summary = summarise(deltas)
    if summary.mean is None:
        return None
    if summary.sd is None:
        return Difference(summary.n, summary.mean, None, None)
    half = interval_half(deltas)
    return Difference(summary.n, summary.mean, summary.mean - half, summary.mean + half, summary.sd)


def verdict(difference: Difference | None, higher_is_better: bool) -> str:
    """What may be said: better, worse, within the noise, no noise estimate (one seed), or not comparable."""
    if difference is None:
        return "not comparable"
    if difference.low is None:
        return "one seed, noise unknown"
    if not difference.beyond_noise:
        return "within the noise"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number for people: fixed digits, a true minus sign, a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def phrase(difference: Difference, metric: str) -> str:
    """``+0.012 mAP, 95 % interval −0.003 to +0.027, 3 seeds``; both intervals where there is one over scenes."""
    seeds = "1 seed" if difference.n == 1 else f"{difference.n} seeds"
    text = f"{number(difference.mean, sign=True)} {metric}"
    over_seeds = None if difference.low is None else span(difference.low, difference.high)
    if difference.scenes is None:
        return f"{text}, {seeds}" if over_seeds is None else f"{text}, 95 % interval {over_seeds}, {seeds}"
    over_scenes = f"{span(difference.scenes.low, difference.scenes.high)} over {difference.scenes.scenes} scenes"
    first = seeds if over_seeds is None else f"95 % interval {over_seeds} over {seeds}"
    return f"{text}, {first}, {over_scenes if over_seeds else f'95 % interval {over_scenes}'}"


def span(low: float | None, high: float | None) -> str:
    """``−0.003 to +0.027``; a dash for nothing."""
    return "–" if low is None or high is None else f"{number(low, sign=True)} to {number(high, sign=True)}"
