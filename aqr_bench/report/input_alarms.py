"""Are the inputs of evaluations plausible: nothing empty that should not be, nothing changed that should not be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aqr_bench.records.record import Record
from aqr_bench.study.spec import Condition, Suite

Found = tuple[str, Record]  # a sentence, and the record that it is about
SENSORS = (("lidar", "the LiDAR", ("points", "range_m")), ("camera", "the cameras", ("views", "brightness")))
# Means over all samples that no recorded data has. Brightness is that of 8-bit images.
PLAUSIBLE = {"points": (10, 1e7), "range_m": (0.5, 300), "views": (1, 100), "brightness": (2, 253)}


def implausible_inputs(suite: Suite, evaluations: Sequence[Record]) -> Iterator[Found]:
    """Means that cannot be, for what the condition says; records without ``extra.inputs`` (older ones) say nothing."""
    references: dict[tuple[str | None, int | None], Mapping] = {
        (r.variant, r.seed): r.extra["inputs"]
        for r in evaluations
        if r.condition == suite.conditions[0].name and _known(r)
    }
    conditions = {c.name: c for c in suite.conditions}
    for record in evaluations:
        if not _known(record) or record.condition not in conditions:
            continue
        found, allowed = record.extra["inputs"], reach(conditions[record.condition])
        clean = references.get((record.variant, record.seed))
        sensors = [s for s in SENSORS if clean is None or not _absent(clean, s)]
        yield from ((text, record) for text in _against_nature(found, record.condition, allowed, sensors))
        if clean is not None and record.condition != suite.conditions[0].name:
            yield from ((text, record) for text in _against_clean(found, clean, record.condition, allowed))


def single_sensor(suite: Suite, evaluations: Sequence[Record]) -> Iterator[Found]:
    """Models that get no LiDAR or no cameras at all without corruption: their config may want it so."""
    for record in evaluations:
        if record.condition == suite.conditions[0].name and _known(record):
            for sensor in SENSORS:
                if _absent(record.extra["inputs"], sensor):
                    yield f"The model is never given {sensor[1]}: a model of one sensor, or a lost one.", record


def _absent(inputs: Mapping, sensor: tuple) -> bool:
    """Not even an empty cloud or a black image; no model can load a sensor so by mistake without failing."""
    return inputs[sensor[2][0]] == 0


@dataclass(frozen=True)
class Reach:
    """What a condition does to the sensors ``lidar`` and ``camera``: may change, may blank as a whole, has to blank."""

    touched: frozenset[str]
    may_blank: frozenset[str]
    must_blank: frozenset[str]


def reach(condition: Condition) -> Reach:
    """What the corruption of a condition does, by its entry in the registry."""
    both, none = frozenset(["lidar", "camera"]), frozenset[str]()
    corruption = condition.corruption
    touched = {"lidar": both - {"camera"}, "camera": both - {"lidar"}, "both": both}.get(corruption.modality, none)
    lost = none
    if "form" in corruption.parameters:  # how a sensor is taken away, in missing_sensors and nuscenes_r
        lost = touched - {"camera"} if "cameras" in corruption.parameters else touched
    return Reach(touched, lost, lost)


def unequal_inputs(evaluations: Sequence[Record]) -> Iterator[Found]:
    """Models of one data set that were given other inputs than the first one, under the same condition."""
    first: dict[tuple, str] = {}
    for record in evaluations:
        given = record.provenance.get("input_sha256")
        if given is None:
            continue
        data = (record.provenance.get(name) for name in ("data_sha256", "infos_sha256"))
        key = (record.suite, record.condition, *data)
        if first.setdefault(key, given) != given:
            text = (
                f"Under '{record.condition}' other inputs were given than to the first model, so scores do not compare"
            )
            text += " (right only where a config changes what the model reads)."
            yield text, record


def _known(record: Record) -> bool:
    inputs = record.extra.get("inputs")
    return isinstance(inputs, Mapping) and all(isinstance(inputs.get(k), int | float) for k in PLAUSIBLE)


def _against_nature(found: Mapping, condition: str, allowed: Reach, sensors: Sequence) -> Iterator[str]:
    """Blank sensors that the condition does not take away, full ones that it does, and numbers that cannot be."""
    for sensor, name, measures in sensors:
        blank = any(found[measure] == 0 for measure in measures)
        if blank and sensor not in allowed.may_blank:
            yield f"Under '{condition}' {name} gave nothing, and the condition does not say so."
        if not blank and sensor in allowed.must_blank:
            yield f"Under '{condition}' {name} should give nothing, and did."
        for measure in () if blank else measures:
            low, high = PLAUSIBLE[measure]
            if not low <= found[measure] <= high:
                number = f"{found[measure]:g}: not from {low:g} to {high:g}"
                yield f"Under '{condition}' the mean of '{measure}' is {number}."


def _against_clean(found: Mapping, clean: Mapping, condition: str, allowed: Reach) -> Iterator[str]:
    """Other samples, or a sensor that the condition has no business with."""
    if found.get("samples") != clean.get("samples"):
        yield f"Under '{condition}' other samples were evaluated than without corruption."
    for sensor, name, measures in SENSORS:
        if sensor not in allowed.touched and any(found[m] != clean[m] for m in measures):
            yield f"Condition '{condition}' changes {name}, which it should leave alone."
