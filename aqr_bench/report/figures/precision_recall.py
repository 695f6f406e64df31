"""Precision over recall by class, from the matches of evaluations, as nuscenes-devkit interpolates it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from aqr_bench.metrics.matches import ClassMatches
from aqr_bench.metrics.nuscenes import RECALL
from aqr_bench.report.collect import Results
from aqr_bench.report.figures.marks import tag
from aqr_bench.report.figures.style import colours, drop, legend_below, panels
from aqr_bench.report.scene_bootstrap import load_matches
from aqr_bench.study.spec import Study

DISTANCE_M = 2.0  # the threshold at which nuScenes takes true-positive errors


def precision_over_recall(matches: ClassMatches, column: int) -> np.ndarray | None:
    """Precision [101] at the recalls 0, 0.01, ..., 1 of one distance threshold; 0 where that recall is not reached.

    None for a class without objects. Source: nuscenes-devkit 1.2.0, eval/detection/algo.py, ``accumulate``.
    """
    objects = int(matches.positives.sum())
    if not objects:
        return None
    hit = matches.tp[:, column]
    if not hit.any():
        return np.zeros(len(RECALL))
    true, false = np.cumsum(hit), np.cumsum(~hit)
    return np.interp(RECALL, true / objects, true / (true + false), right=0)


def curves_by_class(study: Study, results: Results, condition: str) -> dict[str, dict[str, np.ndarray]]:
    """Class -> variant -> precision [101], mean over the seeds that have matches."""
    curves: dict[str, dict[str, list[np.ndarray]]] = {}
    for variant in study.variants:
        for seed in study.seeds:
            matches = load_matches(results.match_files.get((variant, seed, condition)))
            if matches is None or DISTANCE_M not in matches.distances:
                continue
            column = matches.distances.index(DISTANCE_M)
            for name, class_matches in matches.classes.items():
                curve = precision_over_recall(class_matches, column)
                if curve is not None:
                    curves.setdefault(name, {}).setdefault(variant, []).append(curve)
    return {name: {v: np.mean(parts, axis=0) for v, parts in by.items()} for name, by in curves.items()}


def recall_figure(study: Study, results: Results) -> Figure | None:
    """One panel per class in the reference condition, one line per variant; None where there are no matches."""
    palette = colours(study)
    curves = curves_by_class(study, results, study.suite.conditions[0].name)
    figure, axes = panels(max(len(curves), 1), 1.75, width=1.75, max_columns=5)
    names = [v for v in study.variants if any(v in by_variant for by_variant in curves.values())]
    if not names:
        return drop(figure)
    styles = ("-", "--", ":", "-.")
    across = min(len(curves), 5)
    for i, (axis, (name, by_variant)) in enumerate(zip(axes, curves.items(), strict=True)):
        for variant, precision in by_variant.items():
            # The line ends at the last recall that is reached and does not fall to 0.
            reached = int(np.flatnonzero(precision).max(initial=0)) + 1
            style = styles[names.index(variant) % len(styles)]
            line = axis.plot(RECALL[:reached], precision[:reached], style, color=palette[variant], lw=1.4)
            tag(line, variant, text=f"{variant}, {name}: recall up to {RECALL[reached - 1]:.2f}")
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0.25, 0.5, 0.75], yticks=[0, 0.5, 1])
        last = i >= len(curves) - across
        axis.tick_params(labelsize=8, labelleft=i % across == 0, labelbottom=last)
        if last:
            axis.set_xlabel("recall", fontsize=9)
        if i % across == 0:
            axis.set_ylabel("precision", fontsize=9)
    legend_below(figure, palette, names)
    return figure
