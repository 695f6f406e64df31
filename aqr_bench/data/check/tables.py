"""Checks of each table of a nuScenes root by itself: JSON, shape of the rows, values, unique tokens.

Tables are read one by one, and only what later checks need of each is retained: tokens as 64-bit hashes, few columns.
The full data set's tables take gigabytes as Python objects.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.data.check.finding import Finding, Progress, about_names, about_rows, access_cause, number
from aqr_bench.data.check.table_schema import MAY_BE_EMPTY, RETAINED_COLUMNS, SCHEMA, Kind, offenders
from aqr_bench.foreign_files import Foreign, placeholder_at

_ABSENT = object()
_JSON_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


@dataclass(frozen=True, eq=False)
class Table:
    """What is retained of a table. N of its rows are objects; a bad value only invalidates its field, not the row.

    Args:
        count: all of its rows. ``index``: [N] row numbers.
        bad: the fields with bad values.
        hashes: for ``token`` and every field that points to a table: [N] int64 hashes; 0: empty or bad.
        lists: for every field with a list of tokens: row numbers [L] and hashes [L].
        columns: the fields of ``RETAINED_COLUMNS``, N values each; None where they are bad. ``translation`` is an
            array [N, 3], NaN where it is bad.
    """

    count: int
    index: np.ndarray
    bad: frozenset[str]
    hashes: Mapping[str, np.ndarray]
    lists: Mapping[str, tuple[np.ndarray, np.ndarray]]
    columns: Mapping[str, Sequence[Any]]

    def complete(self, *fields: str) -> bool:
        """Whether every row has a good value in all of these fields."""
        return len(self.index) == self.count and self.bad.isdisjoint(fields)

    def rows_without(self, hashes: np.ndarray) -> np.ndarray:
        """Numbers of the rows whose token is not in ``hashes``."""
        tokens = self.hashes["token"]
        return self.index[(tokens != 0) & ~np.isin(tokens, hashes)]


def check_tables(folder: Path, progress: Progress) -> tuple[list[Finding], dict[str, Table], str | None]:
    """Read and check each table by itself.

    Returns:
        Findings; the tables that could be read; their digest as a world.json has it, None if one could not be read.
    """
    try:
        present = set(os.listdir(folder))
    except OSError as error:
        what = f"{folder.name} cannot be read ({error.strerror})"
        return [Finding("tables", what, access_cause(error, "table"))], {}, None
    findings: list[Finding] = []
    tables: dict[str, Table] = {}
    placeholders: dict[Foreign, list[str]] = defaultdict(list)
    digest = hashlib.sha256()
    missing = tuple(f"{name}.json" for name in SCHEMA if f"{name}.json" not in present)
    if missing:  # all names: each has to be restored
        what = f"{folder.name} lacks {len(missing)} of the {len(SCHEMA)} tables"
        findings.append(Finding("tables", what, "table", missing, len(missing)))
    for name in progress(SCHEMA, "tables"):
        path = folder / f"{name}.json"
        if path.name in missing:
            continue
        rows, problem = read_rows(path, digest)
        if problem is None:
            tables[name], problems = check_rows(name, rows)
            findings += problems
        elif (kind := placeholder_at(path)) is not None:
            placeholders[kind].append(path.name)
        else:
            findings.append(problem)
    for kind, names in placeholders.items():
        what = f"{number(len(names), 'table')}, each {kind.name}"
        findings.append(Finding("tables", what, kind.name, tuple(names), len(names)))
    return findings, tables, digest.hexdigest() if len(tables) == len(SCHEMA) else None


def read_rows(path: Path, digest: Any = None) -> tuple[list[Any], Finding | None]:
    """The rows of a table, or what is wrong with the file. ``digest`` is updated with name and content."""
    content, rows, problem, cause = b"", [], "", "table"
    collecting = gc.isenabled()
    gc.disable()  # it would traverse millions of new objects again and again, none of them garbage
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            return [], Finding("tables", f"{path.name} is not a regular file", cause)
        content = path.read_bytes()
        if digest is not None:
            digest.update(f"{path.stem}\0".encode() + content + b"\0")
        rows = json.loads(content.decode("utf-8"))
        if type(rows) is not list:
            problem = f"holds {_json_type(rows)}, not a list of rows"
    except OSError as error:
        problem, cause = f"cannot be read ({error.strerror})", access_cause(error, cause)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, lists nested without end
        ends = "" if content.rstrip().endswith(b"]") else "; the file seems to be cut short"
        problem = f"is not valid JSON ({error}; {number(len(content), 'byte')}{ends})"
    finally:
        if collecting:
            gc.enable()
    return ([], Finding("tables", f"{path.name} {problem}", cause)) if problem else (rows, None)


def check_rows(name: str, rows: Sequence[Any]) -> tuple[Table, list[Finding]]:
    """Check the values of every row of a table, and that its tokens are unique."""
    objects = [row for row in rows if type(row) is dict]
    others = [i for i, row in enumerate(rows) if type(row) is not dict]
    index = np.delete(np.arange(len(rows)), others)
    findings = about_rows(name, others, f"not an object but {_json_type(rows[others[0]])}") if others else []
    if not rows and name not in MAY_BE_EMPTY:
        findings.append(Finding("tables", f"{name}.json has no rows", "table"))
    bad, hashes, lists, columns = set(), {}, {}, {}
    for field, kind in SCHEMA[name].items():
        column = [row.get(field, _ABSENT) for row in objects]
        wrong = offenders(kind, column)
        if wrong:
            bad.add(field)
            findings += _wrong_values(name, field, kind, [(index[i], column[i]) for i in wrong])
        if field in RETAINED_COLUMNS.get(name, ()):
            columns[field] = _retained(column, wrong, as_array=field == "translation")
        for i in wrong:
            column[i] = [] if kind.many else ""
        if kind.many:
            lengths = np.fromiter(map(len, column), np.int64, len(column))
            lists[field] = np.repeat(index, lengths), _hashes(list(itertools.chain.from_iterable(column)))
        elif kind.table or field == "token":
            hashes[field] = _hashes(column)
        if field == "token":
            repeated = _repeated(column, hashes[field])
            what = f"{name}.json has {number(len(repeated), 'token')} more than once"
            findings += about_names("tables", what, "row", repeated)
    return Table(len(rows), index, frozenset(bad), hashes, lists, columns), findings


def _retained(column: Sequence[Any], wrong: Sequence[int], as_array: bool) -> Sequence[Any]:
    """The column without its bad values. Positions are an array: millions of lists would take gigabytes."""
    nothing = [np.nan] * 3 if as_array else None
    values = list(column)
    for i in wrong:
        values[i] = nothing
    return np.array(values, np.float64).reshape(-1, 3) if as_array else values


def _wrong_values(name: str, field: str, kind: Kind, wrong: list[tuple[int, Any]]) -> list[Finding]:
    absent = [row for row, value in wrong if value is _ABSENT]
    rows, values = [row for row, v in wrong if v is not _ABSENT], [v for _, v in wrong if v is not _ABSENT]
    group = "calibration" if name in ("calibrated_sensor", "ego_pose") else "tables"
    return about_rows(name, absent, f"without '{field}'") + about_rows(
        name, rows, f"where '{field}' is not {kind.expected}", group=group, values=values
    )


def _repeated(tokens: list[str], hashes: np.ndarray) -> list[str]:
    values, counts = np.unique(hashes[hashes != 0], return_counts=True)
    repeated = set(values[counts > 1].tolist())
    return list(dict.fromkeys(token for token in tokens if hash(token) in repeated)) if repeated else []


def _hashes(tokens: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, tokens), np.int64, len(tokens))  # hash("") is 0


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "a number")
