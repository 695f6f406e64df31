"""Draw one sample: detections and ground truth on the six images and in bird's-eye view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np

TRUTH_COLOUR, DETECTION_COLOUR = "#009E73", "#D55E00"  # colour-blind safe green and vermilion
NEAR_M = 0.1
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
# Order of the cameras in the picture: front row, back row.
CAMERA_GRID = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")


@dataclass(frozen=True)
class DrawnBoxes:
    """Boxes in the LiDAR frame: [n, 7] gravity centre x, y, z (m), l, w, h (m), yaw (rad, counter-clockwise from x)."""

    boxes_n7: np.ndarray
    labels: Sequence[str]
    scores: np.ndarray | None = None

    def above(self, threshold: float) -> DrawnBoxes:
        """Those with at least this score."""
        return self.select(self.scores >= threshold)

    def select(self, keep_n: np.ndarray) -> DrawnBoxes:
        """Those that the bool array selects."""
        scores = None if self.scores is None else self.scores[keep_n]
        return DrawnBoxes(self.boxes_n7[keep_n], [self.labels[i] for i in np.flatnonzero(keep_n)], scores)


def corners(boxes_n7: np.ndarray) -> np.ndarray:
    """[n, 8, 3]: bottom face (front left, front right, back right, back left), then the top face likewise."""
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2
    local = np.concatenate([np.c_[signs, np.full(4, -0.5)], np.c_[signs, np.full(4, 0.5)]])
    offset = local[None] * boxes_n7[:, None, 3:6]
    cos, sin = np.cos(boxes_n7[:, 6:7]), np.sin(boxes_n7[:, 6:7])
    x = offset[..., 0] * cos - offset[..., 1] * sin
    y = offset[..., 0] * sin + offset[..., 1] * cos
    return np.stack([x, y, offset[..., 2]], -1) + boxes_n7[:, None, :3]


def projected_edges(boxes_n7: np.ndarray, lidar2img: np.ndarray) -> list[np.ndarray]:
    """Edges [2, 2] (u, v) in pixels of all boxes, cut at the near plane; edges behind the camera are left out."""
    homogeneous = np.concatenate([corners(boxes_n7), np.ones((len(boxes_n7), 8, 1))], -1) @ lidar2img.T
    edges = []
    for box in homogeneous[..., :3]:
        for i, j in EDGES:
            a, b = box[i], box[j]
            if a[2] < NEAR_M and b[2] < NEAR_M:
                continue
            if a[2] < NEAR_M or b[2] < NEAR_M:
                cut = a + (b - a) * (NEAR_M - a[2]) / (b[2] - a[2])
                a, b = (cut, b) if a[2] < NEAR_M else (a, cut)
            edges.append(np.stack([a[:2] / a[2], b[:2] / b[2]]))
    return edges


def edges_in_image(boxes_n7: np.ndarray, lidar2img: np.ndarray, width: int, height: int) -> list[np.ndarray]:
    """The parts of :func:`projected_edges` that are in an image of this size in pixels."""
    inside = []
    for start, end in projected_edges(boxes_n7, lidar2img):
        along = end - start
        # Where on the edge, 0 .. 1, it crosses the borders: on either axis on the way in, and on the way out.
        enters, leaves = np.sort(np.stack([-start, [width, height] - start]) / np.where(along, along, 1e-9), 0)
        first, last = max(0.0, enters.max()), min(1.0, leaves.min())
        if first < last:
            inside.append(np.stack([start + first * along, start + last * along]))
    return inside


def draw_sample(
    path: str | Path,
    images: Mapping[str, np.ndarray],
    lidar2img: Mapping[str, np.ndarray],
    points: np.ndarray,
    truth: DrawnBoxes | None,
    detections: DrawnBoxes,
    title: str,
    range_m: float = 40.0,
    cameras: Sequence[str] = CAMERA_GRID,
) -> None:
    """Write a PNG: the views (RGB uint8 [h, w, 3], absent ones grey) and the BEV; truth green, detections vermilion.

    Args:
        lidar2img: 4 x 4 per camera, LiDAR frame in metres to pixels of the given images.
        points: [P, >=3], LiDAR frame; drawn in the BEV.
        detections: with scores; the BEV labels those that are drawn.
        cameras: of the detector; without any, only the BEV is drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    figure = plt.figure(figsize=(17, 6.0) if cameras else (7.5, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=[1, 1, 1, 1.25]) if cameras else figure.add_gridspec(1, 1)
    for index, camera in enumerate(CAMERA_GRID if cameras else ()):
        axes = figure.add_subplot(grid[index // 3, index % 3])
        axes.set_title(camera, fontsize=9)
        if camera not in images:
            axes.set(xticks=[], yticks=[], facecolor="0.9")
            continue
        image = images[camera]
        axes.imshow(image, aspect="equal")
        for boxes, colour, width in ((truth, TRUTH_COLOUR, 1.6), (detections, DETECTION_COLOUR, 1.0)):
            if boxes is not None and len(boxes.boxes_n7):
                edges = projected_edges(boxes.boxes_n7, lidar2img[camera])
                axes.add_collection(LineCollection(edges, colors=colour, linewidths=width))
        axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=[], yticks=[])
    bev = figure.add_subplot(grid[:, -1])
    near = points[(np.abs(points[:, :2]) < range_m).all(1)]
    bev.scatter(near[:, 0], near[:, 1], s=0.3, c="0.6", linewidths=0)
    for boxes, colour, width in ((truth, TRUTH_COLOUR, 1.6), (detections, DETECTION_COLOUR, 1.0)):
        if boxes is None or not len(boxes.boxes_n7):
            continue
        flat = corners(boxes.boxes_n7)[:, :4, :2]
        front = flat[:, :2].mean(1)
        lines = [*np.concatenate([flat, flat[:, :1]], 1), *np.stack([flat.mean(1), front], 1)]
        bev.add_collection(LineCollection(lines, colors=colour, linewidths=width))
    bev.plot(0, 0, marker="+", color="black")
    bev.set(xlim=(-range_m, range_m), ylim=(-range_m, range_m), aspect="equal", xlabel="x (m)", ylabel="y (m)")
    handles = [Line2D([], [], color=DETECTION_COLOUR, label=f"detections ({len(detections.boxes_n7)})")]
    if truth is not None:
        handles.insert(0, Line2D([], [], color=TRUTH_COLOUR, label=f"ground truth ({len(truth.boxes_n7)})"))
    bev.legend(handles=handles, loc="upper right", fontsize=8)
    bev.set_title("bird's-eye view, LiDAR frame", fontsize=9)
    lines = title.splitlines() if cameras else [part for line in title.splitlines() for part in wrap(line, 80)]
    figure.suptitle("\n".join(lines), fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
