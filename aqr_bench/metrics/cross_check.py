"""Our detection metric against nuscenes-devkit: what differs, and which evaluations are checked."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.metrics.scoring_rules import OFFICIAL_RULES, ScoringRules

TOLERANCE = 1e-9
SHARE = 0.1  # of all evaluations that are scored by the devkit as well


@dataclass(frozen=True)
class Mismatch:
    """One number that is not the same on both sides; None where a side does not have it."""

    name: str
    ours: float | None
    devkit: float | None


@dataclass(frozen=True)
class CrossCheck:
    """How many numbers were compared, the largest difference of those on both sides, and what exceeds the tolerance."""

    compared: int
    largest: float
    mismatches: tuple[Mismatch, ...]

    @property
    def agrees(self) -> bool:
        return self.compared > 0 and not self.mismatches


def cross_check(ours: Any, devkit: Any, tolerance: float = TOLERANCE) -> CrossCheck:
    """Compare two results of the same shape: nested mappings and sequences of numbers, None or NaN for undefined.

    Scores of records, the devkit's summaries, curves (anything with ``serialize``, arrays): every number counts, and so
    does one that only one side has. Undefined equals undefined alone, an infinity the same infinity.
    """
    left, right = dict(_leaves(ours)), dict(_leaves(devkit))
    largest, mismatches = 0.0, []
    for name in dict.fromkeys([*left, *right]):
        a, b = left.get(name, "missing"), right.get(name, "missing")
        if a == b or (_undefined(a) and _undefined(b)):
            continue
        if all(isinstance(v, float) and math.isfinite(v) for v in (a, b)):
            largest = max(largest, abs(a - b))
            if abs(a - b) <= tolerance:
                continue
        mismatches.append(Mismatch(name, *(v if isinstance(v, float) else None for v in (a, b))))
    return CrossCheck(len(set(left) | set(right)), largest, tuple(mismatches))


def _leaves(value: Any, name: str = "") -> Iterable[tuple[str, float | str | None]]:
    """Names and values of all leaves of nested mappings and sequences; numbers as float."""
    if hasattr(value, "serialize"):
        value = value.serialize()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{_key(key)}" if name else _key(key))
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _leaves(part, f"{name}[{i}]")
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        yield name, float(value) if number else None if value is None else str(value)


def _key(key: Any) -> str:
    return ":".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _undefined(value: float | str | None) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_drawn(name: str, share: float = SHARE, seed: int = 0) -> bool:
    """Whether one evaluation, named by what it depends on, belongs to the share.

    Drawn by a hash of the name, so that an evaluation that is drawn stays drawn when others are added.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < int(min(max(share, 0), 1) * 2**64)


def check_submission(
    submission: str | Path,
    scores: Mapping[str, Any],
    nusc: Any,
    tolerance: float = TOLERANCE,
    rules: ScoringRules = OFFICIAL_RULES,
) -> CrossCheck:
    """Score a submission with the devkit, by the same rules, and compare its record's scores, custom ones left out."""
    from aqr_bench.metrics.detection import score_detections

    scores = {name: value for name, value in scores.items() if name != "custom"}
    with tempfile.TemporaryDirectory() as folder:
        by_devkit = score_detections(submission, nusc, folder, engine="devkit", rules=rules)
        return cross_check(scores, by_devkit, tolerance)
