"""Figures of a suite of corruptions: resistance (heat map), and score over severity."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aqr_bench.metrics.robustness import CLEAN
from aqr_bench.report.figures.marks import Mark, tag, tag_heatmap
from aqr_bench.report.figures.style import GREY, legend_below, palette_of, panels, save, theme
from aqr_bench.report.robustness_scores import METRICS, SuiteScores
from aqr_bench.report.score_statistics import number
from aqr_bench.report.section import ReportFigure

SHADE = "cividis"  # the same for readers with and without colour blindness; light is good
MEAN = "mean (mRA)"
CURVE = "NDS"  # the score whose fall is drawn
MARKERS = "oDsv^P*X"
CELL, LINE = 0.62, 0.3  # inches: width of a column, height of a row
STACKED_FROM = 8  # so many variants, and the panels stand above each other


def draw_robustness(scores: SuiteScores, folder: Path, footer: str = "") -> list[ReportFigure]:
    """Draw the heat map of a suite and its degradation curves; nothing where there is no number."""
    drawn = []
    theme("white")
    figure = resistance_figure(scores)
    if figure is not None:
        caption = (
            f"Resistance RA under {scores.suite}: share of the clean score that is left, mean over severities and "
            "seeds; last row: mean over corruptions. 1: nothing lost. A dash: not all severities were evaluated."
        )
        drawn.append(ReportFigure(caption, save(figure, folder, scores.name, footer)))
    theme("whitegrid")
    figure = degradation_figure(scores)
    if figure is not None:
        caption = (
            f"{CURVE} over severity under {scores.suite} (0: clean), for corruptions with more than one: mean over "
            "seeds (line) and range of the seeds (band). All panels have the same scale."
        )
        drawn.append(ReportFigure(caption, save(figure, folder, f"{scores.name}_severity", footer)))
    return drawn


def degradation_figure(scores: SuiteScores) -> Figure | None:
    """Score over severity, one panel per corruption with at least two; None where there is none."""
    frame = scores.by_severity[scores.by_severity["metric"] == CURVE].dropna(subset=["score"])
    graded = {name: sorted(s) for name, s in scores.families.items() if len(s) > 1}
    graded = {name: s for name, s in graded.items() if (frame["corruption"] == name).any()}
    if not graded:
        return None
    palette = palette_of(scores.variants, scores.baseline)
    across = min(len(graded), 4)
    figure, axes = panels(len(graded), 2.0, width=2.3, max_columns=across)
    drawn = [v for v in scores.variants if (frame["variant"] == v).any()]
    for i, (axis, (name, severities)) in enumerate(zip(axes, graded.items(), strict=True)):
        for k, variant in enumerate(drawn):
            rows = frame[frame["variant"] == variant]
            graded_rows = (rows["corruption"] == name) & rows["severity"].isin(severities)
            # Severity 0 of a graded corruption is the clean input.
            line = rows[graded_rows | (rows["corruption"] == CLEAN)].sort_values("severity")
            colour, marker = palette[variant], MARKERS[k % len(MARKERS)]
            steps = line["severity"]
            band = axis.fill_between(steps, line["lowest"], line["highest"], color=colour, alpha=0.15, lw=0)
            marks = axis.plot(steps, line["score"], "-", marker=marker, ms=4, lw=1.4, color=colour)
            by_step = ", ".join(f"{s:g}: {number(v)}" for s, v in zip(steps, line["score"], strict=True))
            tag([band, *marks], variant, text=f"{variant}, {name}: {CURVE} by severity {by_step}")
        axis.set_title(textwrap.fill(name.replace("_", " "), 22), fontsize=9)
        axis.set_xticks([0, *severities])
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        if i >= len(graded) - across:
            axis.set_xlabel("severity", fontsize=9)
        if i % across == 0:
            axis.set_ylabel(CURVE, fontsize=9)
    legend_below(figure, palette, drawn)
    return figure


def resistance(scores: SuiteScores, metric: str) -> np.ndarray:
    """RA [corruptions + 1, variants] in the order of the suite, the mean in the last row; NaN where there is none."""
    rows = scores.corruptions[scores.corruptions["metric"] == metric]
    grid = rows.pivot(index="corruption", columns="variant", values="RA")
    grid = grid.reindex(index=list(scores.families), columns=list(scores.variants))
    means = scores.summary[scores.summary["metric"] == metric].set_index("variant")["mRA"]
    return np.vstack([grid.to_numpy(float), means.reindex(list(scores.variants)).to_numpy(float)])


def resistance_figure(scores: SuiteScores) -> Figure | None:
    """Corruptions by variants, both metrics on one scale; None where there is no number at all."""
    grids = {metric: resistance(scores, metric) for metric in METRICS}
    finite = np.concatenate([grid[np.isfinite(grid)] for grid in grids.values()])
    if not finite.size:
        return None
    # One scale for both panels, in whole tenths, so that a small loss does not look like a total one.
    low = min(math.floor(finite.min() * 10) / 10, 0.9)
    high = max(1.0, math.ceil(finite.max() * 10) / 10)
    corruptions, variants = [*(name.replace("_", " ") for name in scores.families), MEAN], list(scores.variants)
    stacked = len(variants) >= STACKED_FROM
    shape = (len(METRICS), 1) if stacked else (1, len(METRICS))
    width, height = CELL * len(variants), LINE * len(corruptions) + 0.9
    labels = 0.085 * max(map(len, corruptions)) + 0.9
    figure, axes = plt.subplots(
        *shape, figsize=(max(width * shape[1] + labels, 4.6), height * shape[0] + 0.4), squeeze=False,
        sharey=not stacked,
    )  # fmt: skip
    figure.set_layout_engine("constrained")
    for axis, (metric, grid) in zip(axes.flat, grids.items(), strict=True):
        _panel(axis, grid, (low, high), corruptions, variants)
        axis.set_title(metric)
    bar = figure.colorbar(axes.flat[0].collections[0], ax=list(axes.flat), fraction=0.05, aspect=30, pad=0.02)
    bar.set_label("RA")
    bar.outline.set_visible(False)
    return figure


def _panel(
    axis: Axes, grid: np.ndarray, limits: tuple[float, float], corruptions: list[str], variants: list[str]
) -> None:
    empty = np.isnan(grid)
    text = np.array([["" if math.isnan(v) else number(v, 2) for v in row] for row in grid])
    sns.heatmap(
        np.nan_to_num(grid, nan=limits[0]), mask=empty, ax=axis, cmap=SHADE, vmin=limits[0], vmax=limits[1], annot=text,
        fmt="", linewidths=1, cbar=False, xticklabels=variants, yticklabels=corruptions, annot_kws={"size": 9},
    )  # fmt: skip
    for y, x in np.argwhere(empty):
        axis.text(x + 0.5, y + 0.5, "–", ha="center", va="center", color=GREY)
    marks = [[Mark(v, text=f"{v}, {c}: RA {t or '–'}") for v, t in zip(variants, row, strict=True)]
             for c, row in zip(corruptions, text, strict=True)]  # fmt: skip
    tag_heatmap(axis, marks)
    for label in axis.get_xticklabels():
        tag(label, label.get_text())
    axis.axhline(len(corruptions) - 1, color="white", lw=6)
    axis.tick_params(axis="y", rotation=0, length=0)
    axis.tick_params(axis="x", rotation=0, length=0)
    if max(map(len, variants)) > 7:
        plt.setp(axis.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    for label in axis.get_yticklabels()[len(corruptions) - 1 :]:  # none where the panel beside it has them
        label.set_fontweight("bold")
