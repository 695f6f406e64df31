"""Tables of types of errors and of calibration: condition by variant, means over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import pandas as pd

from aqr_bench.metrics.calibration import CONFIDENT, Reliability
from aqr_bench.metrics.error_types import TYPES, WRONG_HEADING, ErrorType
from aqr_bench.report.diagnosis import Diagnosis, Key
from aqr_bench.report.score_statistics import number, summarise
from aqr_bench.report.tables.table import ReportTable

ERRORS_RULE = (
    "mAP that would be gained if all errors of one type alone were fixed, mean over seeds (for wrong headings, which "
    "do not enter mAP: NDS). At each distance threshold a detection that is not matched is a duplicate (of a matched "
    "object of its class), of the wrong class (an object of another class is within the threshold), misplaced (an "
    "object of its class is within 4 m) or background; missed objects have none of these near. Wrong heading: off by "
    "more than 45 degrees at 2 m. The rule is TIDE's on centre distance. The CSV has the number of each at 2 m."
)
CALIBRATION_RULE = (
    "A detection is right if it is matched at 2 m. ECE: expected calibration error, the mean distance between score "
    "and precision in bins of 0.05; 0: a score of 0.7 is right in 70 % of cases. Confident: detections with "
    f"{CONFIDENT:g} or more. All classes pooled; the CSV has each class. Mean over seeds."
)
CALIBRATION_COLUMNS = {  # of the page: heading and column of the CSV
    "ECE": "ece",
    "ECE, confident": "ece_confident",
    "Mean score": "score",
    "Precision": "precision",
    "Mean score, confident": "score_confident",
    "Precision, confident": "precision_confident",
}


@dataclass(frozen=True)
class _Group:
    """Of one condition and variant: ``rows`` of the CSV and ``cells`` of the page, both over so many seeds."""

    condition: str
    variant: str
    seeds: int
    rows: Sequence[Mapping[str, object]]
    cells: Mapping[str, str]


def error_types_table(name: str, diagnoses: Mapping[Key, Diagnosis], who: str = "Variant") -> ReportTable:
    """Gain by type of error; no row where the evaluations recorded no distances to the nearest objects.

    ``who``: heading of the column of models.
    """
    groups = []
    for condition, variant, by_seed in _by_condition_and_variant(diagnoses):
        errors = [diagnosis.errors for diagnosis in by_seed if diagnosis.errors is not None]
        if errors:
            rows = {kind: _error_row([of_seed[kind] for of_seed in errors]) for kind in TYPES}
            gains = {kind: row["nds_gain" if kind == WRONG_HEADING else "map_gain"] for kind, row in rows.items()}
            cells = {_column(kind): number(gain, sign=True) for kind, gain in gains.items()}
            csv = [{"type": kind, **row} for kind, row in rows.items()]
            groups.append(_Group(condition, variant, len(errors), csv, cells))
    columns = ("type", "seeds", "count", "map_gain", "map_gain_sd", "nds_gain")
    return _table(name, "Types of errors, and what fixing each would give", groups, who, columns, ERRORS_RULE)


def _column(kind: str) -> str:
    name = f"{kind[0].upper()}{kind[1:]}"
    return f"{name} (NDS)" if kind == WRONG_HEADING else name


def _error_row(errors: Sequence[ErrorType]) -> dict[str, float | None]:
    gain = summarise([error.map_gain for error in errors])
    nds = [error.nds_gain for error in errors if error.nds_gain is not None]
    return {
        "seeds": len(errors),
        "count": float(np.mean([error.count for error in errors])),
        "map_gain": gain.mean,
        "map_gain_sd": gain.sd,
        "nds_gain": summarise(nds).mean,
    }


def calibration_table(name: str, diagnoses: Mapping[Key, Diagnosis], who: str = "Variant") -> ReportTable:
    """Expected calibration error; no row where there are no matches, or scores that are not from 0 to 1."""
    groups = []
    for condition, variant, by_seed in _by_condition_and_variant(diagnoses):
        runs = [diagnosis.reliability for diagnosis in by_seed if diagnosis.reliability]
        if runs:
            pooled = {"all": [reduce(add, run.values()) for run in runs]}
            by_class = {class_name: [run[class_name] for run in runs if class_name in run] for class_name in runs[0]}
            rows = {class_name: _reliability_row(bins) for class_name, bins in {**pooled, **by_class}.items()}
            cells = {heading: number(rows["all"][key]) for heading, key in CALIBRATION_COLUMNS.items()}
            csv = [{"class": class_name, **row} for class_name, row in rows.items()]
            groups.append(_Group(condition, variant, len(runs), csv, cells))
    columns = ("class", "seeds", "detections", "ece", "ece_sd", "ece_confident", "score", "precision")
    columns += ("score_confident", "precision_confident")
    return _table(name, "Calibration of the scores", groups, who, columns, CALIBRATION_RULE)


def _reliability_row(runs: Sequence[Reliability]) -> dict[str, float | None]:
    ece = summarise([run.error() for run in runs])
    return {
        "seeds": len(runs),
        "detections": float(np.mean([run.count.sum() for run in runs])),
        "ece": ece.mean,
        "ece_sd": ece.sd,
        "ece_confident": summarise([run.error(CONFIDENT) for run in runs]).mean,
        **_shares(runs, 0.0, ""),
        **_shares(runs, CONFIDENT, "_confident"),
    }


def _shares(runs: Sequence[Reliability], lowest: float, ending: str) -> dict[str, float | None]:
    """Mean score and precision of all detections from a score on, mean over seeds."""
    sums = [[values[round(lowest * len(values)) :].sum() for values in (r.score, r.right, r.count)] for r in runs]
    scores, precisions = (summarise([s[k] / s[2] for s in sums if s[2]]).mean for k in (0, 1))
    return {f"score{ending}": scores, f"precision{ending}": precisions}


def _by_condition_and_variant(diagnoses: Mapping[Key, Diagnosis]) -> Iterator[tuple[str, str, list[Diagnosis]]]:
    """Condition, variant, and the diagnoses of its seeds."""
    groups: dict[tuple[str, str], list[Diagnosis]] = {}
    for (variant, _, condition), diagnosis in diagnoses.items():
        groups.setdefault((condition, variant), []).append(diagnosis)
    return ((condition, variant, by_seed) for (condition, variant), by_seed in groups.items())


def _table(name: str, title: str, groups: Sequence[_Group], who: str, columns: Sequence[str], rule: str) -> ReportTable:
    """A row of the page for each group, and as many of the CSV as it has."""
    data = [{"condition": g.condition, who.lower(): g.variant, **row} for g in groups for row in g.rows]
    text = [{"Condition": g.condition, who: g.variant, **g.cells, "Seeds": str(g.seeds)} for g in groups]
    return ReportTable(
        name,
        title,
        pd.DataFrame(data, columns=["condition", who.lower(), *columns]),
        pd.DataFrame(text),
        rule,
        numeric=frozenset(text[0]) - {"Condition", who} if text else frozenset(),
    )
