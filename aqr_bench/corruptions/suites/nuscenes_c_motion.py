"""Rows of the suite nuscenes_c on motion, objects and alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aqr_bench.corruptions.registry import Apply, Corruption
from aqr_bench.corruptions.suites import nuscenes_c_apply as apply_c
from aqr_bench.corruptions.suites.nuscenes_c_entries import (
    ALL_SWEEPS,
    BOXES_FILE,
    CAMERA_FILE,
    DIVISORS,
    FIRST_BOX,
    GRAVITY,
    LIDAR_FILE,
    PIPELINES,
    ROLES,
    SAME_DRAWS,
    SEEDING,
    SWEEPS,
    WARP,
    XYZ_ONLY,
    entries,
    multiples,
)

_BLUR = {"zoom_step": 0.005, "line_angle_deg": 0.0}
_BLUR_SEVERITIES = {"zoom": multiples(0.02), "line_of_width": multiples(0.01)}

MOTION = (
    *entries(
        "motion_compensation",
        "lidar",
        "each slice of the LiDAR's revolution moved by noisy poses",
        apply_c.motion_compensation,
        f"{LIDAR_FILE}, fulltrajectory_noise; {PIPELINES}/utils/lidar_split.py",
        (
            "every slice gets a small rigid motion, rotation vector and shift of the source's sigmas; the source adds "
            "noise to the nine entries of a rotation matrix, which is none any more",
            "the motion acts where the slice was measured: the true poses, there and back, cancel to first order, so "
            "no later pose is needed",
            "slices are equal sectors of a full turn; the source's run from the first to the last azimuth of the cloud",
            SEEDING,
            SWEEPS,
        ),
        fixed={"slices": 100, **ALL_SWEEPS},
        translation_sigma_m=multiples(0.02),
        rotation_sigma_rad=multiples(0.002),
    ),
    *entries(
        "moving_object",
        "both",
        "points of objects smeared ahead, their images blurred",
        apply_c.moving_object,
        f"{BOXES_FILE}, moving_object; {CAMERA_FILE}, ImageBBoxMotionBlurFrontBack and -LeftRight",
        (
            "points move along the object's own heading and its rear third is that of the box; the source moves along "
            "x, ahead in KITTI but sideways in nuScenes, and takes thirds of the points' extent",
            ROLES,
            "only boxes with all corners at least 0.1 m in front of a camera are blurred; the source cuts such boxes",
            GRAVITY,
            FIRST_BOX,
        ),
        ("boxes",),
        {**_BLUR, **ALL_SWEEPS},
        distance_m=multiples(0.2),
        **_BLUR_SEVERITIES,
    ),
    *entries(
        "motion_blur",
        "camera",
        "images blurred by the motion of the car",
        apply_c.motion_blur,
        f"{CAMERA_FILE}, ImageMotionBlurFrontBack and ImageMotionBlurLeftRight",
        (ROLES,),
        (),
        _BLUR,
        **_BLUR_SEVERITIES,
    ),
)


def _local(name: str, summary: str, apply: Apply, function: str, *deviations: str, **numbers: Any) -> list[Corruption]:
    """One of the corruptions that change the points in boxes alone; single numbers hold for all severities."""
    fixed = {key: value for key, value in numbers.items() if not isinstance(value, tuple)}
    by_severity = {key: value for key, value in numbers.items() if isinstance(value, tuple)}
    deviations = (*deviations, GRAVITY, FIRST_BOX, SEEDING)
    source = f"{BOXES_FILE}, {function}"
    return entries(
        name, "lidar", summary, apply, source, deviations, ("boxes",), {**fixed, **ALL_SWEEPS}, **by_severity
    )


def _shape(
    name: str, summary: str, apply: Apply, deviation: str, fixed: Mapping[str, Any], **by_severity: Sequence[Any]
) -> list[Corruption]:
    """One of the corruptions that give boxes another shape, for both sensors."""
    deviations = (deviation, SAME_DRAWS, WARP, GRAVITY, FIRST_BOX, SEEDING)
    source = f"{BOXES_FILE}, {name}; {CAMERA_FILE}, ImageBBoxOperation"
    return entries(name, "both", summary, apply, source, deviations, ("boxes",), {**fixed, **ALL_SWEEPS}, **by_severity)


OBJECTS = (
    *_local(
        "local_density",
        "a random share of the points of each object gone",
        apply_c.local_density,
        "density",
        share=multiples(0.1),
    ),
    *_local(
        "local_cutout",
        "a clump of the points of each object gone",
        apply_c.local_cutout,
        "cutout",
        "neighbours by distance in space; the source's distance counts intensity and time lag as metres",
        share=(0.3, 0.4, 0.5, 0.6, 0.7),
    ),
    *_local(
        "local_gaussian",
        "Gaussian noise on objects",
        apply_c.local_gaussian,
        "gaussian",
        XYZ_ONLY,
        sigma_m=multiples(0.02),
    ),
    *_local(
        "local_uniform",
        "uniform noise on objects",
        apply_c.local_uniform,
        "uniform",
        XYZ_ONLY,
        amount_m=multiples(0.02),
    ),
    *_local(
        "local_impulse",
        "some points of objects shifted by 0.1 m along every axis",
        apply_c.local_impulse,
        "impulse",
        XYZ_ONLY,
        divisor=DIVISORS,
        amount_m=0.1,
    ),
    *_shape(
        "shear",
        "objects sheared",
        apply_c.shear,
        "the points are pressed back into the box, as in the source, the image is not",
        {"spread": 0.05},
        coefficient=multiples(0.05),
    ),
    *_shape(
        "scale",
        "objects longer, wider or higher, or the opposite",
        apply_c.scale,
        "the image changes along the one axis that the points change along; the source's along all three",
        {},
        lidar_amount=multiples(0.04),
        camera_amount=multiples(0.1),
    ),
    *_shape(
        "rotation",
        "objects turned about their vertical axis",
        apply_c.rotation,
        "both sensors keep the source's own angles, larger for the cameras, at the same place of their intervals",
        {"lidar_spread_deg": 1.0, "camera_spread_deg": 2.0},
        lidar_angle_deg=(1.0, 3.0, 5.0, 7.0, 9.0),
        camera_angle_deg=multiples(4.0),
    ),
)

ALIGNMENT = (
    *entries(
        "spatial_misalignment",
        "calibration",
        "camera extrinsics with noise",
        apply_c.spatial_misalignment,
        f"{LIDAR_FILE}, spatial_alignment_noise",
        (
            "a small rigid motion after lidar2cam, in camera axes, its rotation vector with the sigma that the source "
            "adds to matrix entries; the source disturbs lidar2img, behind the intrinsics, which gives no rotation",
            "each camera of any number of them; the source only takes five, Waymo's",
            SEEDING,
        ),
        translation_sigma_m=multiples(0.04),
        rotation_sigma_rad=multiples(0.004),
    ),
    *entries(
        "temporal_misalignment",
        "both",
        "all sensors show what they recorded some sweeps ago",
        apply_c.temporal_misalignment,
        f"{LIDAR_FILE}, temporal_alignment_noise; {PIPELINES}/test_time_aug.py, CorruptionMethods",
        (
            "the old sweep has time lag 0; the source leaves the ring index in that column",
            "where the past is shorter the oldest recording serves; the source fails there",
        ),
        ("history",),
        sweeps_back=(2, 4, 6, 8, 10),
    ),
)
