"""Where a study's evaluations lose their mAP, and whether their scores can be believed: by variant, seed, condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.errors import ARRAY_READ_ERRORS
from aqr_bench.metrics.calibration import Reliability, detection_reliability
from aqr_bench.metrics.error_types import ErrorType, error_types, has_error_types
from aqr_bench.report.collect import Results
from aqr_bench.report.scene_bootstrap import load_matches
from aqr_bench.study.spec import Study

Key = tuple[str, int, str]  # variant, seed, condition


@dataclass(frozen=True)
class Diagnosis:
    """Of one evaluation: types of errors, None in older matches; reliability by class, None for scores above 1."""

    errors: Mapping[str, ErrorType] | None
    reliability: Mapping[str, Reliability] | None


def diagnose(path: Path | None) -> Diagnosis | None:
    """The diagnosis of an evaluation from its matches; None where they are missing or damaged."""
    matches = load_matches(path)
    if matches is None:
        return None
    try:
        errors = error_types(matches) if has_error_types(matches) else None
        return Diagnosis(errors, detection_reliability(matches))
    except ARRAY_READ_ERRORS:
        return None


def diagnose_study(study: Study, results: Results) -> dict[Key, Diagnosis]:
    """Of every evaluation of the study that has matches, by condition, variant and seed in their order."""
    keys = [(v, s, c.name) for c in study.suite.conditions for v in study.variants for s in study.seeds]
    diagnoses = {key: diagnose(results.match_files.get(key)) for key in keys}
    return {key: diagnosis for key, diagnosis in diagnoses.items() if diagnosis is not None}
