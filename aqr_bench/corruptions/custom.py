"""Corruptions of the user: a decorated function in a file or package, checked when it is loaded and when applied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aqr_bench import plugins
from aqr_bench.corruptions.fingerprint import sample_fingerprint
from aqr_bench.corruptions.frame import Cloud, Frame, FrameError, History, View
from aqr_bench.corruptions.registry import MODALITIES, Apply, Corruption, RandomStream, corrupt
from aqr_bench.errors import UserError, short

SUITE = "custom"  # full names are custom.<name of the function>
SIGNATURE = "(frame: Frame, stream: RandomStream, parameters: Mapping) -> Frame"
_DESCRIPTION = "aqr_corruption"  # attribute of a decorated function
_CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")


@dataclass(frozen=True)
class Description:
    """What a decorator says of a function; fields as of ``Corruption``."""

    changes: str = "both"
    severities: tuple[Mapping[str, Any], ...] = ({},)
    summary: str = ""
    source: str = "-"
    needs: tuple[str, ...] = ()


def corruption(
    changes: str,
    severities: Sequence[Mapping[str, Any]] = ({},),
    summary: str = "",
    source: str = "-",
    needs: Sequence[str] = (),
    name: str | None = None,
) -> Callable[[Apply], Apply]:
    """Decorator of a function (frame, stream, parameters) -> frame.

    Args:
        changes: lidar, camera, both or calibration. Sensors that it does not name must stay as they are.
        severities: the parameters of each, from mild to severe; a suite may change them (``options``).
        summary: one line; by default the first line of the docstring.
        source: paper or repository.
        needs: of ``intensity``, ``ring``, ``boxes``, ``history``.
        name: under which it is registered wherever its module is imported; without one it is used by reference alone.
    """
    if changes not in MODALITIES[1:]:
        raise UserError(f"corruption: changes '{changes}' is not one of {', '.join(MODALITIES[1:])}")
    if not severities or not all(isinstance(entry, Mapping) for entry in severities):
        raise UserError("corruption: severities must be a list of mappings, the parameters of each severity")

    def describe(function: Apply) -> Apply:
        doc = (inspect.getdoc(function) or "").partition("\n")[0]
        parameters = tuple(dict(entry) for entry in severities)
        setattr(function, _DESCRIPTION, Description(changes, parameters, summary or doc, source, tuple(needs)))
        if name is not None:
            plugins.register(plugins.CORRUPTIONS, name, function)
        return function

    return describe


@dataclass(frozen=True)
class CustomApply:
    """Calls a function of the user: its input cannot be written to, and what is no frame is refused."""

    name: str
    function: Apply

    def __call__(self, frame: Frame, stream: RandomStream, parameters: Mapping[str, Any]) -> Frame:
        try:
            result = self.function(_arrays_of(frame, _read_only), stream, parameters)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            remedy = "Change a copy of the array, and return a new frame (frame.with_points, frame.with_images)."
            raise UserError(f"corruption '{self.name}' writes to its input: {error}", remedy) from error
        if not isinstance(result, Frame):
            raise UserError(f"corruption '{self.name}' returned {type(result).__name__}, expected a Frame")
        return _arrays_of(result, lambda array: array if array.flags.writeable else array.copy())

    def __reduce__(self) -> tuple:
        """By name: a loader's process imports the user's file itself."""
        return _apply_of, (self.name,)


def _apply_of(name: str) -> CustomApply:
    return CustomApply(name, _function(name))


def custom_family(name: str) -> tuple[Corruption, ...] | None:
    """All severities of a corruption by its reference or registered name; None for a text that is neither.

    Raises:
        UserError: there is no such code, it is no corruption, or it fails ``check_corruption``.
    """
    function = _function(name)
    if function is None:
        return None
    description: Description = getattr(function, _DESCRIPTION, Description())
    family = []
    for number, parameters in enumerate(description.severities, start=1):
        severity = number if len(description.severities) > 1 else 0
        family.append(
            Corruption(
                function.__name__,
                SUITE,
                severity,
                description.changes,
                description.summary or function.__name__,
                parameters,
                description.source,
                CustomApply(name, function),
                needs=description.needs,
            )
        )
        check_corruption(family[-1])
    return tuple(family)


def _function(name: str) -> Apply | None:
    function = plugins.find(name, plugins.CORRUPTIONS)
    if function is None:
        return None
    if not inspect.isfunction(function):
        raise UserError(f"corruption '{short(name)}' is a {type(function).__name__}, expected a function {SIGNATURE}")
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        has = inspect.signature(function)
        raise UserError(f"corruption '{short(name)}' has the signature {has}, expected {SIGNATURE}") from None
    return function


# ---------------------------------------------------------------- the contract


def check_corruption(corruption: Corruption, frame: Frame | None = None) -> None:
    """Apply a corruption twice to a small frame, and hold the results against the contract.

    A frame on which it raises FrameError is none that it can be checked on. ``frame``: by default ``probe_frame()``.

    Raises:
        UserError: it changes its input, gives another result with the same seed, changes a sensor that it does not
            name, gives values that no sensor gives, or fails.
    """
    frame = probe_frame() if frame is None else frame
    before, what = _digests(frame), f"corruption '{corruption}'"
    try:
        first, second = (corrupt(corruption, frame) for _ in range(2))
    except FrameError as error:
        if "result of corruption" in str(error):
            raise UserError(f"{what}: {error}") from None
        return
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} fails on a small frame: {type(error).__name__}: {error}") from error
    if _digests(frame) != before:
        raise UserError(f"{what} changes its input", "Change a copy, and return a new frame.")
    if _digests(first) != _digests(second):
        remedy = "Take all random numbers from stream(frame.token, sensor), not from numpy's or Python's generator."
        raise UserError(f"{what} gives another result with the same seed", remedy)
    after = _digests(first)
    for sensor in ("lidar", "camera"):
        if after[sensor] != before[sensor] and corruption.modality not in (sensor, "both"):
            raise UserError(f"{what} changes the {sensor}, and says that it changes '{corruption.modality}'")


def probe_frame(seed: int = 0, points: int = 2000, size: tuple[int, int] = (90, 160)) -> Frame:
    """A frame of random content: a key cloud of 32 rings with two sweeps, six cameras, four boxes and a past.

    ``size``: height and width of the images.
    """
    rng = np.random.default_rng(seed)

    def cloud(number: int) -> Cloud:
        ring, azimuth = rng.integers(0, 32, points), rng.uniform(-np.pi, np.pi, points)
        elevation, distance = np.deg2rad(-30 + 40 * ring / 31), rng.uniform(2, 60, points)
        flat = distance * np.cos(elevation)
        columns = [flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)]
        columns += [rng.integers(0, 256, points), ring]
        pose = np.eye(4)
        pose[1, 3] = -0.4 * number
        return Cloud(np.stack(columns, 1).astype(np.float32), pose, 1000.0 - 0.05 * number, f"sweep{number}")

    clouds = tuple(map(cloud, range(3)))
    intrinsic = np.array([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]])
    views = []
    for number, camera in enumerate(_CAMERAS):
        yaw = np.pi / 2 - number * np.pi / 3
        forward, down = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
        lidar2cam = np.eye(4)
        lidar2cam[:3, :3] = np.stack([np.cross(down, forward), down, forward])
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        views.append(View(camera, image, intrinsic, lidar2cam, 1000.0))
    boxes = np.concatenate([clouds[0].points[:4, :3], np.tile([4.5, 1.9, 1.6, 0.3], (4, 1))], 1).astype(np.float64)
    frame = Frame(f"probe{seed}", clouds, tuple(views), boxes, lidar2ego=np.eye(4))
    return replace(frame, history=_Past(frame))


class _Past(History):
    """Three earlier keyframes that show what the frame shows."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def token(self, steps: int) -> str | None:
        return f"{self._frame.token}-{steps}" if steps <= 3 else None

    def clouds(self, steps: int) -> tuple[Cloud, ...]:
        return self._frame.clouds

    def view(self, steps: int, camera: str) -> View:
        return next(view for view in self._frame.views if view.camera == camera)

    def view_sweep(self, steps: int, camera: str) -> View | None:
        return self.view(steps, camera) if steps <= 3 else None


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _arrays_of(frame: Frame, change: Callable[[np.ndarray], np.ndarray]) -> Frame:
    """The frame with each of its arrays changed."""
    clouds = (replace(c, points=change(c.points), to_key=change(c.to_key)) for c in frame.clouds)
    views = (
        replace(v, image=change(v.image), cam2img=change(v.cam2img), lidar2cam=change(v.lidar2cam)) for v in frame.views
    )
    boxes = None if frame.boxes is None else change(frame.boxes)
    return replace(frame, clouds=tuple(clouds), views=tuple(views), boxes=boxes)


def _digests(frame: Frame) -> dict[str, str]:
    """Hash of the points, of the images, and of all poses and projections."""
    none = np.zeros((0, 5), np.float32)
    points = [cloud.points for cloud in frame.clouds]
    poses = [cloud.to_key for cloud in frame.clouds] + [view.lidar2img for view in frame.views]
    return {
        "lidar": sample_fingerprint(none, [], points).sha256,
        "camera": sample_fingerprint(none, [view.image for view in frame.views], []).sha256,
        "pose": sample_fingerprint(none, [], poses).sha256,
    }
