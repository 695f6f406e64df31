"""Are the inputs of evaluations plausible: no sensor empty or changed that the condition does not concern."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from aqr_bench.corruptions.fingerprint import SENSOR_MEANS, emptied_sensors
from aqr_bench.corruptions.registry import Corruption
from aqr_bench.records.record import Record
from aqr_bench.study.spec import Suite

Suspect = tuple[str, Record]  # a sentence, and the record that it is about
SENSORS = (("lidar", "the LiDAR", SENSOR_MEANS["lidar"]), ("camera", "the cameras", SENSOR_MEANS["camera"]))
# Means over all samples that no recorded data has. Brightness is that of 8-bit images.
PLAUSIBLE = {"points": (10, 1e7), "range_m": (0.5, 300), "views": (1, 100), "brightness": (2, 253)}


def implausible_inputs(suite: Suite, evaluations: Sequence[Record]) -> Iterator[Suspect]:
    """Means that are impossible under the condition; older records without ``extra.inputs`` are skipped."""
    references: dict[tuple[str | None, int | None], Mapping] = {
        (r.variant, r.seed): r.extra["inputs"]
        for r in evaluations
        if r.condition == suite.conditions[0].name and _has_inputs(r)
    }
    conditions = {c.name: c for c in suite.conditions}
    for record in evaluations:
        if not _has_inputs(record) or record.condition not in conditions:
            continue
        inputs, corruption = record.extra["inputs"], conditions[record.condition].corruption
        clean = references.get((record.variant, record.seed))
        sensors = [s for s in SENSORS if clean is None or not _absent(clean, s)]
        yield from ((text, record) for text in _implausible(inputs, clean, record.condition, corruption, sensors))
        if clean is not None and record.condition != suite.conditions[0].name:
            yield from ((text, record) for text in _unlike_clean(inputs, clean, record.condition, corruption))


def single_sensor(suite: Suite, evaluations: Sequence[Record]) -> Iterator[Suspect]:
    """Models that get no LiDAR or no cameras at all without corruption, which may be as configured."""
    for record in evaluations:
        if record.condition == suite.conditions[0].name and _has_inputs(record):
            for sensor in SENSORS:
                if _absent(record.extra["inputs"], sensor):
                    yield f"The model is never given {sensor[1]}: a model of one sensor, or a lost one.", record


def unused_sensors(record: Record) -> frozenset[str]:
    """Sensors that the model of an uncorrupted evaluation is never given; none where the record has no inputs."""
    if not _has_inputs(record):
        return frozenset()
    return frozenset(sensor[0] for sensor in SENSORS if _absent(record.extra["inputs"], sensor))


def _absent(inputs: Mapping, sensor: tuple) -> bool:
    """Not even an empty cloud or a black image; no model can load a sensor so by mistake without failing."""
    return inputs[sensor[2][0]] == 0


def unequal_inputs(evaluations: Sequence[Record]) -> Iterator[Suspect]:
    """Models that got other inputs than the first one of the same data set and condition."""
    first: dict[tuple, str] = {}
    for record in evaluations:
        sha256 = record.provenance.get("input_sha256")
        if sha256 is None:
            continue
        data = (record.provenance.get(name) for name in ("data_sha256", "infos_sha256"))
        key = (record.suite, record.condition, *data)
        if first.setdefault(key, sha256) != sha256:
            text = (
                f"Under '{record.condition}' other inputs were given than to the first model, so scores do not compare"
            )
            text += " (right only where a config changes what the model reads)."
            yield text, record


def _has_inputs(record: Record) -> bool:
    inputs = record.extra.get("inputs")
    return isinstance(inputs, Mapping) and all(isinstance(inputs.get(k), int | float) for k in PLAUSIBLE)


def _implausible(
    inputs: Mapping, clean: Mapping | None, condition: str, corruption: Corruption, sensors: Sequence
) -> Iterator[str]:
    """Sensors that are blank under another condition, or not blank under one that blanks them; impossible numbers."""
    emptied = emptied_sensors(inputs, clean, corruption.dropped_sensors)
    for sensor, name, measures in sensors:
        blank = any(inputs[measure] == 0 for measure in measures)
        if blank and sensor not in corruption.dropped_sensors:
            yield f"Under '{condition}' {name} gave nothing, which the condition does not cause."
        elif sensor in emptied:
            share = f"{emptied[sensor]} of {inputs['samples']} samples"
            yield f"Under '{condition}' {name} gave nothing in {share}, which the condition does not cause."
        if not blank and sensor in corruption.removed_sensors:
            yield f"Under '{condition}' {name} should give nothing, but did."
        for measure in () if blank else measures:
            low, high = PLAUSIBLE[measure]
            if not low <= inputs[measure] <= high:
                number = f"{inputs[measure]:g}: not from {low:g} to {high:g}"
                yield f"Under '{condition}' the mean of '{measure}' is {number}."


def _unlike_clean(inputs: Mapping, clean: Mapping, condition: str, corruption: Corruption) -> Iterator[str]:
    """Other samples, or a changed sensor that the condition does not concern."""
    if inputs.get("samples") != clean.get("samples"):
        yield f"Under '{condition}' other samples were evaluated than without corruption."
    for sensor, name, measures in SENSORS:
        if sensor not in corruption.changed_sensors and any(inputs[m] != clean[m] for m in measures):
            yield f"Condition '{condition}' changes {name}, which it should not."
