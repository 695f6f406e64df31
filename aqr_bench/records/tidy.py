"""Records as rows of one table: a row for each number, with the run and the hashes that it is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aqr_bench.records.record import Record

RUN = ("kind", "status", "tier", "study", "variant", "seed", "suite", "condition")
HASHES = (
    "config",
    "code",
    "data",
    "infos",
    "input",
    "checkpoint",
    "predictions",
)  # of provenance, as ``<name>_sha256``
NUMBER = ("metric", "class", "distance_m", "value")
COLUMNS = (*RUN, *NUMBER, "reason", *(f"{name}_sha256" for name in HASHES), "file")


def tidy_rows(records: Iterable[Record], file: str) -> list[dict[str, Any]]:
    """A row of ``COLUMNS`` for each number of each record; a record without any, such as a failed one, has one row.

    ``metric`` is a score (mAP, NDS, AP, ...; ``custom.<name>`` of the user) or ``cost.<name>``; ``class`` and
    ``distance_m`` (metres) are None for means. A score that is missing in the record has the value None.
    """
    rows = []
    for record in records:
        run = {name: getattr(record, name) for name in RUN}
        hashes = {f"{name}_sha256": record.provenance.get(f"{name}_sha256") for name in HASHES}
        numbers = [*_scores(record.scores), *_leaves(record.cost, "cost.")] or [(None, None, None, None)]
        rows += [
            {**run, **dict(zip(NUMBER, number, strict=True)), "reason": record.reason, **hashes, "file": file}
            for number in numbers
        ]
    return rows


def _scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, str | None, float | None, float | None]]:
    """(metric, class, distance, value) of every score; AP_dist holds the AP at each distance of a match."""
    yield from _leaves({name: value for name, value in scores.items() if name != "classes"}, "")
    for name, class_scores in scores.get("classes", {}).items():
        for distance, value in class_scores.get("AP_dist", {}).items():
            yield "AP", name, float(distance), value
        for metric, _, _, value in _leaves({k: v for k, v in class_scores.items() if k != "AP_dist"}, ""):
            yield metric, name, None, value


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, None, None, float | None]]:
    """Numbers, and None, of nested mappings by their path; texts and lists (single timings) are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield f"{prefix}{name}", None, None, None if value is None else float(value)
