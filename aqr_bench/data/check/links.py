"""Checks between the tables of a nuScenes root: references, and the sensors of every sample.

Causes before consequences: that something is absent is only claimed where every row that could have it was readable.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqr_bench.data.check.finding import Finding, finding
from aqr_bench.data.check.table_schema import MAY_POINT_NOWHERE, SCHEMA
from aqr_bench.data.check.tables import Table, row_names, rows_of
from aqr_bench.data.infos import CAMERAS

LIDAR = "LIDAR_TOP"
CHANNELS = (LIDAR, *CAMERAS)  # those that this project reads
OTHER, UNKNOWN = -1, -2  # in place of a position in CHANNELS


def check_links(tables: Mapping[str, Table]) -> list[Finding]:
    """Every token that points to another table is there, and every log has a map."""
    findings = []
    for name, table in tables.items():
        for field, kind in SCHEMA[name].items():
            if kind.table not in tables or (name, field) in MAY_POINT_NOWHERE:
                continue
            index, hashes = table.lists[field] if kind.many else (table.index, table.hashes[field])
            lost = index[(hashes != 0) & ~np.isin(hashes, tables[kind.table].hashes["token"])]
            if len(lost):
                what = f"{rows_of(name, len(lost))} where '{field}' is no token of {kind.table}.json"
                findings.append(finding("links", what, "link", row_names(lost)))
    if {"map", "log"} <= tables.keys() and tables["map"].complete("log_tokens"):
        log = tables["log"]
        tokens = log.hashes["token"]
        lost = log.index[(tokens != 0) & ~np.isin(tokens, tables["map"].lists["log_tokens"][1])]
        if len(lost):
            what = f"{rows_of('log', len(lost))} that no map of map.json names"
            findings.append(finding("links", what, "row", row_names(lost)))
    return findings


def channels_of(tables: Mapping[str, Table]) -> np.ndarray:
    """[N] for every row of sample_data: position in ``CHANNELS``, OTHER sensor, or UNKNOWN by bad or missing rows."""
    if not {"calibrated_sensor", "sensor"} <= tables.keys():
        return np.full(len(tables["sample_data"].index), UNKNOWN)
    calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
    positions = {channel: i for i, channel in enumerate(CHANNELS)}
    channel = np.array(
        [UNKNOWN if name is None else positions.get(name, OTHER) for name in sensor.columns["channel"]] + [UNKNOWN]
    )
    mounted = np.append(_positions(calibrated.hashes["sensor_token"], sensor.hashes["token"]), -1)
    recorded = tables["sample_data"].hashes["calibrated_sensor_token"]
    return channel[mounted[_positions(recorded, calibrated.hashes["token"])]]


def _positions(wanted: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Where ``tokens`` has each of ``wanted``; -1: nowhere, also for 0 (empty or bad)."""
    if not len(tokens):
        return np.full(len(wanted), -1)
    order = np.argsort(tokens)
    place = order[np.minimum(np.searchsorted(tokens, wanted, sorter=order), len(tokens) - 1)]
    return np.where((tokens[place] == wanted) & (wanted != 0), place, -1)


def check_sensors(tables: Mapping[str, Table]) -> list[Finding]:
    """Every sample has a keyframe of the LiDAR and of all six cameras; a camera has an intrinsic matrix."""
    findings = []
    if {"calibrated_sensor", "sensor"} <= tables.keys():
        calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
        camera = np.array([*(modality == "camera" for modality in sensor.columns["modality"]), False])
        is_camera = camera[_positions(calibrated.hashes["sensor_token"], sensor.hashes["token"])]
        without = np.array([matrix == [] for matrix in calibrated.columns["camera_intrinsic"]], bool)
        lost = calibrated.index[is_camera & without]
        if len(lost):
            what = f"{rows_of('calibrated_sensor', len(lost))} of a camera without 'camera_intrinsic'"
            findings.append(finding("calibration", what, "row", row_names(lost)))
    if {"sample", "sample_data"} <= tables.keys():
        data, sample = tables["sample_data"], tables["sample"]
        channels = channels_of(tables)
        if not data.complete("sample_token", "is_key_frame") or (channels == UNKNOWN).any():
            return findings  # a row of an unknown sample or sensor may be the one that seems to lack
        keyframe = np.array(data.columns["is_key_frame"], bool)
        for position, channel in enumerate(CHANNELS):
            recorded = data.hashes["sample_token"][keyframe & (channels == position)]
            tokens = sample.hashes["token"]
            lost = sample.index[(tokens != 0) & ~np.isin(tokens, recorded)]
            if len(lost):
                what = f"{rows_of('sample', len(lost))} without a keyframe of {channel} in sample_data.json"
                findings.append(finding("links", what, "link", row_names(lost)))
    return findings
