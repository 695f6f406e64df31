"""Whether the values of good rows mean what nuScenes' do: known names, microseconds, points counted in boxes.

The check of a root and the command that makes info files ask the same of different representations of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqr_bench.data.check.finding import Finding, about_names, number
from aqr_bench.data.check.tables import Table
from aqr_bench.study.vocabulary import Vocabulary

KEYFRAME_STEP_US = (1e4, 2e7)  # between keyframes of a scene: from 100 a second to one in 20 seconds
MAX_LAG_US = 1e6  # of a keyframe's recording from its sample
UNITS = {"nanoseconds": 1e-3, "milliseconds": 1e3, "seconds": 1e6}  # in microseconds
REMEDIES = {
    "names": "Name nuScenes' equivalent of each, or ignore, in the tier file under data.categories or data.attributes, "
    "and give the tier with --tier.",
    "time": "Write whole microseconds into all tables, as nuScenes does.",
    "points": "Write the number of LiDAR points in each box into num_lidar_pts: training and metric leave out boxes "
    "without any.",
}


@dataclass(frozen=True, eq=False)
class TableValues:
    """What the tables say.

    Args:
        categories, attributes: names that annotated objects have.
        keyframe_steps_us: time stamps of samples minus those before them in their scenes.
        lags_us: time stamps of keyframe recordings minus those of their samples.
        boxes: annotations. ``boxes_with_points``: those that a point of LiDAR or radar was counted in.
    """

    categories: frozenset[str]
    attributes: frozenset[str]
    keyframe_steps_us: np.ndarray
    lags_us: np.ndarray
    boxes: int
    boxes_with_points: int


def check_values(values: TableValues, vocabulary: Vocabulary) -> list[Finding]:
    """One finding for each thing that is not as nuScenes has it; its remedy is of ``REMEDIES``."""
    findings = []
    for table, unknown in {
        "category": vocabulary.unknown_categories(values.categories),
        "attribute": vocabulary.unknown_attributes(values.attributes),
    }.items():
        what = f"{table}.json, {number(len(unknown), 'name')} of annotated objects that nuScenes does not have"
        findings += about_names("names", what, "names", unknown)
    fault = _step_fault(values.keyframe_steps_us) or _lag_fault(values.lags_us)
    if fault:
        findings.append(Finding("time", fault, "time"))
    if values.boxes and not values.boxes_with_points:
        what = f"sample_annotation.json, num_lidar_pts and num_radar_pts are 0 in all {number(values.boxes, 'row')}"
        findings.append(Finding("points", what, "points"))
    return findings


def _step_fault(steps_us: np.ndarray) -> str:
    if not len(steps_us):
        return ""
    step, (low, high) = float(np.median(np.abs(steps_us))), KEYFRAME_STEP_US
    if low <= step <= high:
        return ""
    units = [unit for unit, factor in UNITS.items() if low <= step * factor <= high]
    guess = f"; they seem to be {' or '.join(units)}" if units else ""
    return f"sample.json, time stamps of successive keyframes differ by {step:g}, read as {step / 1e6:g} s{guess}"


def _lag_fault(lags_us: np.ndarray) -> str:
    lag = float(np.median(np.abs(lags_us))) if len(lags_us) else 0.0
    if lag <= MAX_LAG_US:
        return ""
    return (
        f"sample_data.json, time stamps of keyframes differ by {lag:g} from those of their samples, read as "
        f"{lag / 1e6:g} s"
    )


# ---------------------------------------------------------------- where the values come from


def devkit_values(nusc: Any) -> TableValues:
    """Of tables that nuscenes-devkit has loaded."""
    samples = {sample["token"]: sample["timestamp"] for sample in nusc.sample}
    names = {attribute["token"]: attribute["name"] for attribute in nusc.attribute}
    annotations = nusc.sample_annotation
    return TableValues(
        categories=frozenset(a["category_name"] for a in annotations),
        attributes=frozenset(names[token] for a in annotations for token in a["attribute_tokens"]),
        keyframe_steps_us=np.array([s["timestamp"] - samples[s["prev"]] for s in nusc.sample if s["prev"]]),
        lags_us=np.array([d["timestamp"] - samples[d["sample_token"]] for d in nusc.sample_data if d["is_key_frame"]]),
        boxes=len(annotations),
        boxes_with_points=sum(a["num_lidar_pts"] + a["num_radar_pts"] > 0 for a in annotations),
    )


def table_values(tables: Mapping[str, Table]) -> TableValues:
    """Of tables as far as they could be read; what is missing or bad is left out, and is found elsewhere."""
    sample, data = tables.get("sample"), tables.get("sample_data")
    annotation, instance = tables.get("sample_annotation"), tables.get("instance")
    times = _known_times(sample)
    steps, lags = np.zeros(0), np.zeros(0)
    if sample is not None:
        steps = _differences(sample, "prev", times, np.ones(len(sample.index), bool))
    if data is not None:
        keyframe = np.array([flag is True for flag in data.columns["is_key_frame"]], bool)
        lags = _differences(data, "sample_token", times, keyframe)
    attributes: frozenset[str] = frozenset()
    boxes = with_points = 0
    if annotation is not None:
        attributes = _names(tables.get("attribute"), annotation.lists["attribute_tokens"][1])
        if annotation.complete("num_lidar_pts", "num_radar_pts"):
            columns = (annotation.columns["num_lidar_pts"], annotation.columns["num_radar_pts"])
            boxes, with_points = annotation.count, sum(map(any, zip(*columns, strict=True)))
    categories = _names(tables.get("category"), () if instance is None else instance.hashes["category_token"])
    return TableValues(categories, attributes, steps, lags, boxes, with_points)


def _known_times(sample: Table | None) -> dict[int, int]:
    """Time stamps by the hash of a sample's token."""
    if sample is None:
        return {}
    rows = zip(sample.hashes["token"].tolist(), sample.columns["timestamp"], strict=True)
    return {token: time for token, time in rows if token and time is not None}


def _differences(table: Table, link: str, times: Mapping[int, int], rows: np.ndarray) -> np.ndarray:
    """Time stamps of some rows minus those of the samples that they point to by ``link``."""
    linked = zip(table.hashes[link].tolist(), table.columns["timestamp"], rows.tolist(), strict=True)
    return np.array([t - times[token] for token, t, chosen in linked if chosen and t is not None and token in times])


def _names(table: Table | None, used: np.ndarray | Sequence[int]) -> frozenset[str]:
    """Names of the rows of a table that are pointed to."""
    if table is None:
        return frozenset()
    chosen = np.isin(table.hashes["token"], np.asarray(used, np.int64)) & (table.hashes["token"] != 0)
    return frozenset(table.columns["name"][row] for row in np.flatnonzero(chosen) if table.columns["name"][row])
