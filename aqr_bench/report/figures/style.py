"""How the figures of the report look: colours, panels, axes, legends, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aqr_bench.atomic import write_text
from aqr_bench.report.collect import BASE
from aqr_bench.report.figures.marks import marks_svg, tag
from aqr_bench.study.spec import Study

DPI = 150
PDF_FONTS = 42  # TrueType, that publishers ask for
GREY = "#555555"

Colour = tuple[float, float, float] | str


def colours(study: Study) -> dict[str, Colour]:
    """The colour of every variant of a study, in all of its figures."""
    return palette_of(study.variants, study.baseline)


def palette_of(variants: Iterable[str], baseline: str | None) -> dict[str, Colour]:
    """Colour-blind safe colours: grey for the baseline and base models, the others in their order.

    More than nine others cannot be distinguished by hue: they get the shades of one sequential palette.
    """
    others = [v for v in variants if v != baseline]
    palette = sns.color_palette("colorblind", 10)
    palette.pop(7)  # grey
    if len(others) > len(palette):
        palette = sns.color_palette("viridis", len(others))
    return {**({} if baseline is None else {baseline: GREY}), BASE: GREY, **dict(zip(others, palette, strict=False))}


def on_white(colour: Colour, strength: float) -> tuple[float, float, float]:
    """RGB of a colour mixed with white: 1 the colour itself, 0 white."""
    return tuple(1 - strength * (1 - channel) for channel in to_rgb(colour))


def theme(style: str, **more: object) -> None:
    """Set seaborn's theme for the figures that follow."""
    sns.set_theme(style=style, font_scale=0.95, rc={"pdf.fonttype": PDF_FONTS}, **more)


def save(figure: Figure, folder: Path, name: str, footer: str = "") -> Path:
    """Write ``<name>.png`` and ``<name>.pdf``, with the footer in their metadata; returns the PNG.

    ``<name>.svg`` as well where the page can use it: a figure of marks that is not too large.
    """
    # Layout is done once for both: it takes longer than drawing.
    figure.dpi = DPI
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])
    for suffix, metadata in (
        (".png", {"Description": footer or None}),
        (".pdf", {"CreationDate": None, "Subject": footer or None}),
    ):
        path = folder / f"{name}{suffix}"
        figure.savefig(path, dpi=DPI, bbox_inches=box, facecolor="white", metadata=metadata)
    svg = marks_svg(figure, name, bbox_inches=box)
    if svg is not None:
        write_text(folder / f"{name}.svg", svg)
    plt.close(figure)
    return folder / f"{name}.png"


def panels(
    count: int, height: float, width: float = 3.3, max_columns: int = 3, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most ``max_columns`` side by side, each of that size in inches."""
    columns = min(count, max_columns)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(width * columns, 4.6), height * rows), sharey=sharey, squeeze=False
    )
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    figure.set_layout_engine("constrained")
    return figure, flat[:count]


def variant_axis(axis: Axes, names: Sequence[str], first: bool, kind: str = "variant") -> None:
    """One row per name from top to bottom; names only at the first panel of a row.

    ``kind``: what the names are for the page to hide, "variant" or "condition"; empty for something else.
    """
    axis.set_ylim(len(names) - 0.5, -0.5)
    # The panels of a row share this axis: labels are hidden, not removed, where they would repeat.
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0, labelleft=first)
    axis.xaxis.set_major_locator(plt.MaxNLocator(4, min_n_ticks=2))
    if first:
        for name, label in zip(names, axis.get_yticklabels(), strict=True):
            tag(label, **({kind: name} if kind else {}))


def drop(figure: Figure) -> None:
    """Close a figure that is empty."""
    plt.close(figure)


def legend_below(figure: Figure, palette: Mapping[str, Colour], names: Sequence[str]) -> None:
    """One dot and name per variant below all panels."""
    handles = [Line2D([], [], marker="o", ls="", color=palette[n], label=n) for n in names]
    columns = max(1, min(len(names), int(figure.get_figwidth() / (0.09 * max(map(len, names)) + 0.5))))
    # The height of the panels leaves no room for more than one row of names.
    figure.set_figheight(figure.get_figheight() + 0.27 * (math.ceil(len(names) / columns) - 1))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    for name, handle, text in zip(names, legend.legend_handles, legend.get_texts(), strict=True):
        tag((handle, text), name)
