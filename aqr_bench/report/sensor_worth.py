"""What a sensor is worth: the score under a condition minus that under the condition without this sensor, paired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aqr_bench.corruptions import Corruption
from aqr_bench.corruptions.suites.missing_sensors import (
    ABSENT,
    WITHOUT_SENSOR,
    ZERO,
    SensorInput,
    sensor_input,
)
from aqr_bench.metrics.bootstrap import Resampled, SceneInterval, paired_scene_bootstrap
from aqr_bench.report.alarms import NOTICE, Alarm
from aqr_bench.report.collect import Results, collect_runs, further_suites
from aqr_bench.report.input_alarms import unused_sensors
from aqr_bench.report.rows import require_metric
from aqr_bench.report.scene_bootstrap import METRIC, resampled_run
from aqr_bench.report.score_statistics import (
    FEW_SEEDS,
    MIN_DIFFERENCE,
    ScoreDifference,
    Summary,
    correct,
    paired_difference,
    phrase,
    summarise,
)
from aqr_bench.study.spec import Run, Study, Suite, Tier

SENSOR_NAMES = {"lidar": "LiDAR", "camera": "cameras"}
USED, HARMFUL, DECORATIVE = "used", "harmful", "decorative"
FEW, NOTHING = "too few seeds", "detects nothing"


@dataclass(frozen=True)
class ScoredInput:
    """One evaluation: score of a model and seed under a condition, with its matches, if there are any.

    ``unused``: sensors that the model is never given.
    """

    model: str
    seed: int
    condition: str
    corruption: Corruption
    score: float
    matches: Path | None
    unused: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WorthRow:
    """What a sensor is worth to a model under a condition.

    form       how the sensor is taken away: ``zero`` (filled with zeros) or ``absent``
    score      under the condition, over seeds; ``without``: under it without the sensor
    worth      score - without, paired by seed, and by scene where there are matches
    change     worth to this model - worth to the one that it is compared with; None where there is none
    floor      score of the model without this sensor by design, under the same condition; None where there is none
    """

    condition: str
    sensor: str
    form: str
    model: str
    score: Summary
    without: Summary
    worth: ScoreDifference
    change: ScoreDifference | None
    floor: tuple[str, Summary] | None

    @property
    def verdict(self) -> str:
        """Used, harmful, decorative (nothing beyond the noise), or why there is none."""
        if max(side.mean or 0.0 for side in (self.score, self.without)) < MIN_DIFFERENCE:
            return NOTHING
        if not self.worth.beyond_noise:
            return DECORATIVE if self.worth.n >= FEW_SEEDS else FEW
        return USED if self.worth.mean > 0 else HARMFUL


# ---------------------------------------------------------------- evaluations


def study_inputs(records: Path, tier: Tier, study: Study, results: Results, metric: str) -> list[ScoredInput]:
    """Evaluations of a study's variants, under its own suite and under all others that it has records of."""
    runs = [Run(tier.name, study.name, variant, seed) for variant in study.variants for seed in study.seeds]
    suites = [(study.suite, results)]
    suites += [(suite, collect_runs(records, runs, [suite], {})) for suite in further_suites(records, tier, [study])]
    for _, of_suite in suites:
        require_metric(of_suite.records, metric)
    unused = _unused(suites)
    return [entry for suite, of_suite in suites for entry in _scored(suite, of_suite, metric, unused)]


def _unused(suites: Iterable[tuple[Suite, Results]]) -> dict[str, frozenset[str]]:
    """Sensors that a variant is never given, by the inputs of its first conditions."""
    return {
        str(record.variant): unused_sensors(record)
        for suite, results in suites
        for record in results.records
        if record.kind == "evaluate" and record.ok and record.condition == suite.conditions[0].name
    }


def _scored(suite: Suite, results: Results, metric: str, unused: Mapping[str, frozenset[str]]) -> Iterator[ScoredInput]:
    corruptions = {condition.name: condition.corruption for condition in suite.conditions}
    rows = results.evaluations
    rows = rows[rows["status"] == "ok"].dropna(subset=[metric]) if metric in rows else rows[:0].assign(**{metric: None})
    for variant, seed, condition, score in zip(
        rows["variant"], rows["seed"], rows["condition"], rows[metric], strict=True
    ):
        file = results.match_files.get((variant, int(seed), condition)) if metric == METRIC else None
        yield ScoredInput(
            variant, int(seed), condition, corruptions[condition], float(score), file, unused.get(variant, frozenset())
        )


# ---------------------------------------------------------------- rows


def worth_rows(evaluations: Sequence[ScoredInput], against: Mapping[str, str]) -> list[WorthRow]:
    """A row for each condition, sensor and model that was evaluated with and without it.

    Args:
        evaluations: of two of the same model, seed and input, the first counts.
        against: what a model is compared with. P-values of these changes are corrected for their number.
    """
    cells: dict[tuple[str, SensorInput], dict[int, ScoredInput]] = {}
    conditions: dict[SensorInput, ScoredInput] = {}
    floors: dict[tuple[SensorInput, str], dict[int, ScoredInput]] = {}
    for entry in evaluations:
        model_input = sensor_input(entry.corruption, entry.unused)
        if model_input is None:
            continue
        if entry.unused:
            floors.setdefault((model_input, entry.model), {}).setdefault(entry.seed, entry)
            continue
        cells.setdefault((entry.model, model_input), {}).setdefault(entry.seed, entry)
        if not model_input.removed:
            conditions.setdefault(model_input, entry)
    models = list(dict.fromkeys(model for model, _ in cells))
    rows = [
        row
        for model_input, entry in conditions.items()
        for sensor in WITHOUT_SENSOR
        for form in (ZERO, ABSENT)
        for row in _rows(cells, floors, model_input, entry, sensor, form, models, against)
    ]
    changes = correct({i: row.change for i, row in enumerate(rows)})
    return [replace(row, change=changes[i]) for i, row in enumerate(rows)]


