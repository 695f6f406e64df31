"""Means, paired differences with their confidence intervals, and the verdict on a difference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from scipy import stats

from aqr_bench.metrics.bootstrap import SceneInterval

K = TypeVar("K", bound=Hashable)
CONFIDENCE = 0.95
# Half of the last digit that the tables print. Below it nothing is claimed: with two seeds, two equal differences of
# 0.0001 would have an interval without 0, by chance of the seeds rather than by design.
MIN_DIFFERENCE = 0.0005
FEW_SEEDS = 3  # fewer seeds than this are marked


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1) over seeds; ``sd`` is None for fewer than two, ``mean`` for none."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class ScoreDifference:
    """Mean difference to the baseline over the seeds both have, and its uncertainty.

    low, high  95 % interval over seeds (Student t); None for fewer than two seeds
    sd         standard deviation of the differences over seeds; None likewise
    scenes     interval over scenes (bootstrap); None where there is none
    p_seeds    two-sided p-value of the t-test that the interval belongs to; None for fewer than two seeds
    p_holm     ``p`` corrected for the ``comparisons`` that were made with it (Holm); None without a p-value
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    sd: float | None = None
    scenes: SceneInterval | None = None
    p_seeds: float | None = None
    p_holm: float | None = None
    comparisons: int = 1

    @property
    def p_scenes(self) -> float | None:
        """Two-sided p-value over scenes; None where there is no interval over scenes."""
        return None if self.scenes is None else scene_p_value(self.scenes)

    @property
    def p(self) -> float | None:
        """The larger of both p-values: a finding has to hold over seeds and over scenes.

        The test of "no difference over seeds, or none over scenes" at a level rejects where both tests do
        (intersection-union test, Berger 1982, Technometrics 24). None without a p-value over seeds.
        """
        if self.p_seeds is None:
            return None
        return self.p_seeds if self.p_scenes is None else max(self.p_seeds, self.p_scenes)

    @property
    def survives(self) -> bool:
        """True if it is beyond the noise, also after the correction for the number of comparisons."""
        return self.beyond_noise and self.p_holm is not None and self.p_holm < 1 - CONFIDENCE

    @property
    def beyond_noise(self) -> bool:
        """True if the difference is not rounded to 0 in the tables, and neither interval contains 0.

        Without an interval over seeds nothing is claimed: two trained models differ beyond their scenes, whatever the
        design. An interval over scenes counts where there is one.
        """
        if self.low is None or self.high is None or abs(self.mean) < MIN_DIFFERENCE:
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


