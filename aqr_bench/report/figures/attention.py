"""The cross-attention of one query, layer by layer, without and with the bias: on the BEV map and on one camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aqr_bench.engine.attention_maps import QueryAttention

MAX_CELLS = 64  # of the BEV map, around the reference point
WINDOW_COLOUR = "#0072B2"
CELL, HEAD, LEFT = (3.1, 2.9), 0.75, 0.5  # inches: width and height of a panel, height of the title, labels
GAMMA = 0.5  # of the colour scale: small weights stay visible


def draw_attention(
    path: str | Path,
    attention: QueryAttention,
    images_NCHW: np.ndarray | None,
    points_PC: np.ndarray | None,
    title: str,
    cameras: Sequence[str],
) -> str:
    """Write the figure (PNG) and return its caption: what share of the attention is inside the window.

    Args:
        images_NCHW: what the network gets, BGR; None without cameras. points_PC: its cloud, None without LiDAR.
        cameras: names of the images.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layout, layers = attention.layout, attention.layers
    camera = _shown_camera(attention)
    sides = ("without the bias", "with the bias") if attention.window_K is not None else ("",)
    parts = [part for part, there in (("bev", layout.num_bev), ("camera", camera is not None)) if there]
    # Inches, laid out by hand: constrained layout takes several times as long as all the rest.
    rows, columns = len(layers), len(sides) * len(parts)
    width, height = LEFT + CELL[0] * columns, HEAD + CELL[1] * rows
    margins = dict(left=LEFT / width, right=1 - 0.08 / width, top=1 - (HEAD + 0.35) / height, bottom=0.32 / height)
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=(width, height), gridspec_kw=dict(wspace=0.14, hspace=0.38, **margins)
    )
    for number, (layer, row) in enumerate(zip(layers, axes, strict=True), start=1):
        weights = (layer.plain_K, layer.biased_K) if len(sides) == 2 else (layer.biased_K,)
        cells = iter(row)
        for part in parts:
            keys = slice(0, layout.num_bev) if part == "bev" else _camera_keys(attention, camera)
            largest = max(float(weights_K[keys].max()) for weights_K in weights) or 1.0
            for weights_K, side in zip(weights, sides, strict=True):
                axis = next(cells)
                if part == "bev":
                    _draw_bev(axis, attention, weights_K[keys], points_PC, largest)
                    share, name = weights_K[: layout.num_bev].sum(), "BEV"
                else:
                    image = None if images_NCHW is None else images_NCHW[camera]
                    _draw_camera(axis, attention, weights_K[keys], image, camera, largest)
                    share = weights_K[keys].sum()
                    name = cameras[camera].removeprefix("CAM_").replace("_", " ").lower()
                inside = "" if attention.window_K is None else _inside(attention, weights_K, keys)
                axis.set_title(f"{name} {share:.0%}{inside}\n{side}".strip(), fontsize=8)
        row[0].set_ylabel(f"layer {number}", fontsize=9)
    caption = attention_caption(attention)
    weight = "" if attention.weights is None else ", router: LiDAR {:+.2f}, camera {:+.2f}".format(*attention.weights)
    x, y, z = attention.reference_3
    head = [
        title,
        f"query {attention.query} (score {attention.score:.2f}) at x {x:.1f}, y {y:.1f}, z {z:.1f} m{weight}",
        "colour: square root of the weight, on one scale without and with the bias",
    ]
    figure.suptitle("\n".join(head), fontsize=9, y=1 - 0.08 / height, va="top")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Description": caption})
    plt.close(figure)
    return caption


def attention_caption(attention: QueryAttention) -> str:
    """The share of attention inside the window, layer by layer, without and with the bias."""
    name = f"Query {attention.query}" + (f", expert {attention.expert}" if attention.expert else "")
    if attention.window_K is None:
        return f"{name}: the model has no bias in its cross-attention."
    parts = []
    for number, layer in enumerate(attention.layers, start=1):
        plain, biased = (float(weights_K[attention.window_K].sum()) for weights_K in (layer.plain_K, layer.biased_K))
        parts.append(f"layer {number}: {plain:.1%} to {biased:.1%}")
    share = f"{attention.window_K.sum()} of {len(attention.window_K)} tokens"
    return (
        f"{name}: share of its attention {attention.region} ({share}) without and with the bias: "
        + ", ".join(parts)
        + ". Mean over heads; the bias is left out of one layer at a time, all else being equal."
    )