def _rows(
    cells: Mapping[tuple[str, SensorInput], Mapping[int, ScoredInput]],
    floors: Mapping[tuple[SensorInput, str], Mapping[int, ScoredInput]],
    model_input: SensorInput,
    entry: ScoredInput,
    sensor: str,
    form: str,
    models: Sequence[str],
    against: Mapping[str, str],
) -> Iterator[WorthRow]:
    """Rows of all models for a condition and a sensor."""
    removed = sensor_input(entry.corruption, then_removed={sensor: form})
    if removed is None:
        return
    floor = _floor(floors, sensor_input(entry.corruption, [sensor]))
    sides = {model: (cells.get((model, model_input), {}), cells.get((model, removed), {})) for model in models}
    for model, (score, without) in sides.items():
        worth = paired_difference(_scores(score), _scores(without))
        if worth is None:
            continue
        worth = replace(worth, scenes=_scenes(_draws(score, without), worth.n))
        change = None
        if (other := against.get(model)) in sides:
            worths = [_worths(*sides[name]) for name in (model, other)]
            change = paired_difference(*worths)
        if change is not None:
            draws = [_draws(*sides[name]) for name in (model, other)]
            change = replace(change, scenes=_scenes_of_change(*draws, change.n))
        summaries = (summarise(list(_scores(side).values())) for side in (score, without))
        yield WorthRow(entry.condition, sensor, form, model, *summaries, worth, change, floor)


def _floor(
    floors: Mapping[tuple[SensorInput, str], Mapping[int, ScoredInput]], model_input: SensorInput | None
) -> tuple[str, Summary] | None:
    """The model that never has the sensor, and its scores on the same input; the best where there are several."""
    candidates = [
        (model, summarise(list(_scores(side).values()))) for (key, model), side in floors.items() if key == model_input
    ]
    return max(candidates, key=lambda pair: pair[1].mean or 0.0, default=None)


def _scores(side: Mapping[int, ScoredInput]) -> dict[int, float]:
    return {seed: entry.score for seed, entry in side.items()}


def _worths(score: Mapping[int, ScoredInput], without: Mapping[int, ScoredInput]) -> dict[int, float]:
    return {seed: score[seed].score - without[seed].score for seed in score if seed in without}


Draws = dict[int, tuple[Resampled, Resampled] | None]


def _draws(score: Mapping[int, ScoredInput], without: Mapping[int, ScoredInput]) -> Draws:
    """Both sides on draws of scenes, by seed; None where one has no usable matches or the scenes differ."""
    draws: Draws = {}
    for seed in (s for s in score if s in without):
        pair = [resampled_run(side[seed].matches, side[seed].score) for side in (score, without)]
        same = None not in pair and pair[0].scenes == pair[1].scenes
        draws[seed] = tuple(pair) if same else None
    return draws


def _scenes(draws: Draws, seeds: int) -> SceneInterval | None:
    """Interval of the worth over scenes, where every one of the seeds has it."""
    if len(draws) != seeds or None in draws.values():
        return None
    return paired_scene_bootstrap(*({seed: pair[k] for seed, pair in draws.items()} for k in (0, 1)))


def _scenes_of_change(draws: Draws, others: Draws, seeds: int) -> SceneInterval | None:
    """Interval over scenes of the difference of two worths."""
    shared = [seed for seed in draws if seed in others]
    if len(shared) != seeds or any(None in (draws[seed], others[seed]) for seed in shared):
        return None
    return paired_scene_bootstrap(*({seed: _difference(*side[seed]) for seed in shared} for side in (draws, others)))


def _difference(score: Resampled, without: Resampled) -> Resampled:
    return Resampled(score.scenes, score.value - without.value, score.draws - without.draws)


# ---------------------------------------------------------------- what follows


def worth_sentence(rows: Sequence[WorthRow], against: Mapping[str, str], metric: str) -> str:
    """Whether a model changes what a sensor is worth, in words; empty where none can be compared."""
    changes = [row for row in rows if row.change is not None]
    if not changes:
        return ""
    surviving = [row for row in changes if row.change.survives]
    if not surviving:
        tested = sum(row.change.p is not None for row in changes)
        if not tested:
            return "With one seed there is no telling whether a variant changes what a sensor is worth."
        return f"No variant changes what a sensor is worth beyond the noise ({tested} comparisons, corrected)."
    parts = [
        f"to '{row.model}' the {SENSOR_NAMES[row.sensor]} under {row.condition} "
        f"{'are' if row.sensor == 'camera' else 'is'} worth {'more' if row.change.mean > 0 else 'less'} than to "
        f"'{against[row.model]}' ({phrase(row.change, metric)})"
        for row in surviving
    ]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. Corrected for {surviving[0].change.comparisons} comparisons."


def worth_alarms(rows: Iterable[WorthRow], study: str, metric: str) -> list[Alarm]:
    """A notice for each model to which a sensor is worth nothing beyond the noise; none where it detects nothing."""
    alarms = []
    for row in rows:
        if row.verdict != DECORATIVE:
            continue
        text = (
            f"Without the {SENSOR_NAMES[row.sensor]} the score does not change beyond the noise: to the model this "
            "sensor is decoration, or there are too few seeds to see what it is worth."
        )
        where = f"{study} {row.model} {row.condition} ({phrase(row.worth, metric)})"
        alarms.append(Alarm("decorative sensor", NOTICE, text, where))
    return alarms
