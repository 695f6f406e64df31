"""A corruption: a named, sourced, seeded change of one frame; its registry, its random numbers, how it is applied."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from aqr_bench.corruptions.frame import Frame, require, require_result
from aqr_bench.errors import UserError, nearest, short

MODALITIES = ("none", "lidar", "camera", "both", "calibration")


def sample_rng(seed: int, corruption: str, severity: int, token: str, sensor: str) -> np.random.Generator:
    """Generator seeded by a hash of the arguments: independent of workers, order, batch size and model."""
    key = f"{seed}|{corruption}|{severity}|{token}|{sensor}".encode()
    # SFC64: the fastest bit generator that numpy has; some corruptions draw for every pixel.
    return np.random.Generator(np.random.SFC64(int.from_bytes(hashlib.sha256(key).digest()[:16], "little")))


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of one corruption: ``stream(token, sensor)`` is the generator of one sensor in one sample.

    A second call with the same arguments gives the same numbers again; for further ones take another ``sensor``
    (``LIDAR_TOP/<sweep token>``, ``CAM_FRONT/2``). Other samples have generators too: what a stuck sensor shows depends
    on what was drawn for the frames before.
    """

    seed: int
    corruption: str
    severity: int

    def __call__(self, token: str, sensor: str) -> np.random.Generator:
        return sample_rng(self.seed, self.corruption, self.severity, token, sensor)


Apply = Callable[[Frame, RandomStream, Mapping[str, Any]], Frame]


@dataclass(frozen=True)
class Corruption:
    """A named change of what the sensors recorded, at one severity.

    Args:
        name: unique in its suite. ``suite``: of those in ``suites``.
        severity: 1, 2, ...; 0 where there is only one.
        modality: what it changes: none, lidar, camera, both or calibration.
        summary: one line.
        parameters: every number that it uses, units in the keys. ``sweeps`` selects the clouds that it acts on: ``all``
            or ``key``; without it ``apply`` selects them, or does not touch the LiDAR.
        source: repository or paper that defines it.
        deviations: where this differs from the source, and why.
        needs: of ``intensity``, ``ring``, ``boxes``, ``history``.
        apply: pure function from frame, random stream and parameters to the corrupted frame.
        parts: corruptions that it applies in their order, each with its own random numbers; see :func:`compose`.
    """

    name: str
    suite: str
    severity: int
    modality: str
    summary: str
    parameters: Mapping[str, Any]
    source: str
    apply: Apply = field(repr=False)
    deviations: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    parts: tuple[Corruption, ...] = ()

    def __post_init__(self) -> None:
        assert self.modality in MODALITIES, self.modality
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    @property
    def key(self) -> str:
        """Full name without the severity: ``multicorrupt.fog``; missing_sensors needs no prefix."""
        return self.name if self.suite == "missing_sensors" else f"{self.suite}.{self.name}"

    def __str__(self) -> str:
        return f"{self.key}@{self.severity}" if self.severity else self.key

    @property
    def changed_sensors(self) -> frozenset[str]:
        """What it changes of ``lidar`` and ``camera``; a wrong calibration changes neither."""
        return {
            "both": frozenset(["lidar", "camera"]),
            "lidar": frozenset(["lidar"]),
            "camera": frozenset(["camera"]),
        }.get(self.modality, frozenset())

    @property
    def removed_sensors(self) -> frozenset[str]:
        """What it removes from every sample."""
        if self.parts:
            return frozenset().union(*(part.removed_sensors for part in self.parts))
        return frozenset() if "drop_probability" in self.parameters else self.dropped_sensors

    @property
    def dropped_sensors(self) -> frozenset[str]:
        """What it removes from some samples or all; any other sensor that gives nothing was emptied by mistake."""
        if self.parts:
            return frozenset().union(*(part.dropped_sensors for part in self.parts))
        if "form" not in self.parameters:  # of a missing sensor, in missing_sensors and nuscenes_r
            return frozenset()
        return self.changed_sensors - {"camera"} if "cameras" in self.parameters else self.changed_sensors

    def with_options(self, options: Mapping[str, Any]) -> Corruption:
        """The same corruption with some parameters changed; UserError for one that it does not have."""
        for key in options:
            if key not in self.parameters:
                raise UserError(f"corruption '{self}' has no parameter '{short(key)}'{nearest(key, self.parameters)}")
        return replace(self, parameters={**self.parameters, **options}) if options else self


def corrupt(corruption: Corruption, frame: Frame, seed: int = 0) -> Frame:
    """The frame under a corruption; the arrays of the frame given are not written to.

    Raises:
        FrameError: a frame without what the corruption needs, or with values that no sensor gives, before or after.
    """
    require(frame, corruption.needs, str(corruption))
    stream = RandomStream(seed, corruption.key, corruption.severity)
    if corruption.parameters.get("sweeps") == "key":
        key_only = corruption.apply(replace(frame, clouds=frame.clouds[:1]), stream, corruption.parameters)
        result = replace(key_only, clouds=key_only.clouds + frame.clouds[1:])
    else:
        result = corruption.apply(frame, stream, corruption.parameters)
    require_result(result, str(corruption))
    return result


