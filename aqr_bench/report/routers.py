"""Do the router's weights respond to a missing sensor, and how are they distributed?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import rankdata

from aqr_bench.errors import ARRAY_READ_ERRORS
from aqr_bench.metrics.calibration import Reliability, reliability
from aqr_bench.report.collect import Results
from aqr_bench.report.figures.marks import tag
from aqr_bench.report.figures.style import GREY, colours, legend_below, panels, variant_axis
from aqr_bench.report.score_statistics import number
from aqr_bench.report.tables.table import ReportTable
from aqr_bench.study.spec import Study

SENSORS = ("lidar", "camera")
MISSING = {"no_lidar": "lidar", "no_cameras": "camera"}  # corruption -> the missing sensor
CONFIDENT = 0.3  # as in the records: a query with at least this score
MAX_PANELS = 4  # conditions side by side
SAMPLES = 20_000  # queries drawn for a figure's histogram
STYLES = ("-", "--", ":", "-.") * 8  # of equal distributions, the lower line remains visible
Key = tuple[str, int, str]  # variant, seed, condition


def roc_area(present: np.ndarray, missing: np.ndarray) -> float:
    """Area under the ROC curve of "a high weight means that the sensor is there": P(present > missing), ties half.

    The Mann-Whitney statistic over the product of the sample sizes; 0.5: no information, NaN: no samples.
    """
    if not len(present) or not len(missing):
        return float("nan")
    ranks = rankdata(np.concatenate([present, missing]))[: len(present)]
    return float((ranks.sum() - len(present) * (len(present) + 1) / 2) / (len(present) * len(missing)))


class Weights(NamedTuple):
    """The router's weights of n queries, [n] each."""

    lidar: np.ndarray
    camera: np.ndarray


def load_weights(path: Path) -> Weights | None:
    """Weights of all queries of an evaluation; None if the file is missing or damaged, or a weight is not finite."""
    try:
        with np.load(path, allow_pickle=False) as file:
            weight = np.asarray(file["weight"], np.float32)
    except ARRAY_READ_ERRORS:
        return None
    valid = weight.ndim == 3 and weight.shape[-1] == 2 and np.isfinite(weight).all()
    return Weights(*weight.reshape(-1, 2).T) if valid else None


def sensing_table(study: Study, files: Mapping[Key, Path]) -> ReportTable:
    """ROC area of either weight, clean against the condition in which that sensor is missing, by variant and seed."""
    data, rows = [], []
    for variant in study.variants:
        pairs = {sensor: list(_weight_pairs(study, files, variant, sensor)) for sensor in SENSORS}
        if not any(pairs.values()):
            continue
        cells = {}
        for sensor, of_seeds in pairs.items():
            areas, errors = [roc_area(*pair) for pair in of_seeds], [weight_bins(*pair).error() for pair in of_seeds]
            if of_seeds:
                row = dict(variant=variant, sensor=sensor, seeds=len(areas), mean=np.mean(areas), lowest=np.min(areas))
                data.append({**row, "ece": np.mean(errors)})
            cells[_title(sensor)] = number(np.mean(areas) if areas else None)
            cells[f"{_title(sensor)}, ECE"] = number(np.mean(errors) if errors else None)
        rows.append({"Variant": variant, **cells})
    return ReportTable(
        f"{study.name}_sensing",
        "Does the router see what is missing",
        pd.DataFrame(data, columns=["variant", "sensor", "seeds", "mean", "lowest", "ece"]),
        pd.DataFrame(rows),
        "Area under the ROC curve over all queries of all frames, mean over seeds: how well a weight distinguishes the "
        "clean input from the one without its sensor. 1: always, 0.5: not at all. ECE: expected calibration error of "
        "the weight, scaled to 0 to 1, as the chance that the sensor is there.",
        numeric=frozenset(f"{_title(sensor)}{end}" for sensor in SENSORS for end in ("", ", ECE")),
    )


def weight_bins(present: np.ndarray, missing: np.ndarray) -> Reliability:
    """How often a sensor is there, by its weight: ``(weight + 1) / 2`` is taken for the chance of it."""
    share = np.clip((np.concatenate([present, missing]) + 1) / 2, 0, 1)
    return reliability(share, np.arange(len(share)) < len(present))


def weight_reliability(study: Study, files: Mapping[Key, Path]) -> dict[str, dict[str, Reliability]]:
    """By sensor and variant, all seeds; without variants whose weights are all the same."""
    by_sensor: dict[str, dict[str, Reliability]] = {}
    for sensor in SENSORS:
        for variant in study.variants:
            bins = [weight_bins(*pair) for pair in _weight_pairs(study, files, variant, sensor)]
            if bins and (total := reduce(add, bins)).count.max() < total.count.sum():
                by_sensor.setdefault(_title(sensor), {})[variant] = total
    return by_sensor


