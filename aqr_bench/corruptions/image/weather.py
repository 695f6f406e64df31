"""Weather on one image: fog, snow, rain. uint8 BGR [h, w, 3] in and out, within one grey level of the sources."""

from __future__ import annotations

import math

import cv2
import numpy as np

from aqr_bench.corruptions.image.blur import enlarged, motion
from aqr_bench.corruptions.image.light import blend
from aqr_bench.errors import UserError

_HAZE_FREE = (0.65, 0.99, 0.10, 0.85)  # rectangle without additional haze: top, bottom, left, right of the image
_GATES = 8  # cells across the image in which rain is more or less dense
_DROP_LEVEL = 240.0
_STEEPEST_DEG = 60.0
_INTERPOLATED = 4  # a plasma's last halvings, cells of up to so many pixels, are interpolated ...
_MIN_INTERPOLATED_SIZE = 64  # ... in squares of this size and more


# ---------------------------------------------------------------- plasma, the cloudy field behind fog


def plasma(height: int, width: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A field between 0 and 1, cloudier for small ``decay``.

    Diamond-square algorithm as in imagecorruptions 1.1.2 (plasma_fractal): a periodic square, the lowest power of two
    that covers the image; every halving of the step adds uniform noise, whose amplitude falls by decay^2; the field is
    stretched to 0..1 over the square, then cut to the image at its top left corner.

    In squares of 64 and more the last two halvings are left to linear interpolation. In one of 2048 their noise is
    0.002 of the first one's at decay 1.4, which is below a quarter of a grey level in a foggy image.

    Returns:
        float32 [height, width].
    """
    size = max(2, 1 << (max(height, width) - 1).bit_length())
    coarser = _INTERPOLATED if size >= _MIN_INTERPOLATED_SIZE else 1
    field = _diamond_square(size // coarser, decay, rng)
    field -= field.min()
    field /= max(field.max(), np.finfo(np.float32).tiny)
    if coarser == 1:
        return field[:height, :width].copy()
    to_field = np.array([[1 / coarser, 0, 0], [0, 1 / coarser, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(field, to_field, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)


def _diamond_square(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, size], periodic; amplitude 1 in the first step."""
    corners = np.zeros((1, 1), np.float32)
    amplitude = np.float32(1.0)
    while len(corners) < size:
        half = len(corners)
        noise = (2 * rng.random((3, half, half), np.float32) - 1) * amplitude
        below = corners + np.roll(corners, -1, 0)
        centres = (below + np.roll(below, -1, 1)) / 4 + noise[0]
        beside = corners + np.roll(corners, -1, 1)
        field = np.empty((2 * half, 2 * half), np.float32)
        field[::2, ::2] = corners
        field[1::2, 1::2] = centres
        field[::2, 1::2] = (beside + centres + np.roll(centres, 1, 0)) / 4 + noise[1]
        field[1::2, ::2] = (below + centres + np.roll(centres, 1, 1)) / 4 + noise[2]
        corners = field
        amplitude /= np.float32(decay) ** 2
    return corners


# ---------------------------------------------------------------- fog


def plasma_fog(image: np.ndarray, rng: np.random.Generator, amount: float, decay: float) -> np.ndarray:
    """Cloudy fog.

    imagecorruptions 1.1.2, fog: (v + amount plasma) m / (m + amount), m the greatest value of the image; it gets
    lighter and loses contrast.

    Args:
        image: uint8 [h, w, 3].
        amount: light of the densest fog, 1 being the full range. ``decay``: see :func:`plasma`.
    """
    return _with_fog(image, plasma(*image.shape[:2], decay, rng), amount)


def _with_fog(image: np.ndarray, fog: np.ndarray, amount: float) -> np.ndarray:
    """(v + amount fog) m / (m + amount), clipped, with the fog (float32 [h, w]) of each pixel."""
    image = np.ascontiguousarray(image)
    brightest = int(image.max()) / 255
    gain = brightest / (brightest + amount)
    return cv2.addWeighted(image, gain, cv2.merge([fog] * 3), 255 * amount * gain, 0, dtype=cv2.CV_8U)


def haze_fog(
    image: np.ndarray,
    rng: np.random.Generator,
    amount: float,
    beta: float,
    decay: float = 1.7,
    attenuation: float = 0.8,
    backscatter: float = 0.5,
    air_light: float = 0.5,
) -> np.ndarray:
    """Cloudy fog, then haze that gets denser away from the road in front of the car.

    ika-rwth-aachen/MultiCorrupt:converter/img.py, fog: the plasma of :func:`plasma_fog` is thinned by a second
    (1 - attenuation plasma) and strengthened by a third one (1 + backscatter plasma), all of decay 1.7; the result goes
    towards ``air_light`` by 1 - exp(-beta d) with d = 2 d_rect U(1, 1.25) + sqrt(max(h, w)), U drawn per pixel and
    d_rect the distance (pixels) from a rectangle: 10..85 % of the width, 65..99 % of the height.

    Args:
        image: uint8 [h, w, 3].
        amount: light of the densest fog, 1 being the full range. ``beta``: haze, 1 / pixel.
    """
    height, width = image.shape[:2]
    fog, thin, thick = (plasma(height, width, decay, rng) for _ in range(3))
    fog *= (1 - attenuation * thin) * (1 + backscatter * thick)
    distance = _from_rectangle(height, width)
    distance *= 2 + rng.random((height, width), np.float32) / 2
    distance += math.sqrt(max(height, width))
    return blend(_with_fog(image, fog, amount), cv2.exp(distance * np.float32(-beta)), 255 * air_light)


def _from_rectangle(height: int, width: int) -> np.ndarray:
    """float32 [h, w]: distance of each pixel from the rectangle without additional haze."""
    top, bottom, left, right = (int(s * n) for s, n in zip(_HAZE_FREE, (height, height, width, width), strict=True))
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    down = np.maximum(np.maximum(rows - bottom, top - rows), 0)
    across = np.maximum(np.maximum(columns - right, left - columns), 0)
    return np.sqrt(down[:, None] ** 2 + across**2)


# ---------------------------------------------------------------- snow


def snow(
    image: np.ndarray,
    rng: np.random.Generator,
    loc: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    mix: float,
    angle_deg: tuple[float, float] = (-135.0, -45.0),
    gain: float = 1.0,
) -> np.ndarray:
    """Falling snow and a whiter scene.

    imagecorruptions 1.1.2, snow: mix v + (1 - mix) max(v, 1.5 grey + 0.5) of the scene; on it a layer of flakes and the
    same layer turned by 180 degrees. Flakes: normal noise enlarged by ``zoom``, 0 below ``threshold``, smeared.
    ika-rwth-aachen/MultiCorrupt:converter/img.py takes the scene times ``gain`` 0.9.

    Args:
        image: uint8 [h, w, 3].
        loc, scale: mean and standard deviation of the noise, ``threshold``: all with 1 being the full range.
        zoom: size of the flakes (pixels). ``radius``, ``sigma``: of the smear (pixels), see :func:`motion`.
        mix: part of the scene that stays. ``angle_deg``: range of the smear's direction, one draw.
    """
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    # Only the part that is enlarged to the image is drawn.
    noise = rng.standard_normal((math.ceil(height / zoom), math.ceil(width / zoom)), np.float32)
    layer = enlarged(noise * np.float32(scale) + np.float32(loc), zoom, height, width)
    layer[layer < threshold] = 0
    layer = motion(np.minimum(layer, 1), radius, sigma, rng.uniform(*angle_deg))
    flakes = cv2.convertScaleAbs(layer, alpha=255)
    scene = _whitened(image, mix, gain)
    return cv2.add(scene, cv2.merge([cv2.add(flakes, cv2.flip(flakes, -1))] * 3))


def _whitened(image: np.ndarray, mix: float, gain: float) -> np.ndarray:
    """gain (mix v + (1 - mix) max(v, 1.5 grey + 0.5)), in 8-bit steps: many times faster, a grey level off at most."""
    rest = gain * (1 - mix)
    lighter = cv2.convertScaleAbs(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), alpha=1.5 * rest, beta=127.5 * rest)
    unlit = cv2.convertScaleAbs(image, alpha=rest)
    return cv2.addWeighted(image, gain * mix, cv2.max(unlit, cv2.merge([lighter] * 3)), 1.0, 0)


