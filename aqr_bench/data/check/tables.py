"""Checks of the tables of a nuScenes root: JSON, shape of the rows, tokens, links between tables, calibration.

Tables are read one by one, and of each only what later checks need is kept: tokens as 64-bit hashes, few columns. The
full data set's tables have gigabytes as Python objects.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.data.infos import CAMERAS

from .finding import Finding, Progress, access_remedy, found, number, row_names, rows_of
from .table_schema import KEPT, MAY_BE_EMPTY, SCHEMA, Kind, offenders

LIDAR = "LIDAR_TOP"
CHANNELS = (LIDAR, *CAMERAS)  # those that this project reads
_ABSENT = object()


@dataclass(frozen=True, eq=False)
class Table:
    """What is kept of a table; W of its rows are well formed.

    Args:
        count: all of its rows.
        tokens: [T] int64, hashes of all well-formed tokens.
        index: [W] row numbers. ``key``: [W] hashes of their tokens.
        links: for every field that points to a table: row numbers [L] and hashes [L], without empty ones.
        columns: the fields of ``KEPT``, W values each.
    """

    name: str
    count: int
    tokens: np.ndarray
    index: np.ndarray
    key: np.ndarray
    links: Mapping[str, tuple[np.ndarray, np.ndarray]]
    columns: Mapping[str, Sequence[Any]]


def check_tables(folder: str | Path, progress: Progress) -> tuple[list[Finding], dict[str, Table], str | None]:
    """Read and check each table by itself.

    Returns:
        Findings; the tables that could be read; their digest as a world.json has it, None if one could not be read.
    """
    findings: list[Finding] = []
    tables: dict[str, Table] = {}
    digest = hashlib.sha256()
    try:
        there = set(os.listdir(folder))
    except OSError as error:
        what = f"{Path(folder).name} cannot be read ({error.strerror})"
        return [Finding("tables", what, remedy=access_remedy(error))], {}, None
    missing = [f"{name}.json" for name in SCHEMA if f"{name}.json" not in there]
    if missing:
        what = f"{Path(folder).name} lacks {len(missing)} of the {len(SCHEMA)} tables"
        findings.append(Finding("tables", what, tuple(missing), len(missing)))  # all names: each has to be restored
    for name in progress(SCHEMA, "tables"):
        path = Path(folder) / f"{name}.json"
        if path.name in missing:
            continue
        rows, problem = read_rows(path, digest)
        if problem is not None:
            findings.append(problem)
            continue
        table, wrong = check_rows(name, rows)
        findings += wrong
        tables[name] = table
    return findings, tables, digest.hexdigest() if len(tables) == len(SCHEMA) else None


def read_rows(path: Path, digest: Any = None) -> tuple[list[Any], Finding | None]:
    """The rows of a table, or what is wrong with the file. ``digest`` takes in name and content."""
    collecting = gc.isenabled()
    gc.disable()  # it would go through millions of new objects again and again, and find no garbage
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            return [], Finding("tables", f"{path.name} is no file")
        content = path.read_bytes()
        if digest is not None:
            digest.update(f"{path.stem}\0".encode() + content + b"\0")
        text = content.decode("utf-8")
        del content
        rows = json.loads(text)
    except OSError as error:
        return [], Finding("tables", f"{path.name} cannot be read ({error.strerror})", remedy=access_remedy(error))
    except json.JSONDecodeError as error:
        ends = error.msg.startswith("Unterminated") or not text[error.pos :].strip()
        end = ", the file seems to be cut short" if ends else ""
        place = f"line {error.lineno}, column {error.colno}"
        what = f"{error.msg}: {place}, {number(len(text), 'character')} in all{end}"
        return [], Finding("tables", f"{path.name} is no valid JSON ({what})")
    except UnicodeDecodeError as error:
        return [], Finding("tables", f"{path.name} is no valid JSON (byte {error.start} is no UTF-8)")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists without end
        return [], Finding("tables", f"{path.name} is no valid JSON ({error})")
    except MemoryError:
        what = f"{path.name} ({path.stat().st_size / 1e9:.1f} GB) does not fit into memory"
        return [], Finding("tables", what, remedy="Close other programs, or check on a machine with more memory.")
    finally:
        if collecting:
            gc.enable()
    if type(rows) is not list:
        return [], Finding("tables", f"{path.name} holds {_json_type(rows)}, not a list of rows")
    return rows, None


def check_rows(name: str, rows: Sequence[Any]) -> tuple[Table, list[Finding]]:
    """Check the shape of every row of a table, and that its tokens are unique."""
    findings: list[Finding] = []
    index = np.arange(len(rows))
    objects = [row for row in rows if type(row) is dict]
    if len(objects) < len(rows):
        others = [i for i, row in enumerate(rows) if type(row) is not dict]
        what = f"{rows_of(name, len(others))} that hold no object (the first holds {_json_type(rows[others[0]])})"
        findings.append(found("tables", what, row_names(others)))
        index = np.delete(index, others)
    if not rows and name not in MAY_BE_EMPTY:
        findings.append(Finding("tables", f"{name}.json has no rows"))
    whole = np.ones(len(objects), bool)
    good_tokens: list[str] = []
    columns: dict[str, list[Any]] = {}
    for field, kind in SCHEMA[name].items():
        column = [row.get(field, _ABSENT) for row in objects]
        bad = offenders(kind, column)
        whole[bad] = False
        findings += _wrong_values(name, field, kind, column, bad, index)
        if field == "token":
            unfit = set(bad)
            good_tokens = [token for i, token in enumerate(column) if i not in unfit] if bad else column
            findings += _twice(name, good_tokens)
        if kind.table or field == "token" or field in KEPT.get(name, ()) or (name, field) == ("map", "log_tokens"):
            columns[field] = column
    if not whole.all():
        columns = {field: list(itertools.compress(column, whole)) for field, column in columns.items()}
    links = {field: _links(columns[field], index[whole], kind) for field, kind in SCHEMA[name].items() if kind.table}
    if name == "map":
        links["log_tokens"] = _links(columns["log_tokens"], index[whole], SCHEMA["map"]["log_tokens"])
    kept = {field: columns[field] for field in KEPT.get(name, ())}
    return Table(name, len(rows), _hashes(good_tokens), index[whole], _hashes(columns["token"]), links, kept), findings


def _wrong_values(
    name: str, field: str, kind: Kind, column: list[Any], bad: list[int], index: np.ndarray
) -> list[Finding]:
    findings = []
    absent = [i for i in bad if column[i] is _ABSENT]
    if absent:
        what = f"{rows_of(name, len(absent))} without '{field}'"
        findings.append(found("tables", what, row_names(index[absent])))
    wrong = [i for i in bad if column[i] is not _ABSENT]
    if wrong:
        group = "calibration" if name in ("calibrated_sensor", "ego_pose") else "tables"
        what = f"{rows_of(name, len(wrong))} where '{field}' is not {kind.wants}"
        findings.append(found(group, what, row_names(index[wrong])))
    return findings


def _twice(name: str, tokens: list[str]) -> list[Finding]:
    hashes, counts = np.unique(_hashes(tokens), return_counts=True)
    if (counts == 1).all():
        return []
    repeated = set(hashes[counts > 1].tolist())
    names = dict.fromkeys(token for token in tokens if hash(token) in repeated)
    return [found("tables", f"{name}.json has {number(len(names), 'token')} more than once", names)]


def _hashes(tokens: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, tokens), np.int64, len(tokens))


def _links(column: Sequence[Any], index: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    if kind.many:
        index = np.repeat(index, np.fromiter(map(len, column), np.int64, len(column)))
        column = list(itertools.chain.from_iterable(column))
    hashes = _hashes(column)
    set_ = hashes != hash("")
    return index[set_], hashes[set_]


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# ---------------------------------------------------------------- between tables


def check_links(tables: Mapping[str, Table]) -> list[Finding]:
    """Every token that points to another table is there; every log has a map; scenes have the samples that they say."""
    findings = []
    for name, table in tables.items():
        for field, kind in SCHEMA[name].items():
            if kind.table is None or kind.table not in tables:
                continue
            index, hashes = table.links[field]
            lost = index[~np.isin(hashes, tables[kind.table].tokens)]
            if len(lost):
                what = f"{rows_of(name, len(lost))} where '{field}' is no token of {kind.table}.json"
                findings.append(found("links", what, row_names(lost)))
    if {"map", "log"} <= tables.keys():
        lost = tables["log"].index[~np.isin(tables["log"].key, tables["map"].links["log_tokens"][1])]
        if len(lost):
            what = f"{rows_of('log', len(lost))} that no map of map.json names"
            findings.append(found("links", what, row_names(lost)))
    if {"scene", "sample"} <= tables.keys():
        findings += _scene_lengths(tables["scene"], tables["sample"])
    return findings


def _scene_lengths(scene: Table, sample: Table) -> list[Finding]:
    values, counts = np.unique(sample.links["scene_token"][1], return_counts=True)
    has = dict(zip(values.tolist(), counts.tolist(), strict=True))
    triples = zip(scene.columns["name"], scene.columns["nbr_samples"], scene.key.tolist(), strict=True)
    wrong = [f"{name} ({has.get(key, 0)}, not {says})" for name, says, key in triples if has.get(key, 0) != says]
    if not wrong:
        return []
    return [found("links", f"{number(len(wrong), 'scene')} with more or fewer samples than scene.json says", wrong)]


def channels_of(tables: Mapping[str, Table]) -> np.ndarray:
    """Position in ``CHANNELS`` of every well-formed row of sample_data [W]; -1: another sensor, or unknown."""
    if not {"calibrated_sensor", "sensor"} <= tables.keys():
        return np.full(len(tables["sample_data"].index), -1)
    calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
    known = {channel: i for i, channel in enumerate(CHANNELS)}
    channel = np.array([*(known.get(name, -1) for name in sensor.columns["channel"]), -1])
    mounted = np.append(_positions(calibrated.links["sensor_token"][1], sensor.key), -1)
    return channel[mounted[_positions(tables["sample_data"].links["calibrated_sensor_token"][1], calibrated.key)]]


def _positions(wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where ``keys`` holds each of ``wanted``; -1: nowhere."""
    if not len(keys):
        return np.full(len(wanted), -1)
    order = np.argsort(keys)
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[place] == wanted, place, -1)


