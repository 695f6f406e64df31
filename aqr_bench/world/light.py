"""The light of a scene: time of day, sun and sky, rain, and by night the headlights and street lamps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aqr_bench.world.spec import WorldSpec

NIGHT_FLOOR = 0.55  # brightness of what no lamp lights by night, as a share of the night's mean
BEAM_GAIN, BEAM_RANGE_M, BEAM_WIDTH_RAD = 1.8, 22.0, 0.36  # the ego car's headlights
LAMP_GAIN, LAMP_REACH_M = 1.5, 8.0  # a street lamp
LIT = 2.6  # how much brighter than painted a lit lamp or window is by night
HAZE_M, RAIN_HAZE_M = 90.0, 30.0  # depth at which 63 % of a colour is lost in the haze
RAIN_GAIN = 0.72  # brightness in the rain, as a share
WET = 0.6  # brightness of wet ground and asphalt, as a share


@dataclass(frozen=True)
class Light:
    """The light of a scene. Colours are linear RGB in 0 .. 1; ``sun`` (3,) points to the sun in the global frame."""

    night: bool
    gain: float
    sun: np.ndarray
    ambient: float
    shadow: float  # brightness of ground in shadow, as a share
    sky: np.ndarray
    haze: np.ndarray
    ground: np.ndarray
    asphalt: np.ndarray
    noise: float  # standard deviation of the pixel noise, in grey levels of 255
    dusk: bool = False
    haze_m: float = HAZE_M

    @property
    def name(self) -> str:
        return "night" if self.night else "dusk" if self.dusk else "day"


def draw_light(spec: WorldSpec, rng: np.random.Generator) -> Light:
    """Draw the light of a scene.

    By day brightness lies within ``spec.light``, at dusk (``spec.dusk_share``) it is 0.6 of that with a low, warm sun,
    by night (``spec.night_share``) about 0.35, changed by lamps.
    """
    draw = rng.random()
    night, dusk = bool(draw < spec.night_share), bool(spec.night_share <= draw < spec.night_share + spec.dusk_share)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(10, 18) if dusk else rng.uniform(28, 65))
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    overcast = rng.random()
    gain = float(rng.uniform(*spec.light))
    sky = (1 - overcast) * np.array([0.45, 0.66, 0.92]) + overcast * np.array([0.74, 0.77, 0.80])
    ground = np.array([0.40, 0.43, 0.30]) * rng.uniform(0.8, 1.15) + rng.normal(0, 0.02, 3)
    asphalt = np.array([0.34, 0.34, 0.36]) * rng.uniform(0.8, 1.2)
    noise = float(rng.uniform(1.5, 3.5))
    if night:
        sky, haze = sky * 0.12, np.array([0.09, 0.10, 0.14])
        return Light(True, 0.16 + 0.24 * gain, sun, 0.85, 0.8, sky, haze, ground, asphalt, 2 * noise)
    if dusk:
        sky = (1 - overcast) * np.array([0.85, 0.62, 0.50]) + overcast * np.array([0.55, 0.55, 0.62])
        haze = 0.6 * sky + 0.4 * np.array([0.75, 0.66, 0.62])
        return Light(False, gain * 0.6, sun, 0.65, 0.75, sky, haze, ground, asphalt, 1.4 * noise, True)
    haze = 0.5 * sky + 0.5 * np.array([0.86, 0.88, 0.90])
    return Light(False, gain, sun, 0.5 + 0.2 * overcast, 0.5 + 0.25 * overcast, sky, haze, ground, asphalt, noise)


def in_rain(light: Light) -> Light:
    """The same light in the rain: darker, no sun and no shadows, wet ground, and less contrast with distance."""
    grey = np.full(3, light.haze.mean()) * np.array([0.97, 1.0, 1.03])
    return replace(
        light,
        gain=light.gain * RAIN_GAIN,
        ambient=max(light.ambient, 0.92),
        shadow=max(light.shadow, 0.92),
        sky=0.25 * light.sky + 0.75 * grey,
        haze=grey,
        ground=light.ground * WET,
        asphalt=light.asphalt * WET,
        noise=1.4 * light.noise,
        haze_m=RAIN_HAZE_M,
    )


def lamplight(light: Light, lamps_ego: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return the brightness (...,) at places (..., 2) in the ego frame: 1 by day, by night that of the lamps.

    ``lamps_ego`` (L, 2) are the street lamps. The ego car's headlights light a cone ahead.
    """
    if not light.night:
        return np.ones(xy.shape[:-1])
    ahead = xy - np.array([3.5, 0.0])
    distance = np.hypot(ahead[..., 0], ahead[..., 1])
    bearing = np.arctan2(ahead[..., 1], ahead[..., 0])
    level = NIGHT_FLOOR + BEAM_GAIN * np.exp(-((bearing / BEAM_WIDTH_RAD) ** 2) - distance / BEAM_RANGE_M)
    for lamp in lamps_ego:
        level = level + LAMP_GAIN * np.exp(-((xy - lamp) ** 2).sum(-1) / LAMP_REACH_M**2)
    return level
