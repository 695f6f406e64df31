"""Frames as a grid: one row per corruption severity, one column per camera, and the bird's-eye view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqr_bench.corruptions import Frame
from aqr_bench.corruptions.frame import INTENSITY, merged_xyz
from aqr_bench.report.figures.detections import CAMERA_GRID, TRUTH_COLOUR, corners, projected_edges

VIEW_WIDTH = 480  # pixels of an image in the grid


@dataclass(frozen=True)
class GridRow:
    """One row of the grid: a frame, or the reason why there is none; ``project``: draw the boxes on the images."""

    label: str
    frame: Frame | None
    reason: str = ""
    project: bool = False


def draw_frame_grid(
    path: str | Path, rows: Sequence[GridRow], title: str, cameras: Sequence[str] = CAMERA_GRID, range_m: float = 40.0
) -> None:
    """Write a picture (PNG or JPEG by its name): one row per frame, one column per camera, the BEV at the end.

    Args:
        cameras: channels to show, in this order; one that a frame does not have is marked as absent.
        range_m: half side of the BEV, LiDAR frame. Colour of a point: its intensity.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Inches, laid out by hand: constrained layout would widen every column by the width of the labels.
    label = 0.12 + 0.07 * max(len(line) for row in rows for line in row.label.split("\n"))
    widths, height, head = [2.15] * len(cameras) + [1.25], 1.25, 0.55
    size = (label + sum(widths) + 0.05, height * len(rows) + head)
    figure, axes = plt.subplots(
        len(rows),
        len(widths),
        figsize=size,
        squeeze=False,
        gridspec_kw={
            "width_ratios": widths,
            "left": label / size[0],
            "right": 1 - 0.05 / size[0],
            "top": 1 - head / size[1],
            "bottom": 0.02 / size[1],
            "wspace": 0.02,
            "hspace": 0.04,
        },
    )
    for number, (row, line) in enumerate(zip(rows, axes, strict=True)):
        for camera, axis in zip(cameras, line[:-1], strict=True):
            _draw_view(axis, row, camera)
            if number == 0:
                axis.set_title(camera.removeprefix("CAM_").replace("_", " ").lower(), fontsize=8)
        _draw_bev(line[-1], row, range_m)
        line[0].set_ylabel(row.label, fontsize=8, rotation=0, ha="right", va="center")
        if number == 0:
            line[-1].set_title(f"LiDAR, ±{range_m:g} m", fontsize=8)
        if row.frame is None:
            line[len(cameras) // 2].text(
                0.5,
                0.5,
                _wrapped(row.reason),
                ha="center",
                va="center",
                fontsize=8,
                transform=line[len(cameras) // 2].transAxes,
            )
    figure.suptitle(title, fontsize=10, y=1 - 0.05 / size[1], va="top")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, **({"pil_kwargs": {"quality": 80}} if Path(path).suffix == ".jpg" else {}))
    plt.close(figure)


def _draw_view(axes, row: GridRow, camera: str) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if row.frame is None:
        axes.patch.set_visible(False)  # it would cover the reason, which is wider than one column
        return
    view = next((view for view in row.frame.views if view.camera == camera), None)
    if view is None:
        axes.text(0.5, 0.5, "absent", ha="center", va="center", fontsize=8, color="0.4", transform=axes.transAxes)
        axes.set_facecolor("0.9")
        return
    height, width = view.image.shape[:2]
    axes.imshow(_small(view.image)[..., ::-1], aspect="equal", extent=(0, width, height, 0))
    if row.project and row.frame.boxes is not None and len(row.frame.boxes):
        from matplotlib.collections import LineCollection

        edges = projected_edges(row.frame.boxes, view.lidar2img)
        axes.add_collection(LineCollection(edges, colors=TRUTH_COLOUR, linewidths=0.5))
        axes.set(xlim=(0, width), ylim=(height, 0))


def _draw_bev(axes, row: GridRow, range_m: float) -> None:
    axes.set(xlim=(-range_m, range_m), ylim=(-range_m, range_m), aspect="equal", xticks=[], yticks=[])
    if row.frame is None:
        axes.set_axis_off()
        return
    xyz = merged_xyz(row.frame)
    near = (np.abs(xyz[:, :2]) < range_m).all(1)
    if any(cloud.points.shape[1] > INTENSITY for cloud in row.frame.clouds):
        shade = np.concatenate([cloud.points[:, INTENSITY] for cloud in row.frame.clouds])[near]
    else:
        shade = np.zeros(near.sum())
    axes.scatter(*xyz[near, :2].T, s=0.25, c=shade, cmap="viridis", vmin=0, vmax=80, linewidths=0, rasterized=True)
    if row.frame.boxes is not None and len(row.frame.boxes):
        from matplotlib.collections import LineCollection

        flat = corners(row.frame.boxes)[:, :4, :2]
        axes.add_collection(LineCollection(np.concatenate([flat, flat[:, :1]], 1), colors=TRUTH_COLOUR, linewidths=0.5))
    axes.text(
        0.02, 0.98, f"{len(xyz):,} points", ha="left", va="top", fontsize=6, transform=axes.transAxes,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _small(image: np.ndarray) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    if width <= VIEW_WIDTH:
        return image
    return cv2.resize(image, (VIEW_WIDTH, round(height * VIEW_WIDTH / width)), interpolation=cv2.INTER_AREA)


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 60)
