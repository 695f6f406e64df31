"""Suite nuscenes_c: the 27 corruptions of nuScenes-C (thu-ml/3D_Corruptions_AD, arXiv:2303.11040), five severities."""

from __future__ import annotations

from aqr_bench.corruptions.lidar.fog import backscatter
from aqr_bench.corruptions.registry import Corruption
from aqr_bench.corruptions.suites import nuscenes_c_apply as apply_c
from aqr_bench.corruptions.suites.nuscenes_c_entries import (
    ALL_SWEEPS,
    CAMERA_FILE,
    DIVISORS,
    LIDAR_FILE,
    SEEDING,
    SWEEPS,
    VERSION,
    XYZ_ONLY,
    entries,
    multiples,
)
from aqr_bench.corruptions.suites.nuscenes_c_motion import ALIGNMENT, MOTION, OBJECTS

# The source's files are named by rain rate and occupancy; LiDAR_snow_sim makes these of snowfall and speed of fall.
_SNOWFALL, _TERMINAL = (0.5, 2.5, 1.0, 1.5, 2.5), (1.8, 1.4, 0.2, 0.2, 0.2)
_FOG_ALPHA = (0.005, 0.01, 0.02, 0.03, 0.06)
_IMAGE_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)

_WEATHER = (
    *entries(
        "snow_scatter",
        "both",
        "snowfall and a wet road; snow and less light in the images",
        apply_c.snow,
        f"{LIDAR_FILE}, snow_sim_nus (SysCV/LiDAR_snow_sim, Hahner et al. CVPR 2022); {CAMERA_FILE}, ImageAddSnow",
        (
            "flakes are drawn from the size distribution that the source's downloaded flake files were made of, hence "
            "the name; the ring column stays",
            "snowfall and speed of fall that give the rain rate and the occupancy in the names of the source's files",
            SEEDING,
            SWEEPS,
            VERSION,
        ),
        ("intensity",),
        {
            "beam_divergence_rad": 3e-3,
            "noise_floor": 0.7,
            "water_mm": 1.2,
            "wet_noise_floor": 0.25,
            "grey": 0.3,
            "most_value": 0.7,
            **ALL_SWEEPS,
        },
        snowfall_mm_h=_SNOWFALL,
        terminal_m_s=_TERMINAL,
        snow_loc=(0.1, 0.2, 0.55, 0.55, 0.55),
        snow_scale=(0.3, 0.3, 0.3, 0.3, 0.3),
        snow_zoom=(3, 2, 4, 4.5, 2.5),
        snow_threshold=(0.5, 0.5, 0.9, 0.85, 0.85),
        snow_radius_px=(10, 12, 12, 12, 12),
        snow_sigma_px=(4, 4, 8, 8, 12),
        snow_mix=(0.8, 0.7, 0.7, 0.65, 0.55),
    ),
    *entries(
        "rain_scatter",
        "both",
        "rainfall; streaks and less light in the images",
        apply_c.rain,
        f"{LIDAR_FILE}, rain_sim (LISA, Kilic et al. 2021); {CAMERA_FILE}, ImageAddRain (imgaug RainLayer)",
        (
            "drops scatter as computed here; the source reads a Mie table, hence the name",
            "the source's list has a sixth rate, 10.42 mm/h, which no severity uses",
            SEEDING,
            SWEEPS,
        ),
        ("intensity",),
        {
            "drop_size": (0.4, 0.6),
            "fall_angle_deg": (-15.0, 15.0),
            "fall_speed": (0.04, 0.20),
            "drop_uniformity": (0.8, 1.0),
            "grey": 0.3,
            "most_value": 0.7,
            **ALL_SWEEPS,
        },
        rate_mm_h=(0.20, 0.73, 1.5625, 3.125, 7.29),
        drop_density=((0.01, 0.06), (0.06, 0.10), (0.10, 0.15), (0.15, 0.20), (0.20, 0.25)),
    ),
    *entries(
        "fog",
        "both",
        "homogeneous fog; fog and a grey veil in the images",
        apply_c.fog,
        f"{LIDAR_FILE}, fog_sim (MartinHahner/LiDAR_fog_sim, ICCV 2021); {CAMERA_FILE}, ImageAddFog",
        (
            "the return of the fog is integrated here for each alpha; the source takes the nearest of its tables",
            "backscatter follows alpha; the source keeps that of alpha 0.06, 9.2e-4, because it is computed first",
            SEEDING,
            SWEEPS,
            VERSION,
        ),
        ("intensity",),
        {"gamma": 1e-6, "noise_m": 1.0, **ALL_SWEEPS},
        alpha_per_m=_FOG_ALPHA,
        beta_per_m_sr=tuple(round(backscatter(alpha), 9) for alpha in _FOG_ALPHA),
        fog_amount=(1.5, 2.0, 2.5, 2.5, 3.0),
        fog_decay=(2.0, 2.0, 1.7, 1.5, 1.4),
        grey=multiples(0.1),
    ),
    *entries(
        "sunlight",
        "both",
        "a low sun in the front camera, which blinds and disturbs the LiDAR",
        apply_c.sunlight,
        f"{CAMERA_FILE}, ImagePointAddSun",
        (
            "the sun is in CAM_FRONT, by name; the source takes the first image of its list. Without that camera only "
            "the LiDAR noise is left",
            "the radius is for images 1600 pixels wide and goes with the width; the source's is fixed",
            "the flare's second, smaller spot is not drawn",
            SEEDING,
        ),
        (),
        {"sun_u": (0.25, 0.75), "sun_v": (0.30, 0.45), "sigma_m": 3.0, **ALL_SWEEPS},
        radius_px=(30, 40, 50, 60, 70),
        share=multiples(0.004),
    ),
)

