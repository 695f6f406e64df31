"""The figures of the report, one function each; a variant has the same colour in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aqr_bench.report.collect import Results
from aqr_bench.report.figures.marks import Mark, tag, tag_heatmap
from aqr_bench.report.figures.pareto import SCORE, pareto_figure
from aqr_bench.report.figures.precision_recall import DISTANCE_M, recall_figure
from aqr_bench.report.figures.style import (
    GREY,
    colours,
    drop,
    legend_below,
    on_white,
    panels,
    save,
    theme,
    variant_axis,
)
from aqr_bench.report.figures.window_grid import grid_figure
from aqr_bench.report.routers import bev_figure, distribution_figure, router_figure
from aqr_bench.report.rows import METRICS
from aqr_bench.report.score_statistics import interval_half, number, summarise
from aqr_bench.report.section import ReportFigure
from aqr_bench.report.tables.study import by_seed, comparison_target, differences, score_hints, scores_table
from aqr_bench.study.spec import LOWER_IS_BETTER, Study

LEAD = ("difference",)  # beside the table by condition, enough to answer; a reader opens the others
MAX_LEAD_CONDITIONS = 12  # with more panels a figure is folded: the table by condition is read more easily


Hints = Mapping[tuple[str, str], str]  # what a mark says on hover, by (variant, condition)


def metric_figure(study: Study, results: Results, hints: Hints) -> Figure | None:
    """Score of every seed (rings) and their mean (diamond), one panel per condition."""
    palette, names = colours(study), list(study.variants)
    # variant_axis makes the axes alike; matplotlib takes minutes to share one among the panels of a long suite.
    figure, axes = panels(len(study.suite.conditions), 0.9 + 0.34 * len(names), sharey=False)
    drawn = 0
    for i, (axis, condition) in enumerate(zip(axes, study.suite.conditions, strict=True)):
        values: list[float] = []
        for y, name in enumerate(names):
            scores = list(by_seed(results, name, condition.name, study.metric).values())
            values += scores
            if not scores:
                _no_result(axis, y, name, condition.name)
                continue
            rings = axis.plot(scores, [y] * len(scores), "o", mfc="none", mec=palette[name], ms=7, mew=1.4)
            mean = axis.plot(summarise(scores).mean, y, "D", color=palette[name], ms=4)
            tag(rings + mean, name, condition.name, hints.get((name, condition.name), ""))
        drawn += len(values)
        baseline = summarise(list(by_seed(results, study.baseline, condition.name, study.metric).values())).mean
        tag(axis, condition=condition.name)
        if baseline is not None:
            tag(axis.axvline(baseline, color=GREY, lw=0.9, ls="--", zorder=0), study.baseline, condition.name)
        if values:
            # At least 0.02 wide: a narrow range does not fill the panel.
            middle, half = (max(values) + min(values)) / 2, max((max(values) - min(values)) * 0.65, 0.01)
            axis.set_xlim(middle - half, middle + half)
        axis.set_title(condition.name)
        axis.set_xlabel(study.metric)
        variant_axis(axis, names, i % 3 == 0)
        if not values:
            axis.set_xticks([])
    return figure if drawn else drop(figure)


def _no_result(axis: Axes, y: float, variant: str, condition: str) -> None:
    where = axis.get_yaxis_transform()
    tag(axis.text(0.5, y, "no result", transform=where, color=GREY, va="center", ha="center"), variant, condition)


def metrics_figure(study: Study, results: Results) -> Figure | None:
    """Every detection metric in the reference condition: seeds (rings), mean (diamond) and its 95 % interval (line).

    The interval is Student's t over seeds; a panel is as wide as its rings, so a line may leave it.
    """
    palette, names, reference = colours(study), list(study.variants), study.suite.conditions[0].name
    figure, axes = panels(len(METRICS), 0.9 + 0.3 * len(names), width=2.45, max_columns=4)
    drawn = 0
    for i, (axis, metric) in enumerate(zip(axes, METRICS, strict=True)):
        values: list[float] = []
        for y, name in enumerate(names):
            scores = list(by_seed(results, name, reference, metric).values())
            values += scores
            if scores:
                middle, half = summarise(scores).mean, interval_half(scores)
                marks = []
                if half is not None:
                    marks += axis.plot([middle - half, middle + half], [y, y], "-", color=palette[name], lw=1.6)
                marks += axis.plot(scores, [y] * len(scores), "o", mfc="none", mec=palette[name], ms=5, mew=1.1)
                marks += axis.plot(middle, y, "D", color=palette[name], ms=4)
                interval = "" if half is None else f". 95 %, seeds: {number(middle - half)} to {number(middle + half)}"
                hint = f"{name}, {reference}: {metric} {number(middle)}{interval}. Runs: {len(scores)}"
                tag(marks, name, reference, hint)
        drawn += len(values)
        if values:
            middle, half = (max(values) + min(values)) / 2, max((max(values) - min(values)) * 0.7, 0.01)
            axis.set_xlim(middle - half, middle + half)
        axis.set_title(f"{metric} ({'lower' if metric in LOWER_IS_BETTER else 'higher'} is better)", fontsize=9)
        variant_axis(axis, names, i % 4 == 0)
        axis.xaxis.set_major_locator(
            plt.MaxNLocator(4, prune="both", min_n_ticks=1)
        )  # labels of neighbours would touch
        axis.tick_params(axis="x", labelsize=8)
        if not values:
            axis.set_xticks([])
    return figure if drawn else drop(figure)


def difference_figure(study: Study, results: Results, hints: Hints) -> Figure | None:
    """Paired difference to the baseline with its 95 % intervals, one panel per condition.

    Thick line: over seeds. Thin line below, with ends: over scenes.
    """
    deltas, palette = differences(study, results), colours(study)
    names = [v for v in study.variants if v != study.baseline]
    if not any(d is not None for d in deltas.values()):
        return None
    figure, axes = panels(len(study.suite.conditions), 1.0 + 0.34 * len(names), sharey=False)
    for i, (axis, condition) in enumerate(zip(axes, study.suite.conditions, strict=True)):
        axis.axvline(0, color=GREY, lw=0.9, ls="--", zorder=0)
        tag(axis, condition=condition.name)
        reach = 0.005
        for y, name in enumerate(names):
            delta = deltas[name, condition.name]
            if delta is None:
                _no_result(axis, y, name, condition.name)
                continue
            low, high = (delta.mean, delta.mean) if delta.low is None else (delta.low, delta.high)
            reach = max(reach, abs(low), abs(high))
            marks = axis.plot([low, high], [y, y], "-", color=palette[name], lw=2.2, solid_capstyle="butt")
            if delta.scenes is not None:
                over_scenes = [delta.scenes.low, delta.scenes.high]
                reach = max(reach, *map(abs, over_scenes))
                marks += axis.plot(over_scenes, [y + 0.27] * 2, "|-", color=palette[name], lw=1.1, ms=5)
            # Full: a finding also after correction; pale: only by itself; empty: within the noise.
            strength = 1.0 if delta.survives else 0.35 if delta.beyond_noise else 0.0
            marks += axis.plot(delta.mean, y, "D", color=palette[name], ms=6, mfc=on_white(palette[name], strength))
            tag(marks, name, condition.name, hints.get((name, condition.name), ""))
        axis.set_xlim(-1.1 * reach, 1.1 * reach)
        axis.set_title(condition.name)
        same_target = all(study.compared_with(name) == study.baseline for name in names)
        axis.set_xlabel(f"{study.metric} minus {study.baseline}" if same_target else f"difference in {study.metric}")
        variant_axis(axis, names, i % 3 == 0)
    return figure


def heatmap_figure(study: Study, results: Results, hints: Hints) -> Figure | None:
    """Mean score, variants by conditions; a dash where no run finished."""
    names, conditions = list(study.variants), [c.name for c in study.suite.conditions]
    mean = [[summarise(list(by_seed(results, v, c, study.metric).values())).mean for c in conditions] for v in names]
    values = np.array(mean, dtype=float)
    if np.isnan(values).all():
        return None
    # Inches for a letter: 0.09. From six conditions on their names are tilted.
    column = 1.0 if len(conditions) > 5 else max(1.0, 0.09 * max(map(len, conditions)) + 0.15)
    width = column * len(conditions) + 0.09 * max(map(len, names)) + 0.9
    figure, axis = plt.subplots(figsize=(max(width, 4.6), 1.1 + 0.42 * len(names)))
    figure.set_layout_engine("constrained")
    shade = "viridis" if study.higher_is_better else "viridis_r"
    text = np.array([[number(v) for v in row] for row in mean])
    sns.heatmap(
        np.nan_to_num(values, nan=float(np.nanmin(values))), mask=np.isnan(values), ax=axis, cmap=shade,
        annot=np.where(np.isnan(values), "", text), fmt="", linewidths=1, cbar_kws={"label": study.metric},
        xticklabels=conditions, yticklabels=names,
    )  # fmt: skip
    for y, x in np.argwhere(np.isnan(values)):
        axis.text(x + 0.5, y + 0.5, "–", ha="center", va="center", color=GREY)
    tag_heatmap(axis, [[Mark(v, c, hints.get((v, c), "")) for c in conditions] for v in names])
    for kind, labels in (("condition", axis.get_xticklabels()), ("variant", axis.get_yticklabels())):
        for label in labels:
            tag(label, **{kind: label.get_text()})
    axis.tick_params(axis="y", rotation=0)
    if len(conditions) > 5:
        axis.tick_params(axis="x", rotation=40)
        plt.setp(axis.get_xticklabels(), ha="right")
    return figure


def classes_figure(study: Study, results: Results, max_conditions: int = 3) -> Figure | None:
    """AP by class, mean over seeds, for the first conditions of the suite."""
    frame = results.classes.dropna(subset=["AP"])
    if frame.empty:
        return None
    palette, names = colours(study), list(study.variants)
    conditions = [c.name for c in study.suite.conditions][:max_conditions]
    order = list(dict.fromkeys(frame["class_name"]))
    figure, axes = panels(len(conditions), 1.1 + 0.36 * len(order))
    step = min(0.6 / max(len(names) - 1, 1), 0.2)
    for i, (axis, condition) in enumerate(zip(axes, conditions, strict=True)):
        scores = frame[frame["condition"] == condition].groupby(["variant", "class_name"])["AP"].mean()
        for k, name in enumerate(names):
            points = [(scores[name, c], y) for y, c in enumerate(order) if (name, c) in scores.index]
            if points:
                shift = (k - (len(names) - 1) / 2) * step
                for value, at in points:
                    dot = axis.plot(value, at + shift, "o", color=palette[name], ms=4.5)
                    tag(dot, name, condition, f"{name}, {condition}: {order[at]} AP {number(value)}")
        for y in range(len(order) - 1):
            axis.axhline(y + 0.5, color="0.9", lw=0.8, zorder=0)
        axis.grid(axis="y", visible=False)
        axis.set_title(condition)
        tag(axis, condition=condition)
        axis.set_xlabel("AP")
        variant_axis(axis, [c.replace("_", " ") for c in order], i == 0, kind="")
    legend_below(figure, palette, names)
    return figure


def curves_figure(study: Study, results: Results, base: Results) -> Figure | None:
    """Training loss: the base models, and the variants, one thin line per seed."""
    groups = [("base training", base.curves), ("variants", results.curves)]
    groups = [(title, frame.dropna(subset=["loss"])) for title, frame in groups]
    groups = [(title, frame) for title, frame in groups if not frame.empty]
    if not groups:
        return None
    palette = colours(study)
    figure, axes = panels(len(groups), 3.0, width=4.4, sharey=False)
    for axis, (title, frame) in zip(axes, groups, strict=True):
        for name, rows in frame.groupby("variant"):
            for j, (seed, line) in enumerate(rows.groupby("seed")):
                style = ["-", "--", ":", "-."][j % 4]
                drawn = axis.plot(line["iteration"], line["loss"], style, color=palette[name], lw=1.2, alpha=0.9)
                variant = name if name in study.variants else ""
                tag(drawn, variant, text=f"{name}, seed {int(seed)}: loss {line['loss'].iloc[-1]:.4g} at the end")
        if frame["loss"].min() > 0 and frame["loss"].max() > 20 * frame["loss"].min():
            axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("iteration")
        axis.set_ylabel("loss")
    if not results.curves.empty:
        legend_below(figure, palette, [v for v in study.variants if (results.curves["variant"] == v).any()])
    return figure


def draw_study(
    study: Study, results: Results, base: Results, folder: Path, footer: str = "", hints: Hints | None = None
) -> list[ReportFigure]:
    """Draw every figure that there is data for; ``hints``: of ``score_hints``, where they are known already."""
    hints = score_hints(study, scores_table(study, results)) if hints is None else hints
    theme("whitegrid", palette="colorblind")
    jobs: list[tuple[str, str, Callable[[], Figure | tuple[str, Figure] | None]]] = [
        (
            "metric",
            f"{study.metric} per condition: every seed (rings), mean (diamond), mean of '{study.baseline}' (dashed). "
            "Each panel has its own scale.",
            lambda: metric_figure(study, results, hints),
        ),
        (
            "difference",
            f"Difference to {comparison_target(study)}, paired by seed, with its 95 % interval over seeds (thick line; "
            "none for a single pair of seeds) and over scenes (thin line below, where there is one). Empty diamond: "
            "within the noise. Pale: no interval contains 0. Full: also after correction for the number of "
            "comparisons (Holm). Each panel has its own scale.",
            lambda: difference_figure(study, results, hints),
        ),
        (
            "metrics",
            f"All metrics under '{study.suite.conditions[0].name}': every seed (rings), mean (diamond) and its 95 % "
            "interval over seeds (line; none for a single seed). A line that leaves its panel: too few seeds to tell.",
            lambda: metrics_figure(study, results),
        ),
        ("heatmap", f"Mean {study.metric}, variant by condition.", lambda: heatmap_figure(study, results, hints)),
        (
            "windows",
            f"Mean {study.metric} by window size; each panel has its own scale, its title the mean of the baseline.",
            lambda: grid_figure(study, results, hints),
        ),
        (
            "pareto",
            f"{SCORE} under '{study.suite.conditions[0].name}' against latency and memory: seeds (rings), mean "
            "(diamond; filled where no other variant is better in both), and the Pareto front of the means (dashed). "
            "Where variants differ within the noise, so does the front.",
            lambda: pareto_figure(study, results),
        ),
        (
            "router",
            "What the router does: mean weight over all queries (diamond), and the range of 90 % of them (line).",
            lambda: router_figure(study, results),
        ),
        (
            "weights",
            "Distribution of the router's weights over all queries of all frames and seeds.",
            lambda: distribution_figure(study, results.router_files),
        ),
        ("bev", "", lambda: bev_figure(study, results.router_files)),
        ("classes", "AP by class, mean over seeds.", lambda: classes_figure(study, results)),
        (
            "recall",
            f"Precision over recall by class at {DISTANCE_M:g} m under '{study.suite.conditions[0].name}', mean over "
            "seeds; a line ends where the recall does.",
            lambda: recall_figure(study, results),
        ),
        ("curves", "Training loss; one line style per seed.", lambda: curves_figure(study, results, base)),
    ]
    drawn = []
    for name, caption, draw in jobs:
        figure = draw()
        if isinstance(figure, tuple):
            caption, figure = figure
        if figure is not None:
            lead = name in LEAD and len(study.suite.conditions) <= MAX_LEAD_CONDITIONS
            drawn.append(ReportFigure(caption, save(figure, folder, f"{study.name}_{name}", footer), lead))
    return drawn


def draw_costs(study: Study, results: Results, folder: Path, footer: str = "") -> list[ReportFigure]:
    """Latency and memory of every measured variant, for studies without scores."""
    theme("whitegrid", palette="colorblind")
    rows = results.measures[results.measures["status"] == "ok"]
    if rows.empty:
        return []
    palette, names = colours(study), list(rows["variant"])
    figure, axes = panels(2, 0.9 + 0.34 * len(names))
    for i, (axis, column) in enumerate(zip(axes, ("latency_ms", "peak_rss_mb"), strict=True)):
        bars = axis.barh(range(len(names)), rows[column], color=[palette[name] for name in names], height=0.6)
        for name, bar, value in zip(names, bars, rows[column], strict=True):
            tag(bar, name, text=f"{name}: {value:.4g}")
        variant_axis(axis, names, first=i == 0)
    axes[0].set_xlabel("latency, ms (median)")
    axes[1].set_xlabel("peak memory, MB")
    caption = "Median latency of an inference, and peak memory of the process, by variant."
    return [ReportFigure(caption, save(figure, folder, f"{study.name}_costs", footer), lead=True)]
