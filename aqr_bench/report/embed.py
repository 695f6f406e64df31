"""Figures and pictures as part of the page: SVG and data addresses, of limited size in total."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aqr_bench.errors import is_file
from aqr_bench.report.figures.marks import NAMESPACE
from aqr_bench.report.figures.style import DPI
from aqr_bench.report.section import ReportFigure
from aqr_bench.report.tables.table import CellStyle, ReportTable

PAGE_LIMIT = 4_900_000  # bytes of a page with its embedded images: it can be sent, and opens at once
MAX_PIXELS = 100_000_000  # of a picture in the page
PICTURE_WIDTH = 1600  # pixels
COLOURS = 256  # of a figure in the page; the file beside it has all


class Budget:
    """Bytes that a page of ``used`` bytes may still grow by."""

    def __init__(self, used: int = 0) -> None:
        self.left = PAGE_LIMIT - used

    def take(self, address: str) -> bool:
        """Count an embedded image; False, and nothing counted, where it does not fit any more."""
        if len(address) > self.left:
            return False
        self.left -= len(address)
        return True


def embed(data: bytes, kind: str) -> str:
    """An image as a data address."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


@dataclass(frozen=True)
class EmbeddedFigure:
    """A figure of the page: SVG whose marks the page's script hides, or an image as a data address.

    ``width`` in CSS pixels, as it was drawn (1/96 inch), so that the text of all has one size.
    """

    width: int
    svg: Markup | None = None
    source: str = ""

    @property
    def content(self) -> str:
        return self.svg or self.source


def embed_figures(figures: Iterable[ReportFigure], budget: Budget) -> dict[Path, EmbeddedFigure]:
    """The figures by path, without those that the page has no room for.

    Leading figures come first, then small ones: a single figure of a long suite takes the room of a hundred.
    """
    drawn = [(figure, _figure(figure.path)) for figure in figures]
    drawn.sort(key=lambda pair: (not pair[0].lead, len(pair[1].content)))
    return {figure.path: embedded for figure, embedded in drawn if budget.take(embedded.content)}


def _figure(path: Path) -> EmbeddedFigure:
    from PIL import Image

    drawing = path.with_suffix(".svg")
    if is_file(drawing):
        svg = drawing.read_text(encoding="utf-8").replace(f' xmlns="{NAMESPACE}"', "", 1)  # HTML needs none
        return EmbeddedFigure(int(re.search(r' width="(\d+)"', svg)[1]), Markup(svg))
    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        return EmbeddedFigure(round(image.width * 96 / DPI), source=embed(buffer.getvalue(), "png"))


def collect_pictures(folder: Path, budget: Budget) -> tuple[list[dict[str, Any]], list[str], str | None]:
    """Pictures below ``folder`` for the page, the names of those left out for their size, and a note.

    ``pictures.json``, where present, gives order, captions and run; without it all PNG files are taken by name. Every
    picture has source, caption and anchor, what its entry says of condition and run (None where it does not), and the
    name of its viewer, a page beside it with its stem, where there is one.
    """
    from PIL import Image

    index, note, run = folder / "pictures.json", None, None
    listed: list[dict] = []
    if index.is_file():
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            listed, note = [dict(entry) for entry in content["pictures"]], content.get("reason")
            run = dict(content["run"]) if content.get("run") else None  # files of earlier versions do not say
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            note = f"pictures.json cannot be read: {err}"
    if not listed and folder.is_dir():
        listed = [{"file": p.name} for p in sorted(folder.glob("*.png"))]
    pictures, left_out = [], []
    for entry in listed:
        path = folder / str(entry.get("file", ""))
        if not is_file(path):
            left_out.append(f"{path.name} (not found)")
            continue
        try:
            source = embed(_shrunk(path), "jpeg")
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as err:  # what PIL raises for damaged files
            left_out.append(f"{path.name} ({err})")
            continue
        if not budget.take(source):
            left_out.append(f"{path.name} (the page would grow too large)")
            continue
        sample = f", sample {entry['sample']}" if "sample" in entry else ""
        caption = entry.get("caption") or f"{entry.get('condition', path.stem)}{sample}"
        anchor = f"picture-{len(pictures) + 1}"
        condition = entry.get("condition")
        viewer = path.with_suffix(".html")
        facts = {"condition": condition, "run": run, "viewer": viewer.name if is_file(viewer) else None}
        pictures.append({"source": source, "caption": caption, "anchor": anchor, **facts})
    return pictures, left_out, note


def copy_viewers(folder: Path, out: Path) -> list[str]:
    """Copy the viewers of samples (``.html``) below ``folder`` into ``out``, and return their names."""
    for file in out.glob("*.html"):
        file.unlink()
    viewers = sorted(folder.glob("*.html")) if folder.is_dir() else []
    for file in viewers:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, out / file.name)
    return [file.name for file in viewers]


def link_pictures(table: ReportTable, study: str | None, pictures: Sequence[Mapping[str, Any]]) -> ReportTable:
    """The table of a study's runs (None: of the base models) with links from its conditions to pictures of that run."""
    anchors = {}
    for picture in reversed(pictures):  # the first one of a condition remains
        if (run := picture["run"]) is not None and run.get("study") == study:
            anchors[run.get("variant"), run.get("seed") if study else None, picture["condition"]] = picture["anchor"]
    if not anchors:
        return table
    rows = table.data.to_dict("records")
    of_rows = [anchors.get((r.get("variant") if study else None, r.get("seed"), r["condition"])) for r in rows]
    styles = {(i, "Condition"): CellStyle(link=anchor) for i, anchor in enumerate(of_rows) if anchor}
    return replace(table, styles={**table.styles, **styles})


def _shrunk(path: Path) -> bytes:
    """The picture as JPEG, at most PICTURE_WIDTH pixels wide. Raises OSError for a file that is no picture."""
    from PIL import Image

    with Image.open(path) as image:
        # nuscenes-devkit switches PIL's own limit off.
        if image.width * image.height > MAX_PIXELS:
            raise OSError(f"{image.width} x {image.height} pixels are too many")
        image = image.convert("RGB")
        if image.width > PICTURE_WIDTH:
            image = image.resize((PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width)))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
