"""A recording for the Rerun viewer: clouds, images, boxes by outcome, queries and their windows, over time.

The one module that needs rerun-sdk (extra ``viewer``).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.atomic import atomic_write
from aqr_bench.errors import UserError
from aqr_bench.report.figures.attention import attention_caption
from aqr_bench.report.figures.detections import CAMERA_GRID, DrawnBoxes, edges_in_image
from aqr_bench.report.viewer.sample_view import (
    DETECTED_OBJECT,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    QueryViews,
    SampleView,
)

# Colour-blind safe, as on the page.
COLOURS = {TRUE_POSITIVE: "#00875f", FALSE_POSITIVE: "#d55e00", FALSE_NEGATIVE: "#0064a8", DETECTED_OBJECT: "#8a949e"}
NAMES = {
    TRUE_POSITIVE: "true_positives",
    FALSE_POSITIVE: "false_positives",
    FALSE_NEGATIVE: "false_negatives",
    DETECTED_OBJECT: "detected_objects",
}
JPEG_QUALITY = 85
CLOUD, HEIGHTS_M = ("#5a7896", "#dcdcaa"), (-3.0, 3.0)  # from low to high; LiDAR frame, ground near -1.8
HEAT = ("#ffeda0", "#feb24c", "#fc4e2a", "#b10026")  # of attention, from small to large
MIN_WEIGHT = 0.01
Log = Callable[..., None]  # of an entity, as a list of names, and what it has
GROUND_M = -1.8  # in the LiDAR frame of nuScenes


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


def write_recording(path: str | Path, frames: Iterable[Sequence[SampleView]]) -> Path:
    """Write an .rrd file.

    Args:
        frames: samples in the order of time, at least one; of each the same models and conditions in the same order.
            Each of these is an entity ``/<model>/<condition>`` with a 3D view of its own.
    """
    rr = require_rerun()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remaining = iter(frames)
    first = next(remaining)
    recording = rr.RecordingStream("aqr_bench", recording_id=first[0].token)
    with atomic_write(path) as temporary:
        recording.save(temporary, default_blueprint=_blueprint(first))
        before: set[tuple[str, ...]] = set()
        for number, views in enumerate(itertools.chain([first], remaining)):
            recording.set_time("keyframe", sequence=number)
            recording.set_time("time", timestamp=views[0].timestamp_s)
            now: set[tuple[str, ...]] = set()
            for view in views:
                _log_view(partial(_log, recording, now), view)
            for entity in before - now:
                recording.log(list(entity), rr.Clear(recursive=False))  # or the viewer would go on with it
            before = now
        recording.flush(blocking=True)
        recording.disconnect()
    return path


def _log(recording: Any, logged: set[tuple[str, ...]], entity: Sequence[str], *archetypes: Any) -> None:
    recording.log(list(entity), *archetypes)
    logged.add(tuple(entity))


def _root(view: SampleView) -> list[str]:
    return [view.model or "model", view.condition]


def _blueprint(views: Sequence[SampleView]) -> Any:
    """Tabs with a column for each model and condition: detections; queries with their windows; attention."""
    import rerun.blueprint as rrb

    boxes = ["+ $origin/**", *(f"- $origin/{name}/**" for name in ("queries", "windows", "other_windows", "attention"))]
    queries = [*boxes, "+ $origin/queries", "+ $origin/windows"]
    tabs = [rrb.Horizontal(*[_column(view, boxes) for view in views], name="detections")]
    if any(view.queries is not None for view in views):
        tabs.append(rrb.Horizontal(*[_column(view, queries) for view in views], name="queries"))
    attention = [_column(view, [*boxes, *_last_layer(view)]) for view in views if view.attention]
    if attention:
        tabs.append(rrb.Horizontal(*attention, name="attention"))
    return rrb.Blueprint(rrb.Tabs(*tabs, active_tab=0), collapse_panels=True)


def _last_layer(view: SampleView) -> list[str]:
    """The attention of the first query in the last layer, with the bias."""
    reason, attention = next(iter(view.attention.items()))
    path = f"$origin/attention/{_escaped(reason)}"
    return [f"+ {path}", f"+ {path}/{_escaped(f'layer {len(attention.layers)}')}/{_escaped('with bias')}"]


def _column(view: SampleView, contents: Sequence[str]) -> Any:
    """The 3D view above the images, with these entities."""
    import rerun.blueprint as rrb

    root = "/".join(_escaped(part) for part in _root(view))
    cameras = [camera for camera in CAMERA_GRID if camera in view.images]
    images = [rrb.Spatial2DView(origin=f"{root}/{camera}", name=camera, contents=contents) for camera in cameras]
    space = rrb.Spatial3DView(origin=f"{root}/lidar", name=" ".join(_root(view)), contents=contents)
    return rrb.Vertical(space, rrb.Grid(*images, grid_columns=3), row_shares=[3, 2]) if images else space


def _escaped(part: str) -> str:
    import rerun

    return rerun.escape_entity_path_part(part)


def _log_view(log: Log, view: SampleView) -> None:
    import rerun as rr

    root, boxes = _root(view), view.boxes_by_outcome()
    colours = _ramp(np.interp(view.points_P4[:, 2], HEIGHTS_M, (0, 1)), CLOUD)
    log([*root, "lidar", "cloud"], rr.Points3D(view.points_P4[:, :3], colors=colours, radii=rr.Radius.ui_points(1)))
    log([*root, "lidar", "sample"], rr.AnyValues(token=view.token, scene=view.scene))
    for outcome, group in boxes.items():
        log([*root, "lidar", NAMES[outcome]], _boxes_3d(group, COLOURS[outcome]))
    for camera, image in view.images.items():
        log([*root, camera], rr.EncodedImage(contents=_jpeg(image), media_type="image/jpeg"))
        for outcome, group in boxes.items():
            # The view is as large as what is in it.
            edges = edges_in_image(group.boxes_n7, view.lidar2img[camera], image.shape[1], image.shape[0])
            strips = rr.LineStrips2D(edges, colors=[_rgb(COLOURS[outcome])] * len(edges))
            log([*root, camera, NAMES[outcome]], strips)
    if view.queries is not None:
        _log_queries(log, root, view, view.queries)
    _log_attention(log, root, view)


def _log_queries(log: Log, root: list[str], view: SampleView, queries: QueryViews) -> None:
    """Points: red by LiDAR weight, blue by camera weight, larger by score. Windows: rectangles in the same colours.

    ``windows`` are those of queries with a score that a detection needs; as there are hundreds, the rest are apart.
    """
    import rerun as rr

    share_Q2 = (queries.weight_Q2.clip(-1, 1) + 1) / 2
    colours = (np.stack([share_Q2[:, 0], np.full(len(share_Q2), 0.3), share_Q2[:, 1]], 1) * 255).astype(np.uint8)
    points = rr.Points3D(queries.reference_Q3, colors=colours, radii=0.15 + 0.6 * queries.score_Q)
    facts = rr.AnyValues(
        lidar_weight=queries.weight_Q2[:, 0], camera_weight=queries.weight_Q2[:, 1], score=queries.score_Q
    )
    log([*root, "lidar", "queries"], points, facts)
    confident_Q = queries.score_Q >= view.threshold
    for name, chosen_Q in (("windows", confident_Q), ("other_windows", ~confident_Q)):
        if queries.bev_window_Q4 is not None:
            x0, y0, x1, y1 = queries.bev_window_Q4[chosen_Q].T
            z = queries.reference_Q3[chosen_Q, 2]
            ring = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z), (x0, y0, z)]
            strips = np.stack([np.stack(corner, -1) for corner in ring], 1)
            log([*root, "lidar", name], rr.LineStrips3D(strips, colors=colours[chosen_Q], radii=rr.Radius.ui_points(1)))
        windows_W6 = queries.camera_windows_W6[chosen_Q[queries.camera_windows_W6[:, 0].astype(int)]]
        for index, camera in enumerate(view.images):
            rows = windows_W6[windows_W6[:, 1] == index]
            low, high = _pixels(view, camera, rows[:, 2:4]), _pixels(view, camera, rows[:, 4:6])
            boxes = rr.Boxes2D(mins=low, sizes=high - low, colors=colours[rows[:, 0].astype(int)])
            log([*root, camera, name], boxes)


def _pixels(view: SampleView, camera: str, share_n2: np.ndarray) -> np.ndarray:
    """Pixels [n, 2] of the drawn image, of points as shares of the network's input."""
    height, width = view.images[camera].shape[:2]
    x0, y0, x1, y1 = view.area_of(camera)
    return (share_n2 * [x1 - x0, y1 - y0] + [x0, y0]) * [width, height]


