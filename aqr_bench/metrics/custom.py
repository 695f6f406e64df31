"""Metrics of the user: a function of detections and annotations in a file or package, held to a contract."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from aqr_bench import plugins
from aqr_bench.errors import UserError, join_names, short
from aqr_bench.metrics.boxes import BoxArrays
from aqr_bench.metrics.ground_truth import Samples

Metric = Callable[[BoxArrays, BoxArrays, Samples], Mapping[str, float | None]]
SIGNATURE = "(detections: BoxArrays, annotations: BoxArrays, samples: Samples) -> dict[str, float]"


def register_metric(name: str) -> Callable[[Metric], Metric]:
    """Decorator: ``metrics: [<name>]`` is this function wherever its module is imported."""

    def add(function: Metric) -> Metric:
        plugins.register(plugins.METRICS, name, function)
        return function

    return add


def find_metric(name: str) -> Metric:
    """The function of a reference or registered name. UserError: there is none, or it does not take three arguments."""
    function = plugins.find(name, plugins.METRICS)
    if function is None:
        raise UserError(f"no metric '{short(name)}'", "Name it as my_file.py:NAME or package.module:NAME.")
    try:
        inspect.signature(function).bind(None, None, None)
    except (TypeError, ValueError):
        raise UserError(f"metric '{short(name)}' is no function {SIGNATURE}") from None
    return function


def custom_scores(
    names: Iterable[str], detections: BoxArrays, annotations: BoxArrays, samples: Samples
) -> dict[str, float | None]:
    """What metrics of the user give for the boxes that count, by the names of their numbers; not finite: None.

    Raises:
        UserError: a metric cannot be found, writes to its input, gives no numbers by name, or two give the same name.
    """
    scores: dict[str, float | None] = {}
    for name in names:
        function = find_metric(name)
        for key, value in _numbers(name, function, detections, annotations, samples).items():
            if key in scores:
                raise UserError(f"metric '{short(name)}': another metric gives '{key}' as well", "Rename one of them.")
            scores[key] = value
    return scores


def check_metric(name: str) -> list[str]:
    """Compute a metric twice on a few boxes, and without detections; returns the names of its numbers.

    Raises:
        UserError: it cannot be found, fails, breaks the contract (``custom_scores``), or gives another result twice.
    """
    detections, annotations, samples = probe_boxes()
    results = [custom_scores([name], boxes, annotations, samples) for boxes in (detections, detections, detections[:0])]
    if results[0] != results[1]:
        raise UserError(f"metric '{short(name)}' gives another result for the same boxes")
    if results[0].keys() != results[2].keys():
        differing = join_names(sorted(results[0].keys() ^ results[2].keys()))
        raise UserError(f"metric '{short(name)}' gives other names without detections: {differing}")
    return list(results[0])


def probe_boxes(seed: int = 0) -> tuple[BoxArrays, BoxArrays, Samples]:
    """Detections near and far from the annotations of two samples, at random."""
    rng, count = np.random.default_rng(seed), 12
    annotations = BoxArrays(
        sample=np.repeat(np.arange(2, dtype=np.int32), count // 2),
        label=rng.integers(0, 10, count).astype(np.int8),
        translation=rng.uniform(-30, 30, (count, 3)) * (1, 1, 0.02),
        size=rng.uniform(0.5, 5, (count, 3)),
        rotation=np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
        velocity=rng.uniform(-5, 5, (count, 2)),
        score=np.full(count, -1.0),
        attribute=np.full(count, -1, np.int8),
        points=rng.integers(1, 100, count).astype(np.int32),
    )
    moved = annotations.translation + rng.normal(0, 1, (count, 3))
    detections = replace(annotations, translation=moved, score=rng.uniform(0, 1, count), points=np.full(count, -1))
    return detections, annotations, Samples(("a", "b"), ("scene",), np.zeros(2, np.int64), np.zeros((2, 2)), {})


def _numbers(
    name: str, function: Metric, detections: BoxArrays, annotations: BoxArrays, samples: Samples
) -> dict[str, float | None]:
    try:
        result = function(_read_only(detections), _read_only(annotations), samples)
    except Exception as error:
        raise UserError(f"metric '{short(name)}' fails: {type(error).__name__}: {error}") from error
    if not isinstance(result, Mapping) or not result:
        raise UserError(f"metric '{short(name)}' returned {type(result).__name__}, expected numbers by their names")
    for key, value in result.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise UserError(f"metric '{short(name)}': '{short(key)}' is no name: letters, digits and '_'")
        if isinstance(value, bool) or not (value is None or isinstance(value, numbers.Real)):
            raise UserError(f"metric '{short(name)}': {key} is of type {type(value).__name__}, expected a number")
    return {key: float(v) if v is not None and np.isfinite(v) else None for key, v in result.items()}


def _read_only(boxes: BoxArrays) -> BoxArrays:
    views: dict[str, Any] = {field.name: getattr(boxes, field.name).view() for field in fields(boxes)}
    for array in views.values():
        array.flags.writeable = False
    return BoxArrays(**views)
