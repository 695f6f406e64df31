"""Dirt on camera lenses: procedural masks (blobs, specks, scratches), or mask images of the user."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np

from aqr_bench.corruptions.frame import FrameError
from aqr_bench.corruptions.registry import sample_rng

MASKS = 16  # as many as nuScenes-R has (create_noise_data_nuscenes.py, num_mask_type)
SUFFIXES = (".jpg", ".jpeg", ".png")
_SIZE = (
    270,
    480,
)  # rows, columns of a procedural mask; dirt is out of focus: more pixels add nothing
_CLEAR = 255


def occlude(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image behind a mask: out = alpha image + (1 - alpha) mask with alpha = (mask / 255)^3, channel by channel.

    nuScenes-R, Toolkit_nuscenes_English.md, LoadMaskMultiViewImageFromFiles: a white mask is clear, a dark one hides
    the image behind its colour.

    Args:
        image: uint8 [h, w, 3], BGR. ``mask``: uint8 [*, *, 3], BGR, resized (bilinear) to the image.
    Returns:
        uint8 [h, w, 3], rounded.
    """
    height, width = image.shape[:2]
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, -1)
    image = np.ascontiguousarray(image)
    mixed = cv2.blendLinear(image.reshape(height, -1), mask, cv2.LUT(mask, _ALPHA), cv2.LUT(mask, 1 - _ALPHA))
    return mixed.reshape(image.shape)


_ALPHA = ((np.arange(256) / 255) ** 3).astype(np.float32)


# ---------------------------------------------------------------- procedural masks


@cache
def procedural_mask(number: int) -> np.ndarray:
    """Mask ``number`` of the MASKS fixed ones, uint8 [270, 480, 3], BGR, read-only; 255 is clear.

    Blobs of mud are smooth noise above a threshold, with soft edges and a texture; specks are the same, finer and
    rarer; scratches are thin lines that hide less; a thin film dims what is left. How much of each is drawn per mask,
    always by the same stream: the masks are part of the benchmark, not of a run's seed. Numbers defined here.
    """
    rng = sample_rng(0, "lens_occlusion_procedural", 0, str(number), "mask")
    mud = _cover(_noise(rng, (3, 5), 4), rng.uniform(0.05, 0.30), softness=0.25)
    specks = _cover(_noise(rng, (28, 50), 2), rng.uniform(0.01, 0.06), softness=0.5)
    dirt = np.maximum(mud * (0.85 + 0.15 * _noise(rng, (40, 70), 2)), 0.9 * specks)
    dirt = np.maximum(dirt, 0.5 * _scratches(rng, int(rng.integers(0, 9))))
    film = rng.uniform(0.0, 0.06) * _noise(rng, (2, 4), 2)
    dirt = np.clip(np.maximum(dirt, film), 0, 1)[..., None]
    colour = rng.uniform(25, 70) * np.array([0.7, 0.85, 1.0])  # BGR: grey-brown
    mask = np.rint(_CLEAR - dirt * (_CLEAR - colour)).astype(np.uint8)
    mask.flags.writeable = False
    return mask


def _noise(rng: np.random.Generator, cells: tuple[int, int], octaves: int) -> np.ndarray:
    """float32 [270, 480] in 0..1: random grids of ``cells`` rows and columns, smoothed; finer ones count half each."""
    total = np.zeros(_SIZE, np.float32)
    for octave in range(octaves):
        grid = rng.random((cells[0] << octave, cells[1] << octave), np.float32)
        total += cv2.resize(grid, _SIZE[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def _cover(noise: np.ndarray, share: float, softness: float) -> np.ndarray:
    """float32 in 0..1: 0 but for the highest ``share`` of a noise, rising to 1 over ``softness`` of what is above."""
    threshold = np.quantile(noise, 1 - share)
    rise = np.clip((noise - threshold) / (softness * (1 - threshold)), 0, 1)
    return rise * rise * (3 - 2 * rise)


def _scratches(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [270, 480] in 0..1: ``count`` thin bent lines, blurred."""
    height, width = _SIZE
    canvas = np.zeros(_SIZE, np.uint8)
    for _ in range(count):
        start = rng.uniform((0, 0), (width, height))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, 6))
        steps = rng.uniform(8, 40) * np.stack([np.cos(heading), np.sin(heading)], 1)
        line = np.rint(start + np.cumsum(steps, 0)).astype(np.int32)
        cv2.polylines(canvas, [line], False, int(rng.integers(120, 256)), 1)
    return cv2.GaussianBlur(canvas, (3, 3), 0.8).astype(np.float32) / 255


# ---------------------------------------------------------------- mask images of the user


def mask_files(folder: str, token: str) -> tuple[Path, ...]:
    """Mask images of a folder, in the order of their names; FrameError naming folder and sample if there is none."""
    files = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        what = "has no .jpg or .png file" if Path(folder).is_dir() else "is no folder"
        raise FrameError(f"sample {token}: the folder of lens masks {folder} {what}")
    return tuple(files)


def file_mask(path: Path, token: str) -> np.ndarray:
    """A mask image, uint8 [h, w, 3], BGR, turned by 90 degrees counter-clockwise as in nuScenes-R.

    Raises:
        FrameError: it cannot be decoded.
    """
    mask = _read(path)
    if mask is None:
        raise FrameError(f"sample {token}: lens mask {path} cannot be decoded")
    return mask


@lru_cache(maxsize=MASKS)
def _read(path: Path) -> np.ndarray | None:
    mask = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if mask is None:
        return None
    mask = np.ascontiguousarray(np.rot90(mask))
    mask.flags.writeable = False
    return mask
