"""The scene bootstrap of a study, from the matches that its evaluations wrote beside their detections."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.errors import ARRAY_READ_ERRORS
from aqr_bench.metrics.bootstrap import Resampled, SceneInterval, paired_scene_bootstrap, resample
from aqr_bench.metrics.matches import Matches
from aqr_bench.records.record import Record
from aqr_bench.study.layout import RunLayout, detections_file
from aqr_bench.study.spec import Run, Study

METRIC = "mAP"  # the only metric that is recomputed on resampled scenes
AGREEMENT = 1e-6  # matches of another evaluation than the record's give another mAP


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluation of a variant, with the files that it wrote beside its detections (None: no such file named)."""

    variant: str
    seed: int
    record: Record
    matches: Path | None
    router: Path | None

    @property
    def key(self) -> tuple[str, int, str]:
        """Variant, seed, condition."""
        return self.variant, self.seed, str(self.record.condition)


def evaluation_file(records: Path, run: Run, record: Record, kind: str) -> Path | None:
    """Path of an evaluation's ``matches`` or ``router`` below the tier's work folder; None if the record names none."""
    parts = _file_names(record, kind)
    return None if parts is None else detections_file(RunLayout(run.tier, records).work_folder(run), *parts)


def matches_beside(records: Path, record: Record) -> Path | None:
    """The matches of an evaluation in a record file, wherever that file lies; None if they are not there.

    Below the work folder of a tier's results, in ``work`` beside the records of ``evaluate --config``, or in a folder
    of the name of the record file (``aqr-bench score``).
    """
    parts = _file_names(record, "matches")
    if parts is None:
        return None
    subfolder = Path(record.run.subfolder)
    tier = records.parents[len(subfolder.parts)] if len(records.parents) > len(subfolder.parts) else records.parent
    candidates = [
        detections_file(tier / "work" / subfolder, *parts),
        detections_file(records.parent / "work", *parts),
        records.with_suffix("").joinpath(*parts[1:]),
    ]
    return next((file for file in candidates if file.is_file()), None)


def _file_names(record: Record, kind: str) -> tuple[str, str, str] | None:
    """Suite, condition and name of a file that an evaluation names; None where there is none, or one of more parts."""
    entry = record.extra.get(kind) if record.ok else None
    names = (record.suite, record.condition, entry.get("file") if isinstance(entry, Mapping) else None)
    return names if all(isinstance(name, str) and name and Path(name).name == name for name in names) else None


def load_matches(path: Path | None) -> Matches | None:
    """Matches of an evaluation; None if the file is missing or damaged."""
    try:
        return None if path is None else Matches.load(path)
    except ARRAY_READ_ERRORS:
        return None


def resampled_run(path: Path | None, score: float) -> Resampled | None:
    """mAP on every draw of scenes; None if the file is missing, damaged, or of another evaluation than ``score``."""
    try:
        draws = None if path is None else _resampled(path, path.stat().st_mtime_ns)
    except ARRAY_READ_ERRORS:
        return None
    return draws if draws is not None and abs(draws.value - score) <= AGREEMENT else None


@functools.lru_cache(maxsize=4096)
def _resampled(path: Path, _written_ns: int) -> Resampled | None:
    """Several tables of a report are made of the same draws: a few kB each, and some seconds at the size of val."""
    matches = load_matches(path)
    return None if matches is None else resample(matches)


def scene_intervals(study: Study, evaluated: Iterable[EvaluatedRun]) -> dict[tuple[str, str], SceneInterval]:
    """Scene interval of each (variant, condition) whose every pair of seeds has matches of the same scenes."""
    if study.metric != METRIC:
        return {}
    draws: dict[tuple[str, str], dict[int, Resampled | None]] = {}
    for run in evaluated:
        score = run.record.scores.get(METRIC) if run.record.ok else None
        if score is not None and math.isfinite(score):
            by_seed = draws.setdefault((run.variant, str(run.record.condition)), {})
            by_seed[run.seed] = resampled_run(run.matches, score)
    intervals = {}
    for condition in study.suite.conditions:
        for variant in study.variants:
            baseline = draws.get((study.compared_with(variant), condition.name), {})
            scores = draws.get((variant, condition.name), {})
            seeds = set(scores) & set(baseline)
            if variant == study.baseline or not seeds or any(None in (scores[s], baseline[s]) for s in seeds):
                continue
            interval = paired_scene_bootstrap({s: scores[s] for s in seeds}, {s: baseline[s] for s in seeds})
            if interval is not None:
                intervals[variant, condition.name] = interval
    return intervals