def compose(parts: Sequence[Corruption]) -> Corruption:
    """One corruption that applies several in their order, each with the random numbers that it has alone.

    Raises:
        UserError: one of them is given twice, so that its random numbers would repeat; one that shows earlier frames
            behind one that does not, whose change those frames would lack.
    """
    names = [str(part) for part in parts]
    for number, part in enumerate(parts):
        if names[number] in names[:number]:
            raise UserError(f"corruptions: '{part}' is given twice")
        if "history" in part.needs and not all("history" in before.needs for before in parts[:number]):
            raise UserError(
                f"corruptions: '{part}' shows earlier frames, without what '{parts[number - 1]}' changes before it",
                "Name those that show earlier frames first.",
            )
    return Corruption(
        name="+".join(names),
        suite="composed",
        severity=0,
        modality=_modality(parts),
        summary=", then ".join(part.summary for part in parts),
        parameters={},
        source="; ".join(dict.fromkeys(part.source for part in parts)),
        apply=ApplyParts(tuple(parts)),
        deviations=tuple(f"{part}: {text}" for part in parts for text in part.deviations),
        needs=tuple(dict.fromkeys(need for part in parts for need in part.needs)),
        parts=tuple(parts),
    )


@dataclass(frozen=True)
class ApplyParts:
    """Applies corruptions one after the other."""

    parts: tuple[Corruption, ...]

    def __call__(self, frame: Frame, stream: RandomStream, _parameters: Mapping[str, Any]) -> Frame:
        for part in self.parts:
            frame = corrupt(part, frame, stream.seed)
        return frame


def _modality(parts: Sequence[Corruption]) -> str:
    """What several corruptions change together; a wrong calibration concerns the cameras."""
    modalities = {part.modality for part in parts} - {"none"}
    if len(modalities) <= 1:
        return modalities.pop() if modalities else "none"
    return "camera" if modalities == {"camera", "calibration"} else "both"


class Registry(Mapping[str, tuple[Corruption, ...]]):
    """All corruptions: full name -> its severities in order.

    ``custom_family``: severities of one that does not ship, by reference or registered name; None for another name.
    """

    def __init__(
        self,
        corruptions: Iterable[Corruption],
        custom_family: Callable[[str], tuple[Corruption, ...] | None] = lambda name: None,
    ) -> None:
        self._custom_family = custom_family
        self._by_key: dict[str, tuple[Corruption, ...]] = {}
        for corruption in corruptions:
            others = self._by_key.get(corruption.key, ())
            assert corruption.severity not in [other.severity for other in others], f"{corruption} is there twice"
            self._by_key[corruption.key] = (*others, corruption)

    def __getitem__(self, key: str) -> tuple[Corruption, ...]:
        return self._by_key[key]

    def __iter__(self):
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def get_corruption(
        self, name: str, severity: int | None = None, options: Mapping[str, Any] | None = None
    ) -> Corruption:
        """The corruption of that name and severity, with its parameters changed by ``options``.

        Args:
            name: full name (``multicorrupt.fog``), bare name where only one suite has it, or where the user's code is
                (``my_file.py:near_dust``), each with or without ``@severity``.
        Raises:
            UserError: unknown name, severity or parameter; it names the nearest or the known ones. Code of the user
                that cannot be used.
        """
        base, at, level = name.partition("@")
        if at and (not level.isdecimal() or severity not in (None, int(level))):
            raise UserError(f"corruption '{short(name)}': after @ comes a severity, an integer")
        severity = int(level) if at else severity
        entries = self.family(base)
        if severity is None:
            if len(entries) > 1:
                raise UserError(f"corruption '{base}' has {len(entries)} severities: give one, as in {entries[0]}")
            return entries[0].with_options(options or {})
        levels = {entry.severity: entry for entry in entries}
        if severity not in levels:
            known = ", ".join(map(str, levels)) if len(entries) > 1 else "it has none"
            raise UserError(f"corruption '{base}' has no severity {severity} (known: {known})")
        return levels[severity].with_options(options or {})

    def resolve(self, parts: Sequence[Mapping[str, Any]]) -> Corruption:
        """The composition of corruptions that are given by ``corruption``, ``severity`` and ``options``, as in a suite.

        UserError: as of :meth:`get_corruption` and :func:`compose`.
        """
        given = [(part["corruption"], part.get("severity"), part.get("options")) for part in parts]
        return compose([self.get_corruption(*names) for names in given])

    def family(self, name: str) -> tuple[Corruption, ...]:
        """All severities of a corruption by its full name, its bare one where only one suite has it, or a reference."""
        if name in self._by_key:
            return self._by_key[name]
        alike = [key for key in self._by_key if key.rpartition(".")[2] == name]
        if len(alike) == 1:
            return self._by_key[alike[0]]
        if (custom := self._custom_family(name)) is not None:
            return custom
        if alike:
            raise UserError(f"corruption '{name}' is in several suites: {', '.join(alike)}")
        raise UserError(f"unknown corruption '{short(name)}'{nearest(name, self._by_key)}")

    def every(self, suite: str | None = None) -> list[Corruption]:
        """All corruptions with all their severities, of one suite or of all."""
        return [c for entries in self._by_key.values() for c in entries if suite in (None, c.suite)]