def _weight_pairs(
    study: Study, files: Mapping[Key, Path], variant: str, sensor: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A sensor's weights with it and without, per condition without it and seed whose weights can be read."""
    clean = study.suite.conditions[0].name
    for condition in study.suite.conditions[1:]:
        if MISSING.get(condition.corruption.key) != sensor:
            continue
        for seed in study.seeds:
            paths = files.get((variant, seed, clean)), files.get((variant, seed, condition.name))
            present, missing = (None if path is None else load_weights(path) for path in paths)
            if present is not None and missing is not None and len(present.lidar) and len(missing.lidar):
                yield getattr(present, sensor), getattr(missing, sensor)


def _title(sensor: str) -> str:
    return "LiDAR weight" if sensor == "lidar" else "Camera weight"


def router_figure(study: Study, results: Results) -> Figure | None:
    """Mean weight of each modality (diamond) and the range of 90 % of the queries (line), by condition and variant."""
    frame = results.routers[results.routers["group"] == "all"]
    names = [v for v in study.variants if (frame["variant"] == v).any()]
    if not names:
        return None
    palette, conditions = colours(study), [c.name for c in study.suite.conditions]
    figure, axes = panels(2, 1.1 + 0.3 * len(conditions) * len(names) ** 0.5, width=4.0)
    for i, (axis, sensor, title) in enumerate(zip(axes, ("lidar", "camera"), ("LiDAR", "camera"), strict=True)):
        for k, name in enumerate(names):
            shift = (k - (len(names) - 1) / 2) * min(0.6 / max(len(names) - 1, 1), 0.25)
            means = frame[frame["variant"] == name].drop(columns=["variant", "group"]).groupby("condition").mean()
            for y, condition in enumerate(conditions):
                if condition in means.index:
                    row = means.loc[condition]
                    low, high = row[f"{sensor}_p5"], row[f"{sensor}_p95"]
                    mean = row[f"{sensor}_mean"]
                    marks = axis.plot([low, high], [y + shift] * 2, "-", color=palette[name], lw=1.4)
                    marks += axis.plot(mean, y + shift, "D", color=palette[name], ms=5)
                    hint = f"{number(mean)}, 90 % from {number(low)} to {number(high)}"
                    tag(marks, name, condition, f"{name}, {condition}: {title} weight {hint}")
        axis.set_title(f"{title} weight")
        axis.set_xlim(-1.05, 1.05)
        axis.axvline(0, color=GREY, lw=0.9, ls="--", zorder=0)
        axis.grid(axis="y", visible=False)
        variant_axis(axis, conditions, i == 0, "condition")
        axis.set_xticks([-0.5, 0, 0.5])  # -1 and 1 of neighbouring panels would touch
    legend_below(figure, palette, names)
    return figure


def distribution_figure(study: Study, files: Mapping[Key, Path]) -> Figure | None:
    """Distribution over queries of either weight under each condition, one row per variant with a router, all seeds."""
    variants = [v for v in study.variants if any(key[0] == v for key in files)]
    samples = {v: _samples(study, files, v) for v in variants}
    variants = [v for v in variants if samples[v] and not all(np.ptp(w) == 0 for w in samples[v].values())]
    if not variants:
        return None
    palette = dict(zip((c.name for c in study.suite.conditions), sns.color_palette("colorblind"), strict=False))
    figure = Figure(figsize=(8.0, 0.9 + 1.5 * len(variants)), layout="constrained")
    axes = figure.subplots(len(variants), 2, squeeze=False, sharex=True)
    bins = np.linspace(-1, 1, 81)
    for row, variant in zip(axes, variants, strict=True):
        for axis, sensor in zip(row, SENSORS, strict=True):
            for style, (condition, weights) in zip(STYLES, samples[variant].items(), strict=False):
                share = np.histogram(getattr(weights, sensor), bins)[0] / len(weights.lidar)
                area = axis.stairs(share, bins, color=palette[condition], fill=True, alpha=0.15)
                line = axis.stairs(share, bins, color=palette[condition], ls=style, lw=1.8, label=condition)
                mean = number(float(getattr(weights, sensor).mean()))
                tag((area, line), variant, condition, f"{variant}, {condition}: {_title(sensor)}, mean {mean}")
            axis.set_yticks([])
            axis.set_xlim(-1.02, 1.02)
            axis.set_xticks([-0.5, 0, 0.5])  # -1 and 1 of neighbouring panels would touch
            axis.grid(axis="x", color="0.9")
            if axis in axes[0]:
                axis.set_title(_title(sensor))
            tag(axis, variant)
        row[0].set_ylabel(variant)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    for name, handle, text in zip(labels, legend.legend_handles, legend.get_texts(), strict=True):
        tag((handle, text), condition=name)
    return figure


@dataclass(frozen=True)
class Queries:
    """One frame's queries: centre [Q, 2] in metres (LiDAR frame), weights and score [Q]."""

    centre: np.ndarray
    weights: Weights
    score: np.ndarray


def queries_of(path: Path, token: str | None = None) -> tuple[str, Queries] | None:
    """One frame of an evaluation: that of the sample ``token``, or the frame with the most confident queries.

    None where the file is missing or damaged, or has no such sample.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            tokens, arrays = file["token"].tolist(), {k: file[k] for k in ("centre", "weight", "score")}
        confident = (arrays["score"] >= CONFIDENT).sum(1)
        index = int(confident.argmax()) if token is None else tokens.index(token)
        centre, weight, score = (arrays[key][index].astype(np.float32) for key in ("centre", "weight", "score"))
        return tokens[index], Queries(centre, Weights(*weight.T), score)
    except ARRAY_READ_ERRORS:
        return None


def bev_figure(study: Study, files: Mapping[Key, Path]) -> tuple[str, Figure] | None:
    """Caption and figure: either weight of every query of one sample at its centre, under each condition.

    The first variant whose weights differ at all, at the first seed; the sample with the most confident queries in
    the reference condition. None where there is no such file.
    """
    conditions = [c.name for c in study.suite.conditions][:MAX_PANELS]
    for variant in study.variants:
        seed = next((s for s in study.seeds if (variant, s, conditions[0]) in files), None)
        first = None if seed is None else queries_of(files[variant, seed, conditions[0]])
        if first is None:
            continue
        token = first[0]
        frames = {c: queries_of(files[variant, seed, c], token) for c in conditions if (variant, seed, c) in files}
        frames = {c: frame[1] for c, frame in frames.items() if frame is not None}
        if any(np.ptp(f.weights) > 0 for f in frames.values()):
            caption = (
                f"Where the router of '{variant}' (seed {seed}) prefers which sensor: every query of sample "
                f"{token[:8]} at the centre it predicts, seen from above. Large dots: score of {CONFIDENT:g} or more. "
                "The objects of the frame are in the pictures."
            )
            return caption, _draw_bev(frames)
    return None


def _draw_bev(frames: Mapping[str, Queries]) -> Figure:
    figure = Figure(figsize=(2.7 * len(frames) + 1.2, 5.4), layout="constrained")
    axes = figure.subplots(2, len(frames), squeeze=False, sharex=True, sharey=True)
    reach = max(float(np.abs(f.centre).max()) for f in frames.values()) * 1.05
    for row, sensor in zip(axes, SENSORS, strict=True):
        # A scale per row: small weights would otherwise look like none.
        limit = max(float(np.abs(getattr(f.weights, sensor)).max()) for f in frames.values()) or 1.0
        for axis, (condition, frame) in zip(row, frames.items(), strict=True):
            order = np.argsort(frame.score)
            size = np.where(frame.score[order] >= CONFIDENT, 42, 9)
            dots = axis.scatter(
                *frame.centre[order].T, c=getattr(frame.weights, sensor)[order], s=size, cmap="PuOr", vmin=-limit,
                vmax=limit, edgecolors="0.35", linewidths=0.3,
            )  # fmt: skip
            axis.plot(0, 0, "+", color="black", ms=8)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            axis.tick_params(labelsize=8)
            if sensor == SENSORS[0]:
                axis.set_title(condition)
            else:
                axis.set_xlabel("x, m", fontsize=9)
        row[0].set_ylabel("y, m", fontsize=9)
        figure.colorbar(dots, ax=list(row), label=_title(sensor), fraction=0.04, aspect=22)
    return figure


def _samples(study: Study, files: Mapping[Key, Path], variant: str) -> dict[str, Weights]:
    """Weights by condition, of all seeds, evenly subsampled."""
    samples = {}
    for condition in study.suite.conditions:
        paths = [
            files[variant, seed, condition.name] for seed in study.seeds if (variant, seed, condition.name) in files
        ]
        parts = [part for part in map(load_weights, paths) if part is not None and len(part.lidar)]
        if parts:
            weights = Weights(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
            samples[condition.name] = Weights(*(w[:: max(1, len(w) // SAMPLES)] for w in weights))
    return samples
