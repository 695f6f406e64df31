"""What each corruption of suite multicorrupt does to a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aqr_bench.corruptions import geometry, image_blur, image_light, image_weather, lidar_jitter, lidar_weather
from aqr_bench.corruptions.condition import Draws
from aqr_bench.corruptions.frame import LIDAR, Frame, native_scale
from aqr_bench.corruptions.missing_sensors import ZERO, drop_cameras
from aqr_bench.errors import UserError

PER_SWEEP, PER_SAMPLE = "per-sweep", "per-sample"
Parameters = Mapping[str, Any]
_ImageKernel = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_PointsKernel = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _images(frame: Frame, draws: Draws, change: _ImageKernel) -> Frame:
    """Every image changed, with draws of its own."""
    return frame.with_images(lambda view: change(view.image, draws(frame.token, view.camera)))


def _clouds(frame: Frame, draws: Draws, change: _PointsKernel) -> Frame:
    """Every cloud changed, key frame and sweeps, with draws of its own."""
    return frame.with_points(lambda cloud: change(cloud.points, draws(frame.token, f"{LIDAR}/{cloud.token}")))


# ---------------------------------------------------------------- LiDAR


def beams(frame: Frame, _draws: Draws, p: Parameters) -> Frame:
    """Only some rings are left."""
    return geometry.keep_rings(frame, p["rings"])


def points(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """A share of the points of every sweep is gone."""
    return _clouds(frame, draws, lambda points, rng: lidar_jitter.drop_share(points, rng, p["dropped_share"]))


def spatial(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """Sweeps turned and shifted, each with a probability of its own or all of a sample together."""
    if p["draw"] not in (PER_SWEEP, PER_SAMPLE):
        raise UserError(f"draw: '{p['draw']}' (known: {PER_SWEEP}, {PER_SAMPLE})")

    def change(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= p["probability"]:
            return points
        return lidar_jitter.tilted(points, p["angle_deg"], p["shift_x_m"])

    if p["draw"] == PER_SAMPLE:
        return frame.with_points(lambda cloud: change(cloud.points, draws(frame.token, LIDAR)))
    return _clouds(frame, draws, change)


# ---------------------------------------------------------------- cameras


def brightness(frame: Frame, _draws: Draws, p: Parameters) -> Frame:
    """Overexposed images."""
    return frame.with_images(lambda view: image_light.brightness(view.image, p["add"]))


def dark(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """Images at night."""
    numbers = [p[name] for name in ("scale", "gamma", "poisson_lambda", "sigma")]
    return _images(frame, draws, lambda image, rng: image_light.dark(image, rng, *numbers))


def missing(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """Images zero-filled, each with a probability of its own."""
    struck = [v.camera for v in frame.views if draws(frame.token, v.camera).random() < p["probability"]]
    return drop_cameras(frame, struck, ZERO)


# ---------------------------------------------------------------- both


def fog(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """Fog for the LiDAR, clouds and haze for the cameras."""

    def points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lidar_weather.fog(points, rng, p["alpha_per_m"], p["beta_per_m_sr"], p["gamma"], p["noise_m"])

    def image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image_weather.haze_fog(
            image,
            rng,
            amount=p["plasma_amount"],
            beta=p["haze_per_px"] / native_scale(image),
            decay=p["plasma_decay"],
            attenuation=p["attenuation"],
            backscatter=p["backscatter"],
            air_light=p["air_light"],
        )

    return _images(_clouds(frame, draws, points), draws, image)


def snow(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """Falling snow for the LiDAR and the cameras."""

    def points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lidar_weather.snow(
            points,
            rng,
            rate_mm_h=p["snowfall_mm_h"],
            terminal_m_s=p["terminal_m_s"],
            beam_divergence_rad=p["beam_divergence_rad"],
            noise_floor=p["noise_floor"],
        )

    def image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pixels = native_scale(image)
        return image_weather.snow(
            image,
            rng,
            loc=p["flakes_loc"],
            scale=p["flakes_scale"],
            zoom=max(1.0, p["flakes_zoom"] * pixels),
            threshold=p["flakes_threshold"],
            radius=max(1, round(p["blur_radius_px"] * pixels)),
            sigma=p["blur_sigma_px"] * pixels,
            mix=p["mix"],
            angle_deg=p["fall_angle_deg"],
            gain=p["gain"],
        )

    return _images(_clouds(frame, draws, points), draws, image)


def motion_blur(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """Sweeps displaced and blurred, images smeared."""

    def points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lidar_jitter.motion(points, rng, p["sigma_m"], p["jitter_of_sigma"], p["most_jitter_of_sigma"])

    def image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        radius, sigma = (p[name] * native_scale(image) for name in ("blur_radius_px", "blur_sigma_px"))
        return image_blur.motion(image, max(1, round(radius)), sigma, rng.uniform(*p["blur_angle_deg"]))

    return _images(_clouds(frame, draws, points), draws, image)


def temporal(frame: Frame, draws: Draws, p: Parameters) -> Frame:
    """The LiDAR, and each camera for itself, shows the previous key frame of the scene."""
    if frame.history.token(1) is None:
        return frame
    if frame.clouds and draws(frame.token, LIDAR).random() < p["probability"]:
        earlier = frame.history.clouds(1)
        if earlier:
            # The earlier sweeps keep their lags, and their places relative to the earlier key frame.
            late = frame.clouds[0].time - earlier[0].time
            earlier = tuple(replace(cloud, time=cloud.time + late) for cloud in earlier)
            frame = replace(frame, clouds=earlier[:1] if p["sweeps"] == "key" else earlier)
    stale = {v.camera for v in frame.views if draws(frame.token, v.camera).random() < p["probability"]}
    return frame.with_images(lambda v: frame.history.view(1, v.camera).image if v.camera in stale else v.image)
