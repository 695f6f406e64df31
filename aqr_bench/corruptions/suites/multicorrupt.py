"""Suite multicorrupt: the ten corruptions of MultiCorrupt (arXiv:2402.11677), three severities each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aqr_bench.corruptions import geometry
from aqr_bench.corruptions.frame import LIDAR, Frame, native_scale
from aqr_bench.corruptions.image import blur as image_blur
from aqr_bench.corruptions.image import light as image_light
from aqr_bench.corruptions.image import weather as image_weather
from aqr_bench.corruptions.lidar import fog as lidar_fog
from aqr_bench.corruptions.lidar import noise as lidar_noise
from aqr_bench.corruptions.lidar import snow as lidar_snow
from aqr_bench.corruptions.registry import Apply, Corruption, RandomStream
from aqr_bench.corruptions.suites.missing_sensors import ZERO, drop_cameras
from aqr_bench.errors import UserError

PER_SWEEP, PER_SAMPLE = "per-sweep", "per-sample"
Parameters = Mapping[str, Any]
_Kernel = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _images(frame: Frame, stream: RandomStream, change: _Kernel) -> Frame:
    """Every image changed, each with its own random numbers."""
    return frame.with_images(lambda view: change(view.image, stream(frame.token, view.camera)))


def _clouds(frame: Frame, stream: RandomStream, change: _Kernel) -> Frame:
    """Every cloud changed, keyframe and sweeps, each with its own random numbers."""
    return frame.with_points(lambda cloud: change(cloud.points, stream(frame.token, f"{LIDAR}/{cloud.token}")))


# ---------------------------------------------------------------- what each corruption does to a frame


def _beams(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """Only some rings are left."""
    return geometry.keep_rings(frame, p["rings"])


def _points(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """A share of the points of every sweep is gone."""
    return _clouds(frame, stream, lambda points, rng: lidar_noise.drop_to_share(points, rng, p["dropped_share"]))


def _spatial(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Sweeps turned and shifted, drawn for each sweep, or once for all sweeps of a sample."""
    if p["draw"] not in (PER_SWEEP, PER_SAMPLE):
        raise UserError(f"option draw: '{p['draw']}': give {PER_SWEEP} or {PER_SAMPLE}")

    def change(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= p["probability"]:
            return points
        return geometry.in_nuscenes_axes(
            frame, points, lambda cloud: lidar_noise.tilt(cloud, p["angle_deg"], p["shift_x_m"])
        )

    if p["draw"] == PER_SAMPLE:
        return frame.with_points(lambda cloud: change(cloud.points, stream(frame.token, LIDAR)))
    return _clouds(frame, stream, change)


def _brightness(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """Overexposed images."""
    return frame.with_images(lambda view: image_light.brightness(view.image, p["add"]))


def _dark(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Images at night."""
    numbers = [p[name] for name in ("scale", "gamma", "poisson_lambda", "sigma")]
    return _images(frame, stream, lambda image, rng: image_light.dark(image, rng, *numbers))


def _missing(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Images zero-filled, drawn for each of them."""
    struck = [v.camera for v in frame.views if stream(frame.token, v.camera).random() < p["probability"]]
    return drop_cameras(frame, struck, ZERO)


def _fog(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Fog for the LiDAR, clouds and haze for the cameras."""
    haze = [p[name] for name in ("plasma_decay", "attenuation", "backscatter", "air_light")]

    def points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lidar_fog.fog(points, rng, p["alpha_per_m"], p["beta_per_m_sr"], p["gamma"], p["noise_m"])

    def image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image_weather.haze_fog(image, rng, p["plasma_amount"], p["haze_per_px"] / native_scale(image), *haze)

    return _images(_clouds(frame, stream, points), stream, image)


def _snow(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Falling snow for the LiDAR and the cameras."""
    snowfall = [p[name] for name in ("snowfall_mm_h", "terminal_m_s", "beam_divergence_rad", "noise_floor")]

    def points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lidar_snow.snow(points, rng, *snowfall)

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

    return _images(_clouds(frame, stream, points), stream, image)


def _motion_blur(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Sweeps displaced and blurred, images smeared."""

    def points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        numbers = [p[name] for name in ("sigma_m", "jitter_of_sigma", "most_jitter_of_sigma")]
        return geometry.in_nuscenes_axes(frame, points, lambda cloud: lidar_noise.motion_noise(cloud, rng, *numbers))

    def image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        radius, sigma = (p[name] * native_scale(image) for name in ("blur_radius_px", "blur_sigma_px"))
        return image_blur.motion(image, max(1, round(radius)), sigma, rng.uniform(*p["blur_angle_deg"]))

    return _images(_clouds(frame, stream, points), stream, image)


def _temporal(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """The LiDAR, and each camera for itself, shows the previous keyframe of the scene."""
    if frame.history.token(1) is None:
        return frame
    stuck = frame.clouds and stream(frame.token, LIDAR).random() < p["probability"]
    earlier = frame.history.clouds(1) if stuck else ()
    if earlier:
        # The earlier sweeps keep their lags, and their places relative to the earlier keyframe.
        late = frame.clouds[0].time - earlier[0].time
        earlier = tuple(replace(cloud, time=cloud.time + late) for cloud in earlier)
        frame = replace(frame, clouds=earlier[:1] if p["sweeps"] == "key" else earlier)
    stale = {v.camera for v in frame.views if stream(frame.token, v.camera).random() < p["probability"]}
    return frame.with_images(lambda v: frame.history.view(1, v.camera).image if v.camera in stale else v.image)


# ---------------------------------------------------------------- entries

_SOURCE = "MultiCorrupt (RA-L 2024): ika-rwth-aachen/MultiCorrupt:converter/"
_SEEDED = (
    "the generator is seeded per condition, sample and sensor; the original seeds a pool of processes, so its result "
    "depends on their number"
)
_ROUNDED = "images are rounded to the nearest value, or within one of it; the original truncates"
_SCENE = (
    "the previous keyframe is that of the same scene; the original takes the previous entry of its list, so a scene's "
    "first frame shows another scene, and spares the first one or two entries"
)
_LAGS = (
    "the earlier sweeps come with their own poses and lags, however many they are; the original reads their points "
    "with the current frame's poses, and keeps the current sweeps where their number differs"
)


def _severities(
    name: str,
    modality: str,
    summary: str,
    change: Apply,
    files: str,
    common: Mapping[str, Any],
    severities: Mapping[str, Any],
    deviations: tuple[str, ...] = (_SEEDED,),
    needs: tuple[str, ...] = (),
) -> list[Corruption]:
    """Severities 1, 2 and 3; ``severities`` has three values for each name."""
    entries, source = [], _SOURCE + files
    for k in range(3):
        numbers = {**common, **{key: values[k] for key, values in severities.items()}}
        text = summary.format(**numbers, beams=len(numbers.get("rings", ())))
        entries.append(
            Corruption(name, "multicorrupt", k + 1, modality, text, numbers, source, change, deviations, needs)
        )
    return entries


_PROBABILITY = (0.2, 0.4, 0.6)
_ALL = {"sweeps": "all"}

CORRUPTIONS: tuple[Corruption, ...] = (
    *_severities(
        "beamsreducing",
        "lidar",
        "{beams} of 32 beams left",
        _beams,
        "lidar.py, reduce_LiDAR_beamsV2",
        _ALL,
        {"rings": tuple(tuple(range(1, 32, step)) for step in (2, 4, 8))},
        (),
        ("ring",),
    ),
    *_severities(
        "pointsreducing",
        "lidar",
        "{dropped_share:.0%} of the points of every sweep dropped",
        _points,
        "lidar.py, pointsreducing (v0.0.2)",
        _ALL,
        {"dropped_share": (0.7, 0.8, 0.9)},
        (_SEEDED, "the points left keep their order; the original shuffles them"),
    ),
    *_severities(
        "motionblur",
        "both",
        "sweeps displaced by {sigma_m} m and blurred; images smeared",
        _motion_blur,
        "lidar.py, pts_motion; converter/img.py, img_motion_blur",
        {
            **_ALL,
            "jitter_of_sigma": (0.15, 0.20, 0.12),
            "most_jitter_of_sigma": 3.0,
            "blur_radius_px": 15,
            "blur_angle_deg": (-45.0, 45.0),
        },
        {"sigma_m": (0.06, 0.10, 0.13), "blur_sigma_px": (6.0, 10.0, 13.0)},
        (_SEEDED, _ROUNDED),
    ),
    *_severities(
        "spatialmisalignment",
        "lidar",
        "a sweep turned by {angle_deg:g} degrees about each axis and shifted by 2 m, with probability {probability}",
        _spatial,
        "lidar.py, transform_points",
        {**_ALL, "draw": PER_SWEEP, "shift_x_m": 2.0},
        {"probability": _PROBABILITY, "angle_deg": (1.0, 2.0, 3.0)},
    ),
    *_severities(
        "temporalmisalignment",
        "both",
        "LiDAR and each camera show the previous keyframe, with probability {probability} each",
        _temporal,
        "lidar_converter.py and img_converter.py",
        _ALL,
        {"probability": _PROBABILITY},
        (_SEEDED, _SCENE, _LAGS),
        ("history",),
    ),
    *_severities(
        "missingcamera",
        "camera",
        "each image zero-filled with probability {probability}",
        _missing,
        "img_converter.py",
        {},
        {"probability": _PROBABILITY},
    ),
    *_severities(
        "brightness",
        "camera",
        "HSV value raised by {add:.0%} of its range",
        _brightness,
        "img.py, brightness (v0.0.3)",
        {},
        {"add": (0.5, 0.6, 0.7)},
        (_ROUNDED,),
    ),
    *_severities(
        "dark",
        "camera",
        "night: at most {scale:.0%} of the light, shot noise and read-out noise",
        _dark,
        "img.py, low_light",
        {"gamma": 2.0},
        {"scale": (0.60, 0.40, 0.30), "poisson_lambda": (250.0, 120.0, 50.0), "sigma": (0.008, 0.018, 0.026)},
        (
            _SEEDED,
            "noise is drawn from its exact distribution in steps of 1/16384",
            "an image of one value only becomes black before the noise; the original divides by zero",
        ),
    ),
    *_severities(
        "fog",
        "both",
        "fog of attenuation {alpha_per_m} / m for the LiDAR; clouds and haze for the cameras",
        _fog,
        "lidar.py, simulate_fog; converter/img.py, fog",
        {
            **_ALL,
            "gamma": 1e-6,
            "noise_m": 10.0,
            "plasma_decay": 1.7,
            "attenuation": 0.8,
            "backscatter": 0.5,
            "air_light": 0.5,
        },
        {
            "alpha_per_m": (0.02, 0.03, 0.06),
            "beta_per_m_sr": (0.008, 0.008, 0.05),
            "plasma_amount": (2.0, 3.0, 4.0),
            "haze_per_px": (0.0005, 0.001, 0.002),
        },
        (
            _SEEDED,
            _ROUNDED,
            "the fog's return is integrated here instead of read from the original's tables, and is at most 255",
            "noise on the distance of fog points is limited to half the target's distance, and brings none beyond the "
            "target; the original throws near points away or through the sensor",
            "the last two halvings of the plasma, below a quarter of a grey level, are interpolated",
        ),
        ("intensity",),
    ),
    *_severities(
        "snow_scatter",
        "both",
        "snowfall of {snowfall_mm_h} mm/h: flakes in front of the LiDAR and in the images",
        _snow,
        "lidar.py, simulate_snow; converter/img.py, snow",
        {
            **_ALL,
            "beam_divergence_rad": 0.003,
            "noise_floor": 0.7,
            "flakes_scale": 0.3,
            "fall_angle_deg": (-135.0, -45.0),
            "gain": 0.9,
        },
        {
            "snowfall_mm_h": (0.5, 2.5, 1.5),
            "terminal_m_s": (1.2, 1.6, 0.4),
            "flakes_loc": (0.3, 0.4, 0.5),
            "flakes_zoom": (5, 4, 3),
            "flakes_threshold": (0.90, 0.85, 0.80),
            "blur_radius_px": (7, 8, 10),
            "blur_sigma_px": (7.0, 8.0, 10.0),
            "mix": (0.90, 0.85, 0.80),
        },
        (
            "the original is called snow and reads the places of snowflakes from files that are not in its repository; "
            "here flakes are drawn from the same size distribution along every beam, hence the other name",
            _SEEDED,
            _ROUNDED,
            "the ground is not darkened as wet; the original finds it by lidarseg labels, in sweeps by RANSAC",
            "the ring column is kept; the original overwrites it with 0, 1, 2 for clean, attenuated and scattered",
            "one calibration for all rings; the original's has 64 lasers against the 32 of nuScenes",
        ),
        ("intensity",),
    ),
)