_SENSOR = (
    *entries(
        "density_decrease",
        "lidar",
        "a random share of all points gone",
        apply_c.density_decrease,
        f"{LIDAR_FILE}, density_dec_global",
        (SEEDING, SWEEPS),
        fixed=ALL_SWEEPS,
        share=multiples(0.06),
    ),
    *entries(
        "cutout",
        "lidar",
        "clumps of neighbouring points gone",
        apply_c.cutout,
        f"{LIDAR_FILE}, cutout_local",
        (
            "neighbours by distance in space; the source's distance counts intensity (0..255) and time lag as metres",
            SEEDING,
        ),
        fixed={"share": 0.02, **ALL_SWEEPS},
        patches=(2, 3, 5, 7, 10),
    ),
    *entries(
        "crosstalk",
        "lidar",
        "a few points thrown metres away",
        apply_c.crosstalk,
        f"{LIDAR_FILE}, lidar_crosstalk_noise",
        (XYZ_ONLY, SEEDING),
        fixed={"sigma_m": 3.0, **ALL_SWEEPS},
        share=multiples(0.004),
    ),
    *entries(
        "fov_lost",
        "lidar",
        "only points in a sector ahead",
        apply_c.fov_lost,
        f"{LIDAR_FILE}, fov_filter",
        ("a point on the sensor's axis counts as ahead; the source divides by zero there",),
        fixed=ALL_SWEEPS,
        half_angle_deg=(105.0, 90.0, 75.0, 60.0, 45.0),
    ),
    *entries(
        "gaussian_lidar",
        "lidar",
        "Gaussian noise on all points",
        apply_c.gaussian_lidar,
        f"{LIDAR_FILE}, gaussian_noise",
        (XYZ_ONLY, SEEDING, SWEEPS),
        fixed=ALL_SWEEPS,
        sigma_m=multiples(0.02),
    ),
    *entries(
        "uniform_lidar",
        "lidar",
        "uniform noise on all points",
        apply_c.uniform_lidar,
        f"{LIDAR_FILE}, uniform_noise",
        (XYZ_ONLY, SEEDING, SWEEPS),
        fixed=ALL_SWEEPS,
        amount_m=multiples(0.02),
    ),
    *entries(
        "impulse_lidar",
        "lidar",
        "some points shifted by 0.1 m along every axis",
        apply_c.impulse_lidar,
        f"{LIDAR_FILE}, impulse_noise",
        (XYZ_ONLY, SEEDING, SWEEPS),
        fixed={"amount_m": 0.1, **ALL_SWEEPS},
        divisor=DIVISORS,
    ),
    *entries(
        "gaussian_camera",
        "camera",
        "Gaussian noise on all images",
        apply_c.gaussian_camera,
        f"{CAMERA_FILE}, ImageAddGaussianNoise (imagecorruptions gaussian_noise)",
        (VERSION, SEEDING),
        sigma=_IMAGE_NOISE,
    ),
    *entries(
        "uniform_camera",
        "camera",
        "uniform noise on all images",
        apply_c.uniform_camera,
        f"{CAMERA_FILE}, ImageAddUniformNoise",
        (SEEDING,),
        amount=_IMAGE_NOISE,
    ),
    *entries(
        "impulse_camera",
        "camera",
        "salt and pepper on all images",
        apply_c.impulse_camera,
        f"{CAMERA_FILE}, ImageAddImpulseNoise (imagecorruptions impulse_noise)",
        (VERSION, SEEDING),
        amount=(0.03, 0.06, 0.09, 0.17, 0.27),
    ),
)

CORRUPTIONS: tuple[Corruption, ...] = _WEATHER + _SENSOR + MOTION + OBJECTS + ALIGNMENT
