"""Suite msc_bench: sensor failures that MSC-Bench (arXiv:2501.01037) pairs: of cameras (RoboBEV) and LiDAR (Robo3D).

MSC-Bench combines each failure of the cameras with each of the LiDAR, beside MultiCorrupt's corruptions of both. Its
numbers are not in a source that could be read here; these are those of the toolkits whose failures it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aqr_bench.corruptions import geometry, objects
from aqr_bench.corruptions.frame import LIDAR, Frame
from aqr_bench.corruptions.lidar import noise
from aqr_bench.corruptions.registry import Apply, Corruption, RandomStream
from aqr_bench.corruptions.suites.missing_sensors import ZERO, drop_cameras

Parameters = Mapping[str, Any]
EVERY_SAMPLE = "every sample"  # in the place of a token: drawn once


def _camera_crash(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """The same cameras fail in every sample."""
    names = sorted(view.camera for view in frame.views)
    count = min(p["cameras"], len(names))
    failed = stream(EVERY_SAMPLE, "cameras").choice(len(names), count, replace=False) if count else ()
    return drop_cameras(frame, [names[i] for i in failed], p["form"])


def _frame_lost(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Images are lost, drawn for each of them."""
    lost = [v.camera for v in frame.views if stream(frame.token, v.camera).random() < p["drop_probability"]]
    return drop_cameras(frame, lost, p["form"])


def _cross_sensor(frame: Frame, _stream: RandomStream, p: Parameters) -> Frame:
    """A LiDAR of fewer beams and half the horizontal resolution."""
    fewer = geometry.keep_rings(frame, p["rings"])
    return fewer.with_points(lambda cloud: cloud.points[:: p["every_nth_point"]])


def _crosstalk(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Points thrown about by the pulses of another LiDAR."""
    return noise.crosstalk(frame, stream(frame.token, LIDAR), p["share"], p["sigma_m"])


def _incomplete_echo(frame: Frame, stream: RandomStream, p: Parameters) -> Frame:
    """Objects of which most echoes are missing."""
    return objects.drop_points(frame, stream(frame.token, LIDAR), p["dropped_share"])


# ---------------------------------------------------------------- entries

_ROBOBEV = "RoboBEV: Daniel-xsy/RoboBEV:corruptions/project/mmdet3d_plugin/corruptions.py, its three severities"
_ROBO3D = "Robo3D: ldkong1205/Robo3D:create/nuscenes_c/"
_NUMBERS = "MSC-Bench's own numbers could not be read: these are those of the toolkit that has the corruption"
_SEEDED = "drawn by sample and sensor; the original draws from one stream for the whole run"
_SWEEPS = "sweeps are changed as the keyframe is (option sweeps: key for the keyframe alone); the original leaves them"
_DROPPED_RINGS = (range(1, 32, 4), range(1, 32, 2), [int(1 + 1.33 * k) for k in range(24)])


def _severities(
    name: str,
    modality: str,
    summary: str,
    change: Apply,
    source: str,
    common: Mapping[str, Any],
    severities: Mapping[str, Sequence[Any]],
    deviations: tuple[str, ...],
    needs: tuple[str, ...] = (),
) -> list[Corruption]:
    """Severities 1, 2, ...; ``severities`` has a value for each of them under every name."""
    entries = []
    for k in range(len(next(iter(severities.values())))):
        numbers = {**common, **{key: values[k] for key, values in severities.items()}}
        text = summary.format(**numbers, beams=len(numbers.get("rings", ())))
        arguments = (name, "msc_bench", k + 1, modality, text, numbers, source, change)
        entries.append(Corruption(*arguments, (_NUMBERS, *deviations), needs))
    return entries


CORRUPTIONS: tuple[Corruption, ...] = (
    *_severities(
        "camera_crash",
        "camera",
        "{cameras} cameras give black images, the same ones in every sample",
        _camera_crash,
        _ROBOBEV,
        {"form": ZERO},
        {"cameras": (2, 4, 5)},
        (
            "so many different cameras; the original draws with replacement, so that fewer fail than it states",
            "drawn from the benchmark seed; the original draws once per run",
        ),
    ),
    *_severities(
        "frame_lost",
        "camera",
        "each image black with probability {drop_probability:.2f}",
        _frame_lost,
        _ROBOBEV,
        {"form": ZERO},
        {"drop_probability": (2 / 6, 4 / 6, 5 / 6)},
        (_SEEDED,),
    ),
    *_severities(
        "cross_sensor",
        "lidar",
        "{beams} of 32 beams left, and of these every second point",
        _cross_sensor,
        f"{_ROBO3D}cross_sensor/gen_cross_sensor.py",
        {"sweeps": "all", "every_nth_point": 2},
        {"rings": tuple(tuple(r for r in range(32) if r not in set(dropped)) for dropped in _DROPPED_RINGS)},
        (_SWEEPS,),
        ("ring",),
    ),
    *_severities(
        "crosstalk",
        "lidar",
        "{share:.0%} of the points moved by noise of {sigma_m:g} m",
        _crosstalk,
        f"{_ROBO3D}crosstalk/gen_crosstalk.py",
        {"sweeps": "all", "sigma_m": 3.0},
        {"share": (0.03,)},
        (
            "only the light severity: the original's code has no numbers of the others",
            "x, y and z are moved; the original moves the intensity, too",
            _SEEDED,
            _SWEEPS,
        ),
    ),
    *_severities(
        "incomplete_echo",
        "lidar",
        "{dropped_share:.0%} of the points of every object missing",
        _incomplete_echo,
        f"{_ROBO3D}incomplete_echo/gen_incomplete_echo.py",
        {"sweeps": "all"},
        {"dropped_share": (0.75, 0.85, 0.95)},
        (
            "points in the boxes of all detection classes, box by box; the original takes points that lidarseg labels "
            "as vehicles or cycles, class by class from 11 points on, and spares pedestrians, cones and barriers",
            _SEEDED,
            _SWEEPS,
        ),
        ("boxes",),
    ),
)