def check_sensors(tables: Mapping[str, Table]) -> list[Finding]:
    """Every sample has a key frame of the LiDAR and of all six cameras; a camera has an intrinsic matrix."""
    findings = []
    if {"calibrated_sensor", "sensor"} <= tables.keys():
        calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
        camera = np.array([*(modality == "camera" for modality in sensor.columns["modality"]), False])
        is_camera = camera[_positions(calibrated.links["sensor_token"][1], sensor.key)]
        filled = np.array([bool(matrix) for matrix in calibrated.columns["camera_intrinsic"]], bool)
        lost = calibrated.index[is_camera & ~filled]
        if len(lost):
            what = f"{rows_of('calibrated_sensor', len(lost))} of a camera without 'camera_intrinsic'"
            findings.append(found("calibration", what, row_names(lost)))
    if {"calibrated_sensor", "sensor", "sample", "sample_data"} <= tables.keys():
        data, sample = tables["sample_data"], tables["sample"]
        channels, key_frame = channels_of(tables), np.array(data.columns["is_key_frame"], bool)
        for number_, channel in enumerate(CHANNELS):
            recorded = data.links["sample_token"][1][key_frame & (channels == number_)]
            lost = sample.index[~np.isin(sample.key, recorded)]
            if len(lost):
                what = f"{rows_of('sample', len(lost))} without a key frame of {channel} in sample_data.json"
                findings.append(found("links", what, row_names(lost)))
    return findings