# ---------------------------------------------------------------- rain


def rain(
    image: np.ndarray,
    rng: np.random.Generator,
    density: tuple[float, float],
    drop_size: tuple[float, float] = (0.4, 0.6),
    angle_deg: tuple[float, float] = (-15.0, 15.0),
    speed: tuple[float, float] = (0.04, 0.20),
    uniformity: tuple[float, float] = (0.8, 1.0),
) -> np.ndarray:
    """Streaks of falling drops. A pair is a range, of which one value is drawn per image.

    What imgaug 0.4's RainLayer does: sparse bright cells, thinned by a field of 8 x 8 gates, smeared along the fall,
    blended as min(1.3 r / 255, 1) of a light grey. There the smear is a kernel of up to a fifth of the image; here the
    field is drawn in coordinates that lean with the fall, so it is a running sum over columns. imgaug takes the drops'
    colour from its noise, which comes out at 240 except in almost dry images; it is 240 here.

    Args:
        image: uint8 [h, w, 3].
        density: share of cells with a drop. ``drop_size``: 1 - cells per pixel, so 0.5 has cells of 2 x 2.
        angle_deg: of the fall, from the vertical, within 60.
        speed: length of a streak over the image's longer side.
        uniformity: 1: drops everywhere alike.
    Raises:
        UserError: a fall steeper than 60 degrees from the vertical.
    """
    height, width = image.shape[:2]
    share, size, angle, fall, uniform = (rng.uniform(*r) for r in (density, drop_size, angle_deg, speed, uniformity))
    if abs(angle) > _STEEPEST_DEG:
        raise UserError(f"rain falls at up to {_STEEPEST_DEG:g} degrees from the vertical, not at {angle:g}")
    slope, length = math.tan(math.radians(angle)), int(fall * max(height, width))
    taps = max(1, round(length * math.cos(math.radians(angle)))) if length > 1 else 1
    # A field that leans with the fall: its column is u - slope v, moved so that none is negative.
    offset = max(slope, 0.0) * (height - 1)
    drops = _drops(rng, height + taps, math.ceil(width + abs(slope) * (height - 1)) + 1, size, share, uniform)
    to_field = np.array([[1, -slope, offset], [0, 1, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    streaks = _smeared(drops, taps)
    streaks = cv2.warpAffine(streaks, to_field, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return blend(image, 1 - np.clip(streaks * np.float32(1.3 / 255), 0, 1), _DROP_LEVEL)


def _drops(
    rng: np.random.Generator, rows: int, columns: int, size: float, density: float, uniformity: float
) -> np.ndarray:
    """uint8 [rows, columns]: cells that hold, with probability ``density``, a drop of 128..255, thinned by gates."""
    hits = round(density * 65536)
    # imgaug's salt: (1 + |cos pi U|) / 2, a Beta(1/2, 1/2) folded to its upper half.
    bright = np.rint(127.5 * (1 + np.abs(np.cos(np.pi * (np.arange(hits) + 0.5) / max(hits, 1)))))
    table = np.zeros(65536, np.uint8)
    table[:hits] = bright
    cells = 1 - min(max(size, 0.0), 0.999)
    shape = max(1, int(rows * cells)), max(1, int(columns * cells))
    drops = table[rng.integers(0, 65536, shape, dtype=np.uint16)]
    gates = rng.beta(1.0, max(1 - uniformity, 1e-4), (_GATES, _GATES)).astype(np.float32)
    gates = np.clip(cv2.resize(gates, shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)
    drops = cv2.multiply(drops, gates, dtype=cv2.CV_8U)
    # Cubic, as there: clipping its negative lobes to 0 makes rain a tenth stronger than a linear enlargement.
    return cv2.resize(drops, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _smeared(drops: np.ndarray, taps: int) -> np.ndarray:
    """float32 [rows - taps, columns]: mean over ``taps`` rows downwards with weights taps, taps - 1, .. 1.

    So a drop leaves a streak above it that is brightest at its lower end.
    """
    rows = len(drops) - taps
    if taps == 1:
        return drops[:rows].astype(np.float32)
    above = np.zeros((len(drops) + 1, drops.shape[1]), np.int32)
    above[1:] = drops
    _cumulative_sum(above)
    sums = above.copy()
    _cumulative_sum(sums)
    # Sum over m = 1 .. taps of the m rows from t downwards. An overflow of the sums cancels out in the difference.
    total = sums[taps : taps + rows] - sums[:rows] - taps * above[:rows]
    return total.astype(np.float32) * np.float32(2 / (taps * (taps + 1)))


def _cumulative_sum(rows: np.ndarray) -> None:
    """Cumulative sum over the rows, in place: many times faster than numpy's cumsum along the first axis."""
    for k in range(1, len(rows)):
        rows[k] += rows[k - 1]
