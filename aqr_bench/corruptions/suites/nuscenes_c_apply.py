"""How each corruption of the suite nuscenes_c acts on a frame; its numbers are in ``nuscenes_c.py``.

Every function takes (frame, stream, parameters), the parameters of its corruption, and gives the corrupted frame. Each
cloud and each image has its own random numbers; those of boxes are the same for LiDAR and cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aqr_bench.corruptions import objects
from aqr_bench.corruptions.frame import LIDAR, Frame, View, native_scale
from aqr_bench.corruptions.image import blur as image_blur
from aqr_bench.corruptions.image import light as image_light
from aqr_bench.corruptions.image import noise as image_noise
from aqr_bench.corruptions.image import weather as image_weather
from aqr_bench.corruptions.lidar import fog as lidar_fog
from aqr_bench.corruptions.lidar import noise as lidar_noise
from aqr_bench.corruptions.lidar import rain as lidar_rain
from aqr_bench.corruptions.lidar import snow as lidar_snow
from aqr_bench.corruptions.lidar import wet_ground as lidar_wet_ground
from aqr_bench.corruptions.registry import Apply, RandomStream
from aqr_bench.corruptions.spatial_misalignment import extrinsic_noise, pose_jitter
from aqr_bench.corruptions.temporal_misalignment import lag

Parameters = Mapping[str, Any]
_ZOOMED = ("CAM_FRONT", "CAM_BACK")  # what they see comes nearer or goes away; for the others it passes by
_SUN_CAMERA = "CAM_FRONT"
_BOXES = "boxes"


# ---------------------------------------------------------------- one cloud or one image at a time


def per_cloud(kernel: Callable[..., np.ndarray], *names: str) -> Apply:
    """``kernel(points, rng, **parameters of those names)`` on every cloud."""

    def apply(frame: Frame, stream: RandomStream, parameters: Parameters) -> Frame:
        numbers = {name: parameters[name] for name in names}
        return frame.with_points(lambda cloud: kernel(cloud.points, stream(frame.token, cloud.token), **numbers))

    return apply


def per_image(kernel: Callable[..., np.ndarray], *names: str) -> Apply:
    """``kernel(image, rng, **parameters of those names)`` on every image."""

    def apply(frame: Frame, stream: RandomStream, parameters: Parameters) -> Frame:
        numbers = {name: parameters[name] for name in names}
        return frame.with_images(lambda view: kernel(view.image, stream(frame.token, view.camera), **numbers))

    return apply


def per_frame(change: Callable[..., Frame], *names: str) -> Apply:
    """``change(frame, rng, **parameters of those names)``, with one generator for all sweeps."""

    def apply(frame: Frame, stream: RandomStream, parameters: Parameters) -> Frame:
        return change(frame, stream(frame.token, LIDAR), **{name: parameters[name] for name in names})

    return apply


# ---------------------------------------------------------------- weather


def snow(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Snow in the air and a wet road for the LiDAR; snow, a grey veil and less light for the cameras."""

    def points(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        snowy = lidar_snow.snow(
            cloud,
            rng,
            p["snowfall_mm_h"],
            p["terminal_m_s"],
            beam_divergence_rad=p["beam_divergence_rad"],
            noise_floor=p["noise_floor"],
        )
        return lidar_wet_ground.wet_ground(snowy, rng, p["water_mm"], p["wet_noise_floor"])

    def image(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        scale = native_scale(pixels)
        snowy = image_weather.snow(
            pixels,
            rng,
            loc=p["snow_loc"],
            scale=p["snow_scale"],
            zoom=max(1.0, p["snow_zoom"] * scale),
            threshold=p["snow_threshold"],
            radius=max(1, round(p["snow_radius_px"] * scale)),
            sigma=p["snow_sigma_px"] * scale,
            mix=p["snow_mix"],
        )
        return image_light.limit_value(image_light.grey_blend(snowy, p["grey"]), p["most_value"])

    return per_image(image)(per_cloud(points)(frame, stream, p), stream, p)


def rain(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Rain in front of the LiDAR; streaks, a grey veil and less light for the cameras."""

    def image(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        wet = image_weather.rain(
            pixels,
            rng,
            p["drop_density"],
            drop_size=p["drop_size"],
            angle_deg=p["fall_angle_deg"],
            speed=p["fall_speed"],
            uniformity=p["drop_uniformity"],
        )
        return image_light.limit_value(image_light.grey_blend(wet, p["grey"]), p["most_value"])

    return per_image(image)(per_cloud(lidar_rain.rain, "rate_mm_h")(frame, stream, p), stream, p)


def fog(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Homogeneous fog for the LiDAR; plasma fog and a grey veil for the cameras."""

    def points(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lidar_fog.fog(cloud, rng, p["alpha_per_m"], p["beta_per_m_sr"], p["gamma"], p["noise_m"])

    def image(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image_light.grey_blend(image_weather.plasma_fog(pixels, rng, p["fog_amount"], p["fog_decay"]), p["grey"])

    return per_image(image)(per_cloud(points)(frame, stream, p), stream, p)


def sunlight(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """A low sun in the front camera: a flare, no LiDAR points in its direction, and some of the others disturbed."""
    views = [view for view in frame.views if view.camera == _SUN_CAMERA]
    for view in views:
        height, width = view.image.shape[:2]
        rng = stream(frame.token, _SUN_CAMERA)
        centre = (rng.uniform(*p["sun_u"]) * width, rng.uniform(*p["sun_v"]) * height)
        image, mask = image_light.sun_flare(view.image, centre, p["radius_px"] * native_scale(view.image))
        frame = frame.with_images(lambda v, image=image: image if v.camera == _SUN_CAMERA else v.image)
        frame = lidar_noise.drop_in_mask(frame, view.lidar2img, mask)
    return crosstalk(frame, stream, p)


# ---------------------------------------------------------------- motion


def moving_blur(view: View, image: np.ndarray, p: Parameters) -> np.ndarray:
    """An image blurred by motion: a zoom for front and back cameras, a horizontal line for those at the sides."""
    if view.camera in _ZOOMED:
        return image_blur.zoom(image, 1 + p["zoom"], p["zoom_step"])
    pixels = int(p["line_of_width"] * image.shape[1] + 1e-9)
    return image_blur.linear(image, pixels, p["line_angle_deg"]) if pixels > 1 else image


def motion_blur(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """Whole images blurred by the motion of the car."""
    return frame.with_images(lambda view: moving_blur(view, view.image, p))


def moving_object(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """Objects that move while they are recorded: their points smeared ahead, their images blurred."""
    moved = objects.move_forward(frame, p["distance_m"])
    return moved.with_images(
        lambda view: objects.blur_objects(view, frame.boxes, lambda image: moving_blur(view, image, p))
    )


# ---------------------------------------------------------------- transformed objects, the same for both sensors


def shear(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Every box sheared; its points pressed back into it."""
    shears = objects.shears(stream(frame.token, _BOXES), len(frame.boxes), p["coefficient"], p["spread"])
    return _transformed(frame, shears, shears, fit=True)


def scale(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Every box longer, wider or higher, or the opposite; by more for the cameras than for the LiDAR."""
    return _transformed(
        frame,
        objects.scales(stream(frame.token, _BOXES), frame.boxes, p["lidar_amount"]),
        objects.scales(stream(frame.token, _BOXES), frame.boxes, p["camera_amount"]),
    )


def rotation(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Every box turned to the same side and by the same part of its interval for both sensors."""
    count = len(frame.boxes)
    return _transformed(
        frame,
        objects.rotations(stream(frame.token, _BOXES), count, p["lidar_angle_deg"], p["lidar_spread_deg"]),
        objects.rotations(stream(frame.token, _BOXES), count, p["camera_angle_deg"], p["camera_spread_deg"]),
    )


def _transformed(
    frame: Frame, for_lidar: objects.BoxTransforms, for_cameras: objects.BoxTransforms, fit: bool = False
) -> Frame:
    moved = objects.transform_points(frame, for_lidar, fit)
    return moved.with_images(lambda view: objects.transform_image(view, frame.boxes, for_cameras))


# ---------------------------------------------------------------- field of view, misalignment, and kernels as they are


def fov_lost(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """No points outside a sector ahead."""
    return lidar_noise.limit_fov(frame, p["half_angle_deg"])


def spatial_misalignment(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Camera extrinsics with noise."""
    return extrinsic_noise(frame, stream, p["rotation_sigma_rad"], p["translation_sigma_m"])


def temporal_misalignment(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """All sensors show what they recorded some sweeps ago."""
    return lag(frame, p["sweeps_back"])


density_decrease = per_cloud(lidar_noise.drop_points, "share")
crosstalk = per_frame(lidar_noise.crosstalk, "share", "sigma_m")
cutout = per_frame(lidar_noise.cutout, "patches", "share")
gaussian_lidar = per_cloud(lidar_noise.gaussian, "sigma_m")
uniform_lidar = per_cloud(lidar_noise.uniform, "amount_m")
impulse_lidar = per_cloud(lidar_noise.impulse, "divisor", "amount_m")
motion_compensation = per_cloud(pose_jitter, "rotation_sigma_rad", "translation_sigma_m", "slices")
gaussian_camera = per_image(image_noise.gaussian, "sigma")
uniform_camera = per_image(image_noise.uniform, "amount")
impulse_camera = per_image(image_noise.impulse, "amount")
local_density = per_frame(objects.drop_points, "share")
local_cutout = per_frame(objects.cutout, "share")
local_gaussian = per_frame(objects.gaussian, "sigma_m")
local_uniform = per_frame(objects.uniform, "amount_m")
local_impulse = per_frame(objects.impulse, "divisor", "amount_m")