def _inside(attention: QueryAttention, weights_K: np.ndarray, keys: slice) -> str:
    return f", {attention.region} {weights_K[keys][attention.window_K[keys]].sum():.1%}"


def _camera_keys(attention: QueryAttention, camera: int) -> slice:
    _, rows, cols = attention.layout.camera_shape
    start = attention.layout.num_bev + camera * rows * cols
    return slice(start, start + rows * cols)


def _shown_camera(attention: QueryAttention) -> int | None:
    """The camera with most of the window's cells, else the one with the most attention; None without cameras."""
    layout = attention.layout
    if not layout.num_camera:
        return None
    per_camera = [_camera_keys(attention, camera) for camera in range(layout.camera_shape[0])]
    total_K = np.sum([layer.biased_K for layer in attention.layers], 0)
    if attention.window_K is not None and attention.window_K[layout.num_bev :].any():
        return int(np.argmax([attention.window_K[keys].sum() + 1e-3 * total_K[keys].sum() for keys in per_camera]))
    return int(np.argmax([total_K[keys].sum() for keys in per_camera]))


def _draw_bev(
    axis: Any, attention: QueryAttention, weights: np.ndarray, points: np.ndarray | None, largest: float
) -> None:
    from matplotlib.colors import PowerNorm

    rows, cols = attention.layout.bev_shape
    x0, y0, _, x1, y1, _ = attention.layout.pc_range
    norm = PowerNorm(GAMMA, 0, largest)
    axis.imshow(weights.reshape(rows, cols), origin="lower", extent=(x0, x1, y0, y1), cmap="YlOrRd", norm=norm)
    if points is not None:
        axis.scatter(points[:, 0], points[:, 1], s=0.15, c="black", alpha=0.35, linewidths=0, rasterized=True)
    x, y = attention.reference_3[:2]
    axis.plot(x, y, marker="+", color="black", markersize=7)
    if attention.window_K is not None:
        _outline(axis, attention.maps(attention.window_K)[0], np.array([x0, y0]), np.array([x1 - x0, y1 - y0]))
    half = np.array([x1 - x0, y1 - y0]) * MAX_CELLS / np.array([cols, rows]) / 2
    low, high, centre = np.array([x0, y0]), np.array([x1, y1]), np.array([x, y])
    if max(rows, cols) > MAX_CELLS:
        low, high = np.maximum(low, centre - half), np.minimum(high, centre + half)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axis.tick_params(labelsize=6)
    axis.set_xlabel("x (m)", fontsize=6, labelpad=1)


def _draw_camera(
    axis: Any, attention: QueryAttention, weights: np.ndarray, image_CHW: np.ndarray | None, camera: int, largest: float
) -> None:
    import matplotlib

    _, rows, cols = attention.layout.camera_shape
    height, width = (rows, cols) if image_CHW is None else image_CHW.shape[-2:]
    if image_CHW is not None:
        axis.imshow(image_CHW.mean(0), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    strength = (weights.reshape(rows, cols) / largest).clip(0, 1) ** GAMMA
    overlay = matplotlib.colormaps["YlOrRd"](strength)
    overlay[..., 3] = 0.15 + 0.7 * strength
    axis.imshow(overlay, extent=(0, width, height, 0), interpolation="nearest")
    if attention.window_K is not None:
        _outline(axis, attention.maps(attention.window_K)[1][camera], np.zeros(2), np.array([width, height]))
    u, v = attention.pixel_N2[camera] * [width, height]
    axis.plot(u, v, marker="+", color="black", markersize=7)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def window_rectangle(window: np.ndarray) -> np.ndarray | None:
    """x0, y0, x1, y1 around the cells [rows, columns] of a window, as shares of the map's width and height."""
    if not window.any():
        return None
    row, col = np.nonzero(window)
    rows, cols = window.shape
    return np.array([col.min(), row.min(), col.max() + 1, row.max() + 1]) / [cols, rows, cols, rows]


def _outline(axis: Any, window: np.ndarray, origin: np.ndarray, size: np.ndarray) -> None:
    """The rectangle around the cells of a window, on a map of this origin and size."""
    from matplotlib.patches import Rectangle

    rectangle = window_rectangle(window)
    if rectangle is not None:
        low, high = rectangle[:2] * size + origin, rectangle[2:] * size + origin
        axis.add_patch(Rectangle(low, *(high - low), fill=False, edgecolor=WINDOW_COLOUR, linewidth=1.4))
