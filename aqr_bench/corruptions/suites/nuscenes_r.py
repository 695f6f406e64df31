"""Suite nuscenes_r: the sensor failures of nuScenes-R, and those that MoME adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aqr_bench.corruptions import geometry
from aqr_bench.corruptions.frame import LIDAR, Frame, View, keep_merged, merged_xyz
from aqr_bench.corruptions.image import lens_occlusion
from aqr_bench.corruptions.registry import Corruption, RandomStream
from aqr_bench.corruptions.suites.missing_sensors import ZERO, no_cameras, no_lidar
from aqr_bench.corruptions.temporal_misalignment import stuck_image, stuck_lidar, stuck_run_steps, stuck_steps

_REPOSITORY = "nuScenes-R (arXiv:2205.14951): ADLab-AutoDrive/lidar-camera-robust-benchmark"
_TOOLKIT = f"{_REPOSITORY}:Toolkit_nuscenes_English.md"
_NOISE = f"{_REPOSITORY}:create_noise_data_nuscenes.py"
_MOME = "konyul/MoME"

# Rings left of nuScenes' 32, from MultiCorrupt; the single one from BEVFusion, which counts its beam 9 from the top.
_RINGS = (
    tuple(range(1, 32, 2)),
    tuple(range(1, 32, 4)),
    tuple(range(1, 32, 8)),
    (22,),
)
# nuScenes' ego origin (on the ground below the rear axle) in the LiDAR frame: minus the LiDAR's place in calibrated
# sensor, (0.94, 0, 1.84) m in the ego frame, whose x axis is the LiDAR's y axis.
_EGO_ORIGIN_M = (0.0, -0.94, -1.84)

_SEEDING = (
    "drawn by a hash of seed, condition, severity and sample, where the source stores draws of one global stream per "
    "file of the val split"
)


# ---------------------------------------------------------------- LiDAR


def _beam_reduction(frame: Frame, _stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return geometry.keep_rings(frame, parameters["rings"])


def _limited_fov(frame: Frame, _stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    low, high = parameters["azimuth_deg"]
    azimuth = geometry.azimuth_from_ahead_deg(frame)
    return keep_merged(frame, (azimuth >= low) & (azimuth <= high))


def _object_failure(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    if stream(frame.token, LIDAR).random() >= parameters["probability"]:
        return frame
    return keep_merged(frame, ~geometry.in_any_box(merged_xyz(frame), frame.boxes))


# ---------------------------------------------------------------- stuck sensors


def _steps(frame: Frame, stream: RandomStream, sensor: str, parameters: Mapping[str, Any]) -> int:
    """How many keyframes back a sensor shows: of single stuck frames, or of runs where there is a run length."""
    if "run_length" not in parameters:
        return stuck_steps(frame, stream, sensor, parameters["ratio"])
    return stuck_run_steps(frame, stream, sensor, parameters["ratio"], parameters["run_length"])


def _lidar_stuck(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    return stuck_lidar(frame, _steps(frame, stream, LIDAR, parameters))


def _camera_stuck(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    views = (stuck_image(frame, v, _steps(frame, stream, v.camera, parameters)) for v in frame.views)
    return replace(frame, views=tuple(views))


# ---------------------------------------------------------------- cameras


def _lens_occlusion(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    folder = parameters["masks"]
    files = () if folder is None else lens_occlusion.mask_files(folder, frame.token)

    def mask(number: int) -> np.ndarray:
        return lens_occlusion.file_mask(files[number], frame.token) if files else lens_occlusion.procedural_mask(number)

    def dirty(view: View) -> np.ndarray:
        number = stream(frame.token, view.camera).integers(len(files) or lens_occlusion.MASKS)
        return lens_occlusion.occlude(view.image, mask(int(number)))

    return frame.with_images(dirty)


def _extrinsic_noise(frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
    views, axes = [], geometry.nuscenes_axes(frame)
    if axes is not None:
        axes = geometry.rigid_motion(axes, np.zeros(3))
    for view in frame.views:
        rng = stream(frame.token, view.camera if parameters["per_camera"] else "cameras")
        noise = _misalignment(rng, parameters)
        if axes is not None:
            noise = axes.T @ noise @ axes
        # What is disturbed is the way from the camera to the car; lidar2cam leads back.
        views.append(replace(view, lidar2cam=view.lidar2cam @ np.linalg.inv(noise)))
    return replace(frame, views=tuple(views))


def _misalignment(rng: np.random.Generator, parameters: Mapping[str, Any]) -> np.ndarray:
    """[4, 4]: a rotation about a uniform axis and a shift, sizes uniform in their ranges, every sign at random."""
    axis = geometry.random_axis(rng)
    angle = rng.uniform(*parameters["angle_deg"]) * rng.choice([-1.0, 1.0])
    shift = rng.uniform(*parameters["shift_m"], 3) * rng.choice([-1.0, 1.0], 3)
    return geometry.rigid_motion(geometry.axis_rotation(axis, angle), shift, parameters["pivot_m"])


# ---------------------------------------------------------------- entries


def _entry(name: str, modality: str, summary: str, apply: Any, source: str, **kwargs: Any) -> Corruption:
    kwargs = {"severity": 0, "parameters": {}, **kwargs}
    return Corruption(name, "nuscenes_r", modality=modality, summary=summary, apply=apply, source=source, **kwargs)


def _beams(severity: int, rings: tuple[int, ...]) -> Corruption:
    return _entry(
        "beam_reduction",
        "lidar",
        f"{len(rings)} of 32 LiDAR beams left" if len(rings) > 1 else "1 of 32 LiDAR beams left",
        _beam_reduction,
        f"{_MOME} issue #6 (4 beams, evenly spaced); ring sets: ika-rwth-aachen/MultiCorrupt:converter/lidar.py; one "
        "beam: mit-han-lab/bevfusion:mmdet3d/datasets/pipelines/loading_utils.py",
        severity=severity,
        parameters={"rings": rings, "sweeps": "all"},
        deviations=(
            "no part of the nuScenes-R toolkit; MoME's ring numbers are not public, MultiCorrupt's evenly spaced set "
            "of the same size is used instead",
            "the single beam is taken by its ring, 22, where BEVFusion takes points by elevation about -1.3 degrees",
        ),
        needs=("ring",),
    )


def _fov(severity: int, half: float) -> Corruption:
    return _entry(
        "limited_fov",
        "lidar",
        f"LiDAR points within {half:g} degrees of straight ahead left",
        _limited_fov,
        f"{_TOOLKIT}, LoadPointsFromMultiSweeps",
        severity=severity,
        parameters={"azimuth_deg": (-half, half), "sweeps": "all"},
        deviations=(
            "arctan2 instead of arctan with a case split, which is not defined at x = y = 0; there it is 0 here",
        ),
    )


def _stuck_entries(sensor: str, run_length: int | None) -> list[Corruption]:
    lidar = sensor == "lidar"
    what = "LiDAR" if lidar else "each camera"
    deviations = [
        f"each frame is stuck independently with that probability ({_SEEDING}), where the source picks an exact "
        "number of frames of the whole split",
        "draws of different severities are independent; the source's sets of single stuck frames are nested",
    ]
    if run_length:
        deviations.append("runs end with their scene, where those of the source go on into the next scene of its table")
    if lidar:
        deviations.append("the clouds are dated later instead of the sample earlier: the same lags of the sweeps")
    runs = f" in runs of {run_length}" if run_length else ""
    return [
        _entry(
            f"{sensor}_stuck_consecutive" if run_length else f"{sensor}_stuck",
            sensor,
            f"{what} stuck in {10 * severity} % of the frames{runs}",
            _lidar_stuck if lidar else _camera_stuck,
            f"{_NOISE}, drop_frame_gather; {_TOOLKIT}, NuScenesDataset.get_data_info",
            severity=severity,
            parameters={"ratio": severity / 10, **({"run_length": run_length} if run_length else {})},
            deviations=tuple(deviations),
            needs=("history",),
        )
        for severity in range(1, 10)
    ]


def _extrinsics(severity: int, angle_deg: tuple[float, float], deviation: str) -> Corruption:
    return _entry(
        "extrinsic_noise",
        "calibration",
        f"camera poses off by {angle_deg[0]:g} to {angle_deg[1]:g} degrees and 5 to 10 mm per axis",
        _extrinsic_noise,
        f"{_NOISE}, camera_extrinsics_gather, get_noise_rot_mat, get_noise_trans",
        severity=severity,
        parameters={
            "angle_deg": angle_deg,
            "shift_m": (0.005, 0.010),
            "pivot_m": _EGO_ORIGIN_M,
            "per_camera": True,  # False: one noise for all cameras, the source's "all"
        },
        deviations=(
            deviation,
            "the noise is put behind the camera's place relative to the LiDAR, about nuScenes' usual ego origin; the "
            "source has the ego frame itself, at the camera's own time",
            _SEEDING,
        ),
    )


CORRUPTIONS: tuple[Corruption, ...] = (
    *(_beams(severity, rings) for severity, rings in enumerate(_RINGS, 1)),
    _fov(1, 90.0),
    _fov(2, 60.0),
    _entry(
        "object_failure",
        "lidar",
        "in half of the frames no LiDAR point on any object",
        _object_failure,
        f"{_NOISE}, object_failure_gather; {_TOOLKIT}, Randomdropforeground",
        parameters={"probability": 0.5, "sweeps": "all"},
        deviations=(_SEEDING,),
        needs=("boxes",),
    ),
    *_stuck_entries("lidar", None),
    *_stuck_entries("lidar", 4),
    *_stuck_entries("camera", None),
    *_stuck_entries("camera", 4),
    _entry(
        "lidar_drop",
        "lidar",
        "every LiDAR point zero-filled",
        no_lidar,
        f"{_MOME}:projects/configs/mome/failure_case/mome_lidar_drop.py, ModalMask3D",
        parameters={"form": ZERO},
    ),
    _entry(
        "view_drop",
        "camera",
        "every image zero-filled",
        no_cameras,
        f"{_MOME}:projects/configs/mome/failure_case/mome_camera_drop.py, ModalMask3D",
        parameters={"form": ZERO},
    ),
    _entry(
        "lens_occlusion_procedural",
        "camera",
        "dirt and scratches on every lens; procedural masks, not the source's images",
        _lens_occlusion,
        f"{_NOISE}, camera_mask_gather; {_TOOLKIT}, LoadMaskMultiViewImageFromFiles",
        # masks: a folder of mask images (the source's 16, where the user has them); None: procedural masks.
        parameters={"masks": None},
        deviations=(
            "the 16 mask images of the source are not public; 16 procedural ones, not turned, replace them; "
            "a folder given as 'masks' is used as the source uses its images",
            "a mask of a folder is picked by its place in the order of names, not by a number in its name",
            "rounded to integer pixel values",
            _SEEDING,
        ),
    ),
    _extrinsics(
        1, (0.5, 2.5), "the angles that the source's code really gives: it converts degrees with pi / 360, half of them"
    ),
    _extrinsics(2, (1.0, 5.0), "the angles that the source's text states; its code gives half of them"),
)
