"""Figures of types of errors, and of reliability: precision over score, and presence of a sensor over its weight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

from matplotlib.figure import Figure

from aqr_bench.metrics.calibration import Reliability
from aqr_bench.metrics.error_types import TYPES, WRONG_HEADING
from aqr_bench.report.diagnosis import Diagnosis, Key
from aqr_bench.report.figures.marks import tag
from aqr_bench.report.figures.style import GREY, Colour, drop, legend_below, panels, variant_axis
from aqr_bench.report.score_statistics import number

MAX_CONDITIONS = 6
MIN_IN_BIN = 20  # of fewer detections a precision is mostly chance
ERRORS_CAPTION = (
    "What fixing all errors of one type would give: seeds (rings) and their mean (diamond), in mAP; for wrong headings "
    "in NDS. The first conditions of the suite."
)
RELIABILITY_CAPTION = (
    f"Reliability: precision at 2 m of the detections of a score, all classes and seeds pooled, bins of at least "
    f"{MIN_IN_BIN}. Dashed: a score that can be taken at its word; below it the model is overconfident."
)
WEIGHTS_CAPTION = (
    "Reliability of the router's weights: share of the queries whose sensor is there, by the weight that the router "
    "gives it (from -1 to 1); queries of the clean input and of the one without the sensor."
)


def errors_figure(diagnoses: Mapping[Key, Diagnosis], palette: Mapping[str, Colour]) -> Figure | None:
    """A panel per condition, a row per type; None where no evaluation has types of errors."""
    errors_by_run = {key: diagnosis.errors for key, diagnosis in diagnoses.items() if diagnosis.errors is not None}
    conditions = list(dict.fromkeys(condition for _, _, condition in errors_by_run))[:MAX_CONDITIONS]
    variants = list(dict.fromkeys(variant for variant, _, _ in errors_by_run))
    if not conditions:
        return None
    step = min(0.6 / max(len(variants) - 1, 1), 0.25)
    figure, axes = panels(len(conditions), 1.1 + len(TYPES) * (0.2 + 0.08 * len(variants)))
    labels = [f"{kind} (NDS)" if kind == WRONG_HEADING else kind for kind in TYPES]
    for i, (axis, condition) in enumerate(zip(axes, conditions, strict=True)):
        for k, variant in enumerate(variants):
            for y, kind in enumerate(TYPES):
                errors = [of[kind] for (v, _, c), of in errors_by_run.items() if (v, c) == (variant, condition)]
                gains = [error.nds_gain if kind == WRONG_HEADING else error.map_gain for error in errors]
                if gains:
                    at = y + (k - (len(variants) - 1) / 2) * step
                    mean = sum(gains) / len(gains)
                    marks = axis.plot(gains, [at] * len(gains), "o", mfc="none", mec=palette[variant], ms=5, mew=1)
                    marks += axis.plot(mean, at, "D", color=palette[variant], ms=4)
                    hint = f"{variant}, {condition}: {labels[y]} {number(mean)} if fixed. Runs: {len(gains)}"
                    tag(marks, variant, condition, hint)
        for y in range(len(TYPES) - 1):
            axis.axhline(y + 0.5, color="0.9", lw=0.8, zorder=0)
        axis.grid(axis="y", visible=False)
        axis.set_title(condition)
        tag(axis, condition=condition)
        axis.set_xlabel("gain if fixed")
        variant_axis(axis, labels, i % 3 == 0, kind="")
        axis.set_xlim(left=-0.03 * axis.get_xlim()[1])  # rings at 0 are complete
    legend_below(figure, palette, variants)
    return figure


def reliability_figure(diagnoses: Mapping[Key, Diagnosis], palette: Mapping[str, Colour]) -> Figure | None:
    """A panel per condition, a line per variant; None where there are no matches."""
    lines: dict[str, dict[str, Reliability]] = {}
    for (variant, _, condition), diagnosis in diagnoses.items():
        if diagnosis.reliability:
            by_variant = lines.setdefault(condition, {})
            parts = [by_variant[variant]] if variant in by_variant else []
            by_variant[variant] = reduce(add, [*parts, *diagnosis.reliability.values()])
    return _diagrams(dict(list(lines.items())[:MAX_CONDITIONS]), palette, "score", "precision")


def weights_figure(weights: Mapping[str, Mapping[str, Reliability]], palette: Mapping[str, Colour]) -> Figure | None:
    """A panel per sensor, a line per variant with a router; None where no router has differing weights."""
    return _diagrams(weights, palette, "weight", "share with the sensor", lambda share: 2 * share - 1)


def _diagrams(
    lines: Mapping[str, Mapping[str, Reliability]],
    palette: Mapping[str, Colour],
    x_label: str,
    y_label: str,
    to_x=lambda share: share,
) -> Figure | None:
    """``lines``: by panel and variant."""
    lines = {title: by_variant for title, by_variant in lines.items() if by_variant}
    if not lines:
        return None
    figure, axes = panels(len(lines), 2.9, width=2.9)
    drawn: dict[str, None] = {}
    for i, (axis, (title, by_variant)) in enumerate(zip(axes, lines.items(), strict=True)):
        axis.plot([to_x(0), to_x(1)], [0, 1], color=GREY, lw=0.9, ls="--", zorder=0)
        for variant, bins in by_variant.items():
            enough = bins.count >= MIN_IN_BIN
            line = axis.plot(
                to_x(bins.mean_score[enough]), bins.precision[enough], "o-", color=palette[variant], ms=3.5, lw=1.4
            )
            tag(line, variant, text=f"{variant}, {title}")
            if enough.any():
                drawn[variant] = None
        axis.set(title=title, xlabel=x_label, xlim=(to_x(0), to_x(1)), ylim=(0, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1])
        axis.set_xticks([to_x(share) for share in (0.25, 0.5, 0.75)])  # those of neighbours would touch at the ends
        if i % 3 == 0:
            axis.set_ylabel(y_label)
    if not drawn:
        return drop(figure)
    legend_below(figure, palette, list(drawn))
    return figure
