"""A page to look at samples in 3D: one file, no network, boxes by outcome; without script and in print a top view."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from aqr_bench.atomic import write_text
from aqr_bench.report.figures.detections import CAMERA_GRID, DrawnBoxes, corners, edges_in_image
from aqr_bench.report.viewer.attention import encode_attention
from aqr_bench.report.viewer.sample_view import FALSE_NEGATIVE, FALSE_POSITIVE, OUTCOMES, TRUE_POSITIVE, SampleView

MAX_POINTS = 16_000  # of a cloud in the page
UNIT_M = 0.01  # of a coordinate: int16 reaches 327 m
IMAGE_WIDTH = 400  # pixels
RANGE_M = 40.0  # half side of the top view
TOP_PIXELS = 480
HEIGHTS_M = (-3.0, 3.0)  # colours of points: LiDAR frame, ground near -1.8
SHADES = 16


def write_viewer(path: str | Path, views: Sequence[SampleView], caption: str, columns: int = 0) -> Path:
    """Write the page with one panel for each view, all turned and zoomed together.

    Args:
        views: of one sample, under several conditions or of several models.
        caption: what is shown, for the head of the page.
        columns: panels in a row on a wide screen; 0: all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    files = {
        kind: Markup((Path(__file__).parent / f"viewer.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js")
    }
    text = environment.get_template("viewer.html.j2").render(
        title=f"Sample {views[0].token[:8]}",
        caption=caption,
        panels=[_panel(view) for view in views],
        columns=columns or len(views),
        outcomes=OUTCOMES,
        range_m=RANGE_M,
        **files,
    )
    return write_text(path, text)


def _panel(view: SampleView) -> dict[str, Any]:
    """What the template needs of a view."""
    boxes = view.boxes_by_outcome()
    drawn = decimate(view.points_P4, MAX_POINTS)
    names = {TRUE_POSITIVE: "true positives", FALSE_POSITIVE: "false positives", FALSE_NEGATIVE: "false negatives"}
    counts = ", ".join(f"{len(boxes[outcome].labels)} {name}" for outcome, name in names.items())
    share = "" if len(drawn) == len(view.points_P4) else f", {len(drawn):,} drawn"
    attention = encode_attention(view.attention) if view.attention else None
    return {
        "title": " · ".join(part for part in (view.condition, view.model) if part),
        "facts": f"{counts} (scores from {view.threshold:g}); {len(view.points_P4):,} points{share}",
        "data": _json({"points": encode_points(drawn), "boxes": _box_entries(boxes), "attention": attention}),
        "attention": attention,
        "top": {"source": _top_view(view.points_P4), "paths": _top_paths(boxes)},
        "images": [_image(view, camera, boxes) for camera in CAMERA_GRID] if view.images else [],
    }


def _json(content: Any) -> Markup:
    """JSON that may be inside of a script element, whatever its texts are."""
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))


def decimate(points_P4: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the points, drawn at random and always the same ones."""
    if len(points_P4) <= count:
        return points_P4
    return points_P4[np.sort(np.random.default_rng(0).choice(len(points_P4), count, replace=False))]


def encode_points(points_P4: np.ndarray) -> dict[str, Any]:
    """Points by colour: ``xyz``, base64 of little-endian int16 [P, 3] in UNIT_M, and ``ends`` of the shades."""
    low, high = HEIGHTS_M
    shade = ((points_P4[:, 2] - low) / (high - low) * SHADES).clip(0, SHADES - 1).astype(int)
    order = np.argsort(shade, kind="stable")
    limit = np.iinfo(np.int16).max
    xyz = (points_P4[order, :3] / UNIT_M).round().clip(-limit, limit).astype("<i2")
    ends = np.searchsorted(shade[order], np.arange(SHADES), side="right").tolist()
    return {"xyz": base64.b64encode(xyz.tobytes()).decode(), "ends": ends, "unit": UNIT_M}


def _box_entries(boxes: Mapping[str, DrawnBoxes]) -> list[list[Any]]:
    """[outcome, text, x, y, z, l, w, h, yaw] of every box."""
    entries = []
    for outcome, group in boxes.items():
        scores = [""] * len(group.labels) if group.scores is None else [f" {score:.2f}" for score in group.scores]
        for label, score, box in zip(group.labels, scores, group.boxes_n7, strict=True):
            entries.append([outcome, f"{label}{score}", *np.asarray(box, float).round(2).tolist()])
    return entries


def _top_view(points_P4: np.ndarray) -> str:
    """The cloud from above as a PNG: transparent but for the points, x to the right, y upwards."""
    from PIL import Image

    cell = np.floor((points_P4[:, :2] + RANGE_M) * (TOP_PIXELS / (2 * RANGE_M))).astype(int)
    cell = cell[((cell >= 0) & (cell < TOP_PIXELS)).all(1)]
    pixels = np.zeros((TOP_PIXELS, TOP_PIXELS), np.uint8)
    pixels[TOP_PIXELS - 1 - cell[:, 1], cell[:, 0]] = 1
    image = Image.fromarray(pixels, "P")
    image.putpalette([255, 255, 255, 125, 135, 145])
    return _address(image, "png", transparency=0, bits=1, optimize=True)


def _top_paths(boxes: Mapping[str, DrawnBoxes]) -> dict[str, str]:
    """Outlines of the boxes from above as SVG paths in metres, y downwards; with a line from centre to front."""
    paths = {}
    for outcome, group in boxes.items():
        flat = corners(group.boxes_n7)[:, :4, :2] * [1, -1]
        lines = [[*box, box[0], (box[0] + box[1]) / 2, box.mean(0)] for box in flat if np.abs(box).max() < 2 * RANGE_M]
        paths[outcome] = _path(lines, 1)
    return paths


def _image(view: SampleView, camera: str, boxes: Mapping[str, DrawnBoxes]) -> dict[str, Any]:
    """A small JPEG, None where the camera is absent, and the projected boxes in pixels of the image itself."""
    from PIL import Image

    name = camera.removeprefix("CAM_").replace("_", " ").lower()
    if camera not in view.images:
        return {"name": name, "source": None}
    pixels = np.ascontiguousarray(view.images[camera]).round().clip(0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    if width > IMAGE_WIDTH:
        image = image.resize((IMAGE_WIDTH, round(height * IMAGE_WIDTH / width)))
    paths = {}
    for outcome, group in boxes.items():
        paths[outcome] = _path(edges_in_image(group.boxes_n7, view.lidar2img[camera], width, height), 0)
    x0, y0, x1, y1 = 100 * view.area_of(camera)
    area = f"left:{x0:.2f}%;top:{y0:.2f}%;width:{x1 - x0:.2f}%;height:{y1 - y0:.2f}%"
    return {
        "name": name,
        "source": _address(image, "jpeg", quality=78),
        "size": (width, height),
        "paths": paths,
        "number": list(view.images).index(camera),
        "area": area,
    }


def _path(lines: Sequence[Sequence[np.ndarray]], digits: int) -> str:
    """Lines as the ``d`` of an SVG path."""
    return "".join("M" + "L".join(f"{x:.{digits}f} {y:.{digits}f}" for x, y in line) for line in lines)


def _address(image: Any, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
