"""The figure of what each sensor is worth: a panel for each sensor, a row for each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from aqr_bench.corruptions.suites.missing_sensors import WITHOUT_SENSOR, ZERO
from aqr_bench.report.figures.marks import tag
from aqr_bench.report.figures.style import GREY, Colour, legend_below, on_white, panels, variant_axis
from aqr_bench.report.score_statistics import ScoreDifference, difference_text
from aqr_bench.report.sensor_worth import SENSOR_NAMES, WorthRow

MAX_CONDITIONS = 24  # more are in the table alone
CAPTION = (
    "What a sensor is worth: score under the condition minus that without the sensor (diamond; empty: nothing beyond "
    "the noise), with its 95 % interval over seeds (thick line) and over scenes (thin line, with ends)."
)


def worth_figure(rows: Sequence[WorthRow], palette: Mapping[str, Colour], metric: str) -> Figure | None:
    """None where there is no row of a sensor that is zero-filled."""
    rows = [row for row in rows if row.form == ZERO]
    conditions = list(dict.fromkeys(row.condition for row in rows))[:MAX_CONDITIONS]
    models = list(dict.fromkeys(row.model for row in rows))
    if not rows:
        return None
    step = 0.8 / len(models)
    figure, axes = panels(len(WITHOUT_SENSOR), 1.0 + len(conditions) * (0.18 + 0.2 * len(models)), width=4.0)
    axes[1].sharex(axes[0])  # so that the sensors compare
    for i, (axis, sensor) in enumerate(zip(axes, WITHOUT_SENSOR, strict=True)):
        for row in rows:
            if row.sensor == sensor and row.condition in conditions:
                y = conditions.index(row.condition) + (models.index(row.model) - (len(models) - 1) / 2) * step
                marks = _draw(axis, row.worth, y, step, palette[row.model])
                difference, over_seeds, over_scenes, _ = difference_text(row.worth)
                hint = f"{row.model}, {row.condition}: {metric} lost without {SENSOR_NAMES[sensor]} {difference}. "
                hint += f"95 %, seeds: {over_seeds}. 95 %, scenes: {over_scenes}. Runs: {row.worth.n}"
                tag(marks, row.model, row.condition, hint)
        for y in range(len(conditions) - 1):
            axis.axhline(y + 0.5, color="0.9", lw=0.8, zorder=0)
        axis.axvline(0, color=GREY, lw=0.9, ls="--", zorder=0)
        axis.grid(axis="y", visible=False)
        name = SENSOR_NAMES[sensor]
        axis.set_title(f"{name[0].upper()}{name[1:]}")
        axis.set_xlabel(f"{metric} lost without")
        variant_axis(axis, conditions, i == 0, "condition")
        axis.xaxis.set_major_locator(MaxNLocator(4, prune="both"))  # labels of neighbours would touch
    legend_below(figure, palette, models)
    return figure


def _draw(axis: Axes, worth: ScoreDifference, y: float, step: float, colour: Colour) -> list[Line2D]:
    marks = []
    if worth.low is not None:
        marks += axis.plot([worth.low, worth.high], [y, y], "-", color=colour, lw=2.2, solid_capstyle="butt")
    if worth.scenes is not None:
        marks += axis.plot(
            [worth.scenes.low, worth.scenes.high], [y + 0.3 * step] * 2, "|-", color=colour, lw=1.0, ms=4
        )
    fill = on_white(colour, 1.0 if worth.beyond_noise else 0.0)
    return marks + axis.plot(worth.mean, y, "D", color=colour, ms=5, mfc=fill)
