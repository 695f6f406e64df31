"""Checks between the tables of a nuScenes root: references, and the sensors of every sample.

Causes before consequences: that something is absent is only reported where every row that could have it was readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aqr_bench.data.check.finding import Finding, about_rows, number
from aqr_bench.data.check.table_schema import MAY_POINT_NOWHERE, SCHEMA
from aqr_bench.data.check.tables import Table
from aqr_bench.data.complete_scenes import CHANNELS
from aqr_bench.errors import join_names

OTHER, UNKNOWN = -1, -2  # instead of an index of CHANNELS


def check_links(tables: Mapping[str, Table]) -> list[Finding]:
    """Every token that points to another table is there, and every log has a map."""
    findings = []
    for name, table in tables.items():
        for field, kind in SCHEMA[name].items():
            if kind.table not in tables or (name, field) in MAY_POINT_NOWHERE:
                continue
            index, hashes = table.lists[field] if kind.many else (table.index, table.hashes[field])
            lost = index[(hashes != 0) & ~np.isin(hashes, tables[kind.table].hashes["token"])]
            findings += about_rows(name, lost, f"where '{field}' is no token of {kind.table}.json", "link", "links")
    if {"map", "log"} <= tables.keys() and tables["map"].complete("log_tokens"):
        lost = tables["log"].rows_without(tables["map"].lists["log_tokens"][1])
        findings += about_rows("log", lost, "that no map of map.json names", group="links")
    if "sample_annotation" in tables:  # the metric refuses them
        rows, count = np.unique(tables["sample_annotation"].lists["attribute_tokens"][0], return_counts=True)
        findings += about_rows("sample_annotation", rows[count > 1], "with more than one attribute", group="links")
    return findings


def check_sensors(tables: Mapping[str, Table]) -> list[Finding]:
    """Every sample has a keyframe of the LiDAR and of all six cameras; a camera has an intrinsic matrix."""
    findings = []
    if {"calibrated_sensor", "sensor"} <= tables.keys():
        calibrated = tables["calibrated_sensor"]
        modality = _by_token(tables["sensor"], tables["sensor"].columns["modality"])
        rows = zip(calibrated.hashes["sensor_token"].tolist(), calibrated.columns["camera_intrinsic"], strict=True)
        lost = calibrated.index[np.array([modality.get(t) == "camera" and matrix == [] for t, matrix in rows], bool)]
        findings += about_rows("calibrated_sensor", lost, "of a camera without 'camera_intrinsic'", group="calibration")
    if {"sample", "sample_data"} <= tables.keys():
        data, channels = tables["sample_data"], channels_of(tables)
        if not data.complete("sample_token", "is_key_frame") or (channels == UNKNOWN).any():
            return findings  # a row of an unknown sample or sensor may be the one that seems to be missing
        keyframe = np.array(data.columns["is_key_frame"], bool)
        absent, missing_sensors = _absent_sensors(tables)
        findings += missing_sensors
        for position, channel in enumerate(CHANNELS):
            if channel in absent:
                continue  # that samples lack its keyframes follows from it
            lost = tables["sample"].rows_without(data.hashes["sample_token"][keyframe & (channels == position)])
            findings += about_rows(
                "sample", lost, f"without a keyframe of {channel} in sample_data.json", "link", "links"
            )
    return findings


def _absent_sensors(tables: Mapping[str, Table]) -> tuple[list[str], list[Finding]]:
    """Channels that sensor.json lacks altogether, as a list and as a finding."""
    if "sensor" not in tables or not tables["sensor"].complete("channel"):
        return [], []
    present = set(tables["sensor"].columns["channel"])
    absent = [channel for channel in CHANNELS if channel not in present]
    what = f"sensor.json has {join_names(sorted(present)) or 'no sensor'}, and lacks {number(len(absent), 'sensor')}"
    return absent, [Finding("links", what, "sensors", tuple(absent), len(absent))] if absent else []


def channels_of(tables: Mapping[str, Table]) -> np.ndarray:
    """[N] for every row of sample_data: index of ``CHANNELS``, OTHER sensor, or UNKNOWN by bad or missing rows."""
    mounted: dict[int, int] = {}
    if {"calibrated_sensor", "sensor"} <= tables.keys():
        calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
        indices = {channel: i for i, channel in enumerate(CHANNELS)} | {None: UNKNOWN}
        channel = _by_token(sensor, [indices.get(name, OTHER) for name in sensor.columns["channel"]])
        sensors = calibrated.hashes["sensor_token"].tolist()
        mounted = _by_token(calibrated, [channel.get(token, UNKNOWN) for token in sensors])
    recorded = tables["sample_data"].hashes["calibrated_sensor_token"].tolist()
    return np.array([mounted.get(token, UNKNOWN) for token in recorded], np.int64)


def _by_token(table: Table, values: Sequence[Any]) -> dict[int, Any]:
    """A value for each row, by the hash of the row's token; without bad tokens."""
    return {token: value for token, value in zip(table.hashes["token"].tolist(), values, strict=True) if token}
