"""The scene bootstrap of a study, from the matches that its evaluations kept beside their detections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from aqr_bench.errors import ARRAY_READ_ERRORS
from aqr_bench.metrics.bootstrap import Resampled, SceneInterval, paired_scene_bootstrap, resample
from aqr_bench.metrics.matches import Matches
from aqr_bench.records.record import Record
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.spec import Run, Study

METRIC = "mAP"  # the only metric that is recomputed on resampled scenes
AGREEMENT = 1e-6  # matches of another evaluation than the record's give another mAP


def kept_file(records: Path, run: Run, record: Record, what: str) -> Path | None:
    """Where an evaluation says it left its ``matches`` or ``router``, below the tier's work folder; None if nowhere."""
    named = record.extra.get(what) if record.ok else None
    name = named.get("file") if isinstance(named, Mapping) else None
    if not isinstance(name, str) or Path(name).name != name or not record.condition:
        return None
    return RunLayout(run.tier, records).work_folder(run) / "detections" / record.condition / name


def resampled_run(path: Path | None, score: float) -> Resampled | None:
    """mAP on every draw of scenes; None if the file is missing, damaged, or of another evaluation than ``score``."""
    try:
        found = None if path is None else resample(Matches.load(path))
    except ARRAY_READ_ERRORS:
        return None
    return found if found is not None and abs(found.value - score) <= AGREEMENT else None


def scene_intervals(
    study: Study, evaluated: Iterable[tuple[str, int, str, float | None, Path | None]]
) -> dict[tuple[str, str], SceneInterval]:
    """Scene interval of each (variant, condition) whose every pair of seeds left matches of the same scenes.

    Args:
        evaluated: variant, seed, condition, mAP (None where the evaluation is not ok) and matches file of each run.
    """
    if study.metric != METRIC:
        return {}
    runs: dict[tuple[str, str], dict[int, tuple[float, Path | None]]] = {}
    for variant, seed, condition, score, path in evaluated:
        if score is not None and math.isfinite(score):
            runs.setdefault((variant, condition), {})[seed] = (score, path)
    draws = {key: {seed: resampled_run(p, s) for seed, (s, p) in seeds.items()} for key, seeds in runs.items()}
    found = {}
    for condition in study.suite.conditions:
        for variant in study.variants:
            baseline = draws.get((study.compared_with(variant), condition.name), {})
            own = draws.get((variant, condition.name), {})
            pairs = {s: (own[s], baseline[s]) for s in set(own) & set(baseline)}
            if variant == study.baseline or not pairs or any(None in pair for pair in pairs.values()):
                continue
            interval = paired_scene_bootstrap(
                {s: pair[0] for s, pair in pairs.items()}, {s: pair[1] for s, pair in pairs.items()}
            )
            if interval is not None:
                found[variant, condition.name] = interval
    return found