def paired_difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> ScoreDifference | None:
    """Difference variant - baseline, paired by seed, with a Student t interval of 95 %.

    The interval and the p-value are those of the paired t-test over seeds. None if no seed has both.
    """
    seeds = sorted(set(variant) & set(baseline))
    deltas = [variant[s] - baseline[s] for s in seeds if math.isfinite(variant[s]) and math.isfinite(baseline[s])]
    summary = summarise(deltas)
    if summary.mean is None:
        return None
    if summary.sd is None:
        return ScoreDifference(summary.n, summary.mean, None, None)
    if summary.sd == 0:  # all differences equal: the test divides by 0
        return ScoreDifference(
            summary.n, summary.mean, summary.mean, summary.mean, 0.0, p_seeds=0.0 if summary.mean else 1.0
        )
    with warnings.catch_warnings():
        # Nearly equal differences: the p-value is then inexact, but practically 0.
        warnings.filterwarnings("ignore", "Precision loss occurred")
        test = stats.ttest_1samp(deltas, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return ScoreDifference(
        summary.n, summary.mean, float(interval.low), float(interval.high), summary.sd, p_seeds=float(test.pvalue)
    )


def scene_p_value(scenes: SceneInterval) -> float:
    """Two-sided p-value of no difference over scenes, from the bootstrap's standard error.

    Student t with one degree of freedom less than there are scenes. Counting the draws beyond 0 instead could give
    nothing below 1 / draws, which no correction for many comparisons would leave below 0.05.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 12.2 and 12.4.
    """
    if scenes.sd == 0:
        return 1.0 if scenes.mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(scenes.mean) / scenes.sd, scenes.scenes - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the same order: the chance of a single false finding among them.

    Source: Holm 1979, Scand. J. Statist. 6, 65-70 (scipy has corrections of the false discovery rate only).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def correct(deltas: Mapping[K, ScoreDifference | None]) -> dict[K, ScoreDifference | None]:
    """The differences with ``p_holm`` and ``comparisons`` set: one family, those without a p-value left out of it."""
    tested = [key for key, d in deltas.items() if d is not None and d.p is not None]
    corrected = holm([deltas[key].p for key in tested])
    new = {
        key: replace(deltas[key], p_holm=p, comparisons=len(tested)) for key, p in zip(tested, corrected, strict=True)
    }
    return {key: new.get(key, d) for key, d in deltas.items()}


def verdict(difference: ScoreDifference | None, higher_is_better: bool) -> str:
    """Verdict: better, worse, within the noise, no noise estimate (one seed), or not comparable."""
    if difference is None:
        return "not comparable"
    if difference.low is None:
        return "one seed, noise unknown"
    if not difference.beyond_noise:
        return "within the noise"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"


def corrected_verdict(difference: ScoreDifference | None, higher_is_better: bool) -> str:
    """``verdict`` after the correction for the number of comparisons."""
    single = verdict(difference, higher_is_better)
    return "within the noise" if single in ("better", "worse") and not difference.survives else single


def p_text(p: float | None) -> str:
    """A p-value as text: three digits, ``< 0.001`` below, a dash for nothing."""
    if p is None or not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number as text: fixed digits, a true minus sign, a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def seeds_text(seeds: int) -> str:
    """``3``, or ``2, fewer than three``."""
    return f"{seeds}, fewer than three" if seeds < FEW_SEEDS else str(seeds)


def phrase(difference: ScoreDifference, metric: str) -> str:
    """``+0.012 mAP, 95 % interval −0.003 to +0.027, 3 seeds``; both intervals where there is one over scenes."""
    seeds = "1 seed" if difference.n == 1 else f"{difference.n} seeds"
    text = f"{number(difference.mean, sign=True)} {metric}"
    over_seeds = None if difference.low is None else span(difference.low, difference.high)
    if difference.scenes is None:
        return f"{text}, {seeds}" if over_seeds is None else f"{text}, 95 % interval {over_seeds}, {seeds}"
    over_scenes = f"{span(difference.scenes.low, difference.scenes.high)} over {difference.scenes.scenes} scenes"
    first = seeds if over_seeds is None else f"95 % interval {over_seeds} over {seeds}"
    return f"{text}, {first}, {over_scenes if over_seeds else f'95 % interval {over_scenes}'}"


def span(low: float | None, high: float | None, sign: bool = True) -> str:
    """``−0.003 to +0.027``; a dash for nothing."""
    return "–" if low is None or high is None else f"{number(low, sign=sign)} to {number(high, sign=sign)}"


def difference_data(difference: ScoreDifference | None, scenes: str = "scenes") -> dict[str, float | None]:
    """Columns of a CSV: a difference, its intervals over seeds and over ``scenes``, which begins those names."""
    mean = low = high = scenes_low = scenes_high = None
    if difference is not None:
        mean, low, high = difference.mean, difference.low, difference.high
        if difference.scenes is not None:
            scenes_low, scenes_high = difference.scenes.low, difference.scenes.high
    intervals = {"low95": low, "high95": high, f"{scenes}_low95": scenes_low, f"{scenes}_high95": scenes_high}
    return {"difference": mean, **intervals}


def difference_text(difference: ScoreDifference | None, digits: int = 3) -> tuple[str, str, str, str]:
    """A difference, its intervals over seeds and over scenes, and the corrected p-value; dashes where there is none."""
    if difference is None:
        return ("–",) * 4
    scenes = span(difference.scenes.low, difference.scenes.high) if difference.scenes else "–"
    mean = number(difference.mean, digits, sign=True)
    return mean, span(difference.low, difference.high), scenes, p_text(difference.p_holm)
