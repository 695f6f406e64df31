"""A recording for the Rerun viewer: clouds, images, boxes by outcome, queries and their windows, over time.

The one module that needs rerun-sdk (extra ``viewer``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.atomic import atomic_write
from aqr_bench.errors import UserError
from aqr_bench.report.figures.detections import CAMERA_GRID, DrawnBoxes, projected_edges
from aqr_bench.report.viewer.sample_view import (
    DETECTED_OBJECT,
    FALSE_POSITIVE,
    MISSED,
    TRUE_POSITIVE,
    QueryViews,
    SampleView,
)

# Colour-blind safe, as on the page.
COLOURS = {TRUE_POSITIVE: "#00875f", FALSE_POSITIVE: "#d55e00", MISSED: "#0064a8", DETECTED_OBJECT: "#8a949e"}
NAMES = {
    TRUE_POSITIVE: "true_positives",
    FALSE_POSITIVE: "false_positives",
    MISSED: "missed",
    DETECTED_OBJECT: "detected_objects",
}
JPEG_QUALITY = 85


def require_rerun() -> Any:
    """The module ``rerun``. UserError where the extra is not installed."""
    try:
        import rerun
    except ImportError as error:
        raise UserError(
            f"a recording (.rrd) needs rerun-sdk, which is not installed ({error})",
            "Run: pip install 'aqr-bench[viewer]'. A page (--out FILE.html) needs nothing.",
        ) from error
    return rerun


def write_recording(path: str | Path, frames: Sequence[Sequence[SampleView]]) -> Path:
    """Write an .rrd file.

    Args:
        frames: samples in the order of time; of each the same models and conditions in the same order. Each of these
            is an entity ``/<model>/<condition>`` with a 3D view of its own.
    """
    rr = require_rerun()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recording = rr.RecordingStream("aqr_bench", recording_id=frames[0][0].token)
    with atomic_write(path) as temporary:
        recording.save(temporary, default_blueprint=_blueprint(frames[0]))
        for number, views in enumerate(frames):
            recording.set_time("keyframe", sequence=number)
            recording.set_time("time", timestamp=views[0].timestamp_s)
            for view in views:
                _log_view(recording, view)
        recording.flush(blocking=True)
        recording.disconnect()
    return path


def _root(view: SampleView) -> list[str]:
    return [view.model or "model", view.condition]


def _blueprint(views: Sequence[SampleView]) -> Any:
    """3D views beside each other, the images of each below."""
    import rerun.blueprint as rrb

    columns = []
    for view in views:
        root = "/".join(_escaped(part) for part in _root(view))
        cameras = [camera for camera in CAMERA_GRID if camera in view.images]
        images = [rrb.Spatial2DView(origin=f"{root}/{camera}", name=camera) for camera in cameras]
        space = rrb.Spatial3DView(origin=f"{root}/lidar", name=" ".join(_root(view)))
        columns.append(rrb.Vertical(space, rrb.Grid(*images, grid_columns=3), row_shares=[3, 2]) if images else space)
    return rrb.Blueprint(rrb.Horizontal(*columns), collapse_panels=True)


def _escaped(part: str) -> str:
    import rerun

    return rerun.escape_entity_path_part(part)


def _log_view(recording: Any, view: SampleView) -> None:
    import rerun as rr

    root, boxes = _root(view), view.boxes_by_outcome()
    intensity = view.points_P4[:, 3] if view.points_P4.shape[1] > 3 else np.zeros(len(view.points_P4))
    grey = (60 + 1.5 * intensity).clip(0, 255).astype(np.uint8)
    colours = np.repeat(grey[:, None], 3, 1)
    recording.log([*root, "lidar", "cloud"], rr.Points3D(view.points_P4[:, :3], colors=colours, radii=0.04))
    recording.log([*root, "lidar", "sample"], rr.AnyValues(token=view.token, scene=view.scene))
    for outcome, group in boxes.items():
        recording.log([*root, "lidar", NAMES[outcome]], _boxes_3d(group, COLOURS[outcome]))
    for camera, image in view.images.items():
        recording.log([*root, camera], rr.EncodedImage(contents=_jpeg(image), media_type="image/jpeg"))
        for outcome, group in boxes.items():
            edges = projected_edges(group.boxes_n7, np.asarray(view.lidar2img[camera])) if len(group.labels) else []
            strips = rr.LineStrips2D(edges, colors=[_rgb(COLOURS[outcome])] * len(edges))
            recording.log([*root, camera, NAMES[outcome]], strips)
    if view.queries is not None:
        _log_queries(recording, root, view, view.queries)


def _log_queries(recording: Any, root: list[str], view: SampleView, queries: QueryViews) -> None:
    """Points: red by LiDAR weight, blue by camera weight, larger by score. Windows: rectangles in the same colours."""
    import rerun as rr

    share_Q2 = (queries.weight_Q2.clip(-1, 1) + 1) / 2
    colours = (np.stack([share_Q2[:, 0], np.full(len(share_Q2), 0.3), share_Q2[:, 1]], 1) * 255).astype(np.uint8)
    points = rr.Points3D(queries.reference_Q3, colors=colours, radii=0.15 + 0.6 * queries.score_Q)
    facts = rr.AnyValues(
        lidar_weight=queries.weight_Q2[:, 0], camera_weight=queries.weight_Q2[:, 1], score=queries.score_Q
    )
    recording.log([*root, "lidar", "queries"], points, facts)
    if queries.bev_window_Q4 is not None:
        x0, y0, x1, y1 = queries.bev_window_Q4.T
        z = queries.reference_Q3[:, 2]
        ring = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z), (x0, y0, z)]
        strips = np.stack([np.stack(corner, -1) for corner in ring], 1)
        recording.log([*root, "lidar", "windows"], rr.LineStrips3D(strips, colors=colours))
    for index, camera in enumerate(view.images):
        rows = queries.camera_windows_W6[queries.camera_windows_W6[:, 1] == index]
        height, width = view.images[camera].shape[:2]
        low, high = rows[:, 2:4] * [width, height], rows[:, 4:6] * [width, height]
        boxes = rr.Boxes2D(mins=low, sizes=high - low, colors=colours[rows[:, 0].astype(int)])
        recording.log([*root, camera, "windows"], boxes)


def _boxes_3d(group: DrawnBoxes, colour: str) -> Any:
    import rerun as rr

    half = group.boxes_n7[:, 6] / 2
    quaternions = np.stack([0 * half, 0 * half, np.sin(half), np.cos(half)], 1)
    scores = [""] * len(group.labels) if group.scores is None else [f" {score:.2f}" for score in group.scores]
    return rr.Boxes3D(
        centers=group.boxes_n7[:, :3],
        sizes=group.boxes_n7[:, 3:6],
        quaternions=quaternions,
        colors=[_rgb(colour)] * len(group.labels),
        labels=[f"{label}{score}" for label, score in zip(group.labels, scores, strict=True)],
        show_labels=False,
    )


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image).round().clip(0, 255).astype(np.uint8)).save(
        buffer, "jpeg", quality=JPEG_QUALITY
    )
    return buffer.getvalue()