def _log_attention(log: Log, root: list[str], view: SampleView) -> None:
    """Points at the cells with attention in entities ``attention/<reason>/layer <n>/<with or without bias>``.

    They are below the cloud, and below every image. Colours are of the square root of the weight, on one scale without
    and with the bias; ``weight`` is the weight itself. Cells with less than MIN_WEIGHT of the largest are left out.
    """
    import rerun as rr

    for reason, attention in view.attention.items():
        facts = rr.AnyValues(query=attention.query, score=attention.score, caption=attention_caption(attention))
        reference = rr.Points3D([attention.reference_3], colors=[[0, 0, 0]], radii=0.3)
        log([*root, "lidar", "attention", reason], reference, facts)
        for number, layer in enumerate(attention.layers, start=1):
            sides = {"without bias": layer.plain_K, "with bias": layer.biased_K}
            if attention.window_K is None:
                del sides["without bias"]
            maps = {side: attention.maps(weights_K) for side, weights_K in sides.items()}
            largest = [max(m.max() for m in part) for part in zip(*maps.values(), strict=True) if part[0] is not None]
            for side, (bev, cameras) in maps.items():
                path = ["attention", reason, f"layer {number}", side]
                if bev is not None:
                    x0, y0, _, x1, y1, _ = attention.layout.pc_range
                    share_n2, weight_n, colours = _heat(bev, largest[0])
                    xy_n2 = share_n2 * [x1 - x0, y1 - y0] + [x0, y0]
                    position = np.c_[xy_n2, np.full(len(xy_n2), GROUND_M)]
                    points = rr.Points3D(position, colors=colours, radii=0.45 * (x1 - x0) / bev.shape[1])
                    log([*root, "lidar", *path], points, rr.AnyValues(weight=weight_n))
                for camera, cells in zip(view.images, () if cameras is None else cameras, strict=False):
                    share_n2, weight_n, colours = _heat(cells, largest[-1])
                    width = np.ptp(_pixels(view, camera, np.array([[0, 0], [1 / cells.shape[1], 0]]))[:, 0])
                    points = rr.Points2D(_pixels(view, camera, share_n2), colors=colours, radii=0.45 * width)
                    log([*root, camera, *path], points, rr.AnyValues(weight=weight_n))


def _heat(weights: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the cells that are drawn the centres [n, 2] as shares of the map, the weights [n] and the colours [n, 4]."""
    row, col = np.nonzero(weights > MIN_WEIGHT * largest)
    weight_n = weights[row, col]
    strength_n = np.sqrt(weight_n / (largest or 1.0))
    share_n2 = (np.stack([col, row], 1) + 0.5) / weights.shape[::-1]
    return share_n2, weight_n, np.c_[_ramp(strength_n, HEAT), 60 + 195 * strength_n].astype(np.uint8)


def _ramp(value_n: np.ndarray, stops: Sequence[str]) -> np.ndarray:
    """Colours, uint8 [n, 3], of values 0 .. 1 between evenly spaced stops."""
    channels = np.array([_rgb(stop) for stop in stops]).T
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(value_n, at, channel) for channel in channels], 1).astype(np.uint8)


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
