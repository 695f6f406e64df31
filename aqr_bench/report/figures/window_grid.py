"""Window sizes as a grid: score by BEV window and camera window, where a study's variants differ in both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from aqr_bench.report.collect import Results
from aqr_bench.report.figures.marks import Mark, tag, tag_heatmap
from aqr_bench.report.figures.style import GREY, drop
from aqr_bench.report.score_statistics import number, summarise
from aqr_bench.report.tables.study import by_seed
from aqr_bench.study.spec import Study, Variant

SETTING, BEV, CAMERA = "model.pts_bbox_head.aqr", "bev_window", "camera_window"


def windows(variant: Variant) -> tuple[int, int] | None:
    """BEV window in cells and camera window in tokens that a variant sets; None unless it sets both."""
    settings = _settings(variant)
    return (settings[BEV], settings[CAMERA]) if {BEV, CAMERA} <= set(settings) else None


def _settings(variant: Variant) -> dict[str, Any]:
    """The settings of the bias, written as one block or key by key."""
    block = dict(variant.config.get(SETTING) or {})
    prefix = f"{SETTING}."
    return block | {k.removeprefix(prefix): v for k, v in variant.config.items() if k.startswith(prefix)}


def grid_of(study: Study) -> dict[tuple[int, int], str]:
    """Variant by (BEV window, camera window); empty unless both vary against each other, and nothing else does.

    Against each other: some BEV window has two camera windows, and the other way round. A diagonal is no grid.
    """
    cells: dict[tuple[int, int], str] = {}
    others = []
    for variant in study.variants.values():
        sizes = windows(variant)
        if sizes is None:
            continue
        if sizes in cells:
            return {}
        cells[sizes] = variant.name
        rest = {k: v for k, v in _settings(variant).items() if k not in (BEV, CAMERA)}
        others.append((rest, {k: v for k, v in variant.config.items() if not k.startswith(SETTING)}))
    crossed = all(len(cells) > len({sizes[i] for sizes in cells}) for i in (0, 1))
    return cells if crossed and all(other == others[0] for other in others) else {}


def grid_figure(study: Study, results: Results, hints: Mapping[tuple[str, str], str]) -> Figure | None:
    """Mean score of every pair of windows, one panel per condition, each with its own scale; a dash: no result.

    ``hints``: what a cell says on hover, by (variant, condition).
    """
    cells = grid_of(study)
    if not cells:
        return None
    rows, columns = sorted({p[0] for p in cells}), sorted({p[1] for p in cells})
    conditions = [c.name for c in study.suite.conditions]
    across = min(len(conditions), 3)
    down = -(-len(conditions) // across)
    size = (max(0.95 * len(columns) + 1.1, 2.9) * across, (0.5 * len(rows) + 1.2) * down)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, sharey=True)
    figure.set_layout_engine("constrained")
    drawn = False
    for axis in axes.flat[len(conditions) :]:
        axis.set_visible(False)
    for axis, condition in zip(axes.flat, conditions, strict=False):
        values = np.full((len(rows), len(columns)), np.nan)
        for (bev, camera), name in cells.items():
            mean = summarise(list(by_seed(results, name, condition, study.metric).values())).mean
            values[rows.index(bev), columns.index(camera)] = np.nan if mean is None else mean
        baseline = summarise(list(by_seed(results, study.baseline, condition, study.metric).values())).mean
        tag(axis, condition=condition)
        axis.set_title(f"{condition}\n{study.baseline}: {number(baseline)}")
        empty = np.isnan(values)
        if not empty.all():
            drawn = True
            sns.heatmap(
                np.where(empty, np.nanmin(values), values), mask=empty, ax=axis, linewidths=1, cbar=False, fmt="",
                cmap="viridis" if study.higher_is_better else "viridis_r",
                annot=np.array([["" if np.isnan(v) else number(v) for v in row] for row in values]),
                xticklabels=columns, yticklabels=rows,
            )  # fmt: skip
        for y, x in np.argwhere(empty):
            axis.text(x + 0.5, y + 0.5, "–", ha="center", va="center", color=GREY)
        if not empty.all():
            names = [[cells.get((bev, camera), "") for camera in columns] for bev in rows]
            tag_heatmap(axis, [[Mark(v, condition, hints.get((v, condition), "")) for v in row] for row in names])
        axis.set_xlabel("camera window, tokens")  # heatmap removes labels
        axis.grid(False)
        axis.tick_params(axis="both", rotation=0, length=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("BEV window, cells")
    return figure if drawn else drop(figure)
