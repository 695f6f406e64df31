"""NDS against latency and against memory, with the Pareto front of the variants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aqr_bench.report.collect import Results
from aqr_bench.report.figures.marks import tag
from aqr_bench.report.figures.style import GREY, colours, drop, legend_below
from aqr_bench.report.score_statistics import number, summarise
from aqr_bench.report.tables.study import by_seed
from aqr_bench.study.spec import Study

SCORE = "NDS"
UNITS = {"latency_ms": "latency {:.4g} ms", "peak_rss_mb": "peak memory {:.4g} MB"}
COSTS = (("latency_ms", "latency, ms (median; line to 95th percentile)"), ("peak_rss_mb", "peak memory, MB"))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, score) pairs that no other dominates, by rising cost.

    One dominates another if it costs no more, scores no less, and is not equal to it.
    """
    best_points: list[int] = []
    best = -math.inf
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best or (best_points and points[i] == points[best_points[-1]]):
            best_points.append(i)
            best = points[i][1]
    return best_points


def pareto_figure(study: Study, results: Results) -> Figure | None:
    """NDS in the reference condition (rings: seeds, diamond: mean) against what the variant costs; dashed: the front.

    A diamond on the front is filled. None where nothing was measured.
    """
    reference = study.suite.conditions[0].name
    figure, axes = plt.subplots(1, len(COSTS), figsize=(8.6, 3.4), sharey=True)
    figure.set_layout_engine("constrained")
    drawn: dict[str, None] = {}
    for axis, (cost, label) in zip(axes, COSTS, strict=True):
        drawn |= dict.fromkeys(_panel(axis, study, results, cost, reference))
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(plt.MaxNLocator(5, min_n_ticks=2))
    if not drawn:
        return drop(figure)
    axes[0].set_ylabel(f"{SCORE}, {reference}")
    legend_below(figure, colours(study), [name for name in study.variants if name in drawn])
    return figure


def _panel(axis: Axes, study: Study, results: Results, cost: str, reference: str) -> list[str]:
    """Draw one cost; returns the variants that have both it and a score."""
    palette, points = colours(study), {}
    for row in results.measures.itertuples():
        scores = list(by_seed(results, row.variant, reference, SCORE).values())
        if row.status == "ok" and math.isfinite(getattr(row, cost)) and scores:
            points[row.variant] = (getattr(row, cost), summarise(scores).mean, scores, row.latency_p95_ms)
    names = list(points)
    best = front([points[name][:2] for name in names])
    steps = [points[names[i]] for i in best]
    if len(steps) > 1:
        x, y = [s[0] for s in steps], [s[1] for s in steps]
        axis.plot(x, y, "--", color=GREY, lw=1.1, drawstyle="steps-post", zorder=1)
    for i, (name, (x, mean, scores, p95)) in enumerate(points.items()):
        colour = palette[name]
        marks = []
        if cost == "latency_ms" and math.isfinite(p95):
            marks += axis.plot([x, p95], [mean, mean], "-", color=colour, lw=1.2)
        marks += axis.plot([x] * len(scores), scores, "o", mfc="none", mec=colour, ms=5, alpha=0.8)
        marks += axis.plot(x, mean, "D", color=colour, ms=7, mfc=colour if i in best else "white", mew=1.6, zorder=3)
        hint = f"{name}: {SCORE} {number(mean)}, {UNITS[cost].format(x)}. Runs: {len(scores)}"
        tag(marks, name, reference, hint)
    return names
