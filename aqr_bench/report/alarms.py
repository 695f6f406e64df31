"""Sanity alarms: implausible numbers in records, each with its severity, a sentence, and the runs.

An alarm is no verdict on a design. Before its cause is known, numbers should not be believed (``alarm``) or not be used
without a second look (``notice``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from aqr_bench.records.record import Record
from aqr_bench.report.collect import BASE
from aqr_bench.report.input_alarms import implausible_inputs, single_sensor, unequal_inputs
from aqr_bench.report.routers import load_weights
from aqr_bench.report.rows import METRICS
from aqr_bench.report.scene_bootstrap import evaluation_file, load_matches
from aqr_bench.report.score_statistics import MIN_DIFFERENCE
from aqr_bench.report.tables.table import ReportTable, Row, make_table
from aqr_bench.study.load import load_suite
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Schedule, Study, Suite, Tier

ALARM, NOTICE = "alarm", "notice"
AXIS_ERROR = math.pi / 2  # mAOE of random headings, or of headings that are turned by a quarter or mirrored
AXIS_BAND = 0.2  # radians: traffic cones have no heading, those of barriers count modulo pi
GOOD_MAP = 0.2  # enough true positives for their headings to mean something
LOST_VELOCITY = 1.0  # m/s; NDS gives nothing for a larger error, so velocities are not learnt either
FAR_ABOVE = 2.0  # recall over precision where F1 is best; near 1 in a healthy detector
MIN_RECALL = 0.3
RISING, FALLING = 0.01, 0.05  # p-values of the trend of a loss
MIN_POINTS = 5  # of a loss curve: fewer have no trend that could be distinguished from chance
MAX_RUNS = 6  # listed on the page; the CSV has all
DISTANCE_M, MIN_OBJECTS = 2.0, 20  # of matches, as in nuScenes' true-positive errors; objects of a class


@dataclass(frozen=True)
class Alarm:
    """One implausible result.

    check     short name of the rule
    severity  ``alarm`` or ``notice``
    sentence  what is wrong and what it may mean; the same for all runs, which are then listed together
    where     study, variant, seed and condition, as words
    """

    check: str
    severity: str
    sentence: str
    where: str


def study_alarms(root: Path, tier: Tier, study: Study, records: Iterable[Record]) -> list[Alarm]:
    """All alarms of a study's trainings and evaluations, under its own suite and under further ones.

    Failed and missing runs raise none: the report lists those. ``root`` is the results folder, for what the
    evaluations left beside their records.
    """
    ok = {(r.kind, r.variant, r.seed, r.suite, r.condition): r for r in records if r.ok}.values()
    trainings = {(r.variant, r.seed): r for r in ok if r.kind == "train" and r.variant in study.variants}
    evaluations = [r for r in ok if r.kind == "evaluate" and r.variant in study.variants]
    alarms = _evaluations(root, {study.suite.name: study.suite}, evaluations)
    alarms += _identical_variants(study, trainings, evaluations)
    for (variant, _), record in trainings.items():
        alarms += _training(record, variant_schedule(tier, study, variant))
    return alarms


def base_alarms(root: Path, tier: Tier, suites: Iterable[Suite], records: Iterable[Record]) -> list[Alarm]:
    """All alarms of the base models."""
    ok = [r for r in records if r.ok]
    alarms = _evaluations(root, {s.name: s for s in suites}, [r for r in ok if r.kind == "evaluate"])
    for record in ok:
        if record.kind == "train":
            alarms += _training(record, tier.base)
    return alarms


def _evaluations(root: Path, suites: dict[str, Suite], evaluations: Sequence[Record]) -> list[Alarm]:
    alarms: list[Alarm] = []
    for name in dict.fromkeys(r.suite for r in evaluations):
        suite = suites.get(name) or load_suite(name)
        of_suite = [r for r in evaluations if r.suite == name]
        for record in of_suite:
            alarms += _evaluation(record)
            alarms += _damaged(record, evaluation_file(root, record.run, record, "router"), load_weights)
            if record.condition == suite.conditions[0].name:
                matches = evaluation_file(root, record.run, record, "matches")
                alarms += _damaged(record, matches, load_matches)
                alarms += _duplicates(record, matches)
        alarms += _suite(suite, of_suite)
    return alarms


def describe_run(record: Record) -> str:
    """``bias_site cross seed 0 clean``: the run that a record is of."""
    words = [record.study, record.variant or BASE, f"seed {record.seed}", record.condition]
    return " ".join(w for w in words if w)


# ---------------------------------------------------------------- one evaluation


def _evaluation(record: Record) -> Iterator[Alarm]:
    scores = {metric: _number(record.scores.get(metric)) for metric in METRICS}
    missing = [metric for metric, score in scores.items() if score is None]
    if missing:
        severity = ALARM if {"mAP", "NDS"} & set(missing) else NOTICE
        text = f"The evaluation has status ok but no {', '.join(missing)}."
        yield Alarm("missing score", severity, text, describe_run(record))
    if not _near_axis_error(scores["mAOE"]) or (scores["mAP"] or 0.0) < GOOD_MAP:
        return
    text = "Objects are detected, but mAOE is near 1.57 rad, as for random headings"
    where = f"{describe_run(record)} (mAOE {scores['mAOE']:.2f})"
    if scores["mAVE"] is not None and scores["mAVE"] >= LOST_VELOCITY:
        text += (
            f", and velocities are off by more than {LOST_VELOCITY:g} m/s: neither is learnt (too short a training), "
        )
        text += "so NDS is of little use here. Mixed-up box axes would give the same mAOE."
        yield Alarm("headings", NOTICE, text, where)
    else:
        text += (
            ": look for mixed-up box axes (length and width, sign or zero of the yaw: mmdet3d 0.x, 1.x and nuScenes "
        )
        yield Alarm("headings", ALARM, f"{text}differ).", where)


def _near_axis_error(maoe: float | None) -> bool:
    return maoe is not None and abs(maoe - AXIS_ERROR) <= AXIS_BAND


def _damaged(record: Record, path: Path | None, load: Callable[[Path], object | None]) -> Iterator[Alarm]:
    """A file that the evaluation left beside its record, and that ``load`` refuses."""
    if path is not None and path.is_file() and load(path) is None:
        sentence = (
            "A file that the evaluation left beside its record is damaged, or has a number that is not finite: tables "
            "and figures that need it are without this run. Delete the evaluation's record and run again."
        )
        yield Alarm("damaged file", ALARM, sentence, f"{describe_run(record)} ({path.name})")


def _duplicates(record: Record, matches: Path | None) -> Iterator[Alarm]:
    """Recall far above precision; of a model that has hardly learnt yet a notice, as its scores do not rank."""
    recall, precision = recall_and_precision(matches) or (0.0, 0.0)
    if recall >= MIN_RECALL and recall > FAR_ABOVE * precision and not _detects_nothing(record):
        good = (_number(record.scores.get("mAP")) or 0.0) >= GOOD_MAP
        cause = "" if good else f"; with an mAP below {GOOD_MAP:g}, as here, for a training that is too short"
        yield Alarm(
            "recall far above precision",
            ALARM if good else NOTICE,
            f"Where F1 is best, recall is more than {FAR_ABOVE:g} times the precision (at 2 m, median of the classes): "
            "look for duplicate detections, for scores that do not rank, or for objects missing from the ground truth"
            f"{cause}.",
            f"{describe_run(record)} (recall {recall:.2f}, precision {precision:.2f})",
        )


def recall_and_precision(path: Path | None) -> tuple[float, float] | None:
    """Recall and precision where F1 is best, median of the classes with enough objects.

    None if there is no such class, or if the matches are missing or damaged.
    """
    matches = load_matches(path)
    if matches is None or DISTANCE_M not in matches.distances:
        return None
    column, points = matches.distances.index(DISTANCE_M), []
    for class_matches in matches.classes.values():
        objects, hits = class_matches.positives.sum(), np.cumsum(class_matches.tp[:, column])
        if objects < MIN_OBJECTS or not len(hits):
            continue
        f1 = 2 * hits / (objects + np.arange(1, len(hits) + 1))
        best = int(f1.argmax())
        points.append((hits[best] / objects, hits[best] / (best + 1)))
    if not points:
        return None
    recall, precision = np.median(np.array(points), axis=0)
    return float(recall), float(precision)


# ---------------------------------------------------------------- evaluations against each other


def _suite(suite: Suite, evaluations: Sequence[Record]) -> Iterator[Alarm]:
    """Checks across a suite's evaluations: unchanged scores, scores that are all 0, and the inputs."""
    reference = suite.conditions[0].name
    models: dict[tuple[str | None, int | None], dict[str, Record]] = {}
    for record in evaluations:
        models.setdefault((record.variant, record.seed), {})[record.condition] = record
    for by_condition in models.values():
        clean = by_condition.get(reference)
        others = [r for name, r in by_condition.items() if name != reference]
        if clean is None:
            continue
        if _detects_nothing(clean):
            sentence = (
                f"mAP is 0.000 under '{reference}': the model detects nothing, so none of its scores means anything."
            )
            yield Alarm("nothing found", NOTICE, sentence, describe_run(clean))
            continue
        for record in others:
            if _scores(record) and _scores(record) == _scores(clean):
                yield Alarm(
                    "unchanged scores",
                    ALARM,
                    f"All scores equal those under '{reference}' to the last digit: the corruption does not reach the "
                    "model, or the model does not read what it changes.",
                    describe_run(record),
                )
    for check, severity, suspects in (
        ("inputs", ALARM, implausible_inputs(suite, evaluations)),
        ("other inputs", NOTICE, unequal_inputs(evaluations)),
        ("single sensor", NOTICE, single_sensor(suite, evaluations)),
    ):
        yield from (Alarm(check, severity, sentence, describe_run(record)) for sentence, record in suspects)


def _detects_nothing(record: Record) -> bool:
    score = _number(record.scores.get("mAP"))
    return score is not None and score < MIN_DIFFERENCE


def _scores(record: Record) -> Mapping:
    """The scores, also by class, without those that are None."""
    scores = {k: v for k, v in record.scores.items() if v is not None and k != "classes"}
    return {**scores, "classes": record.scores.get("classes")} if scores else {}


def _identical_variants(
    study: Study, trainings: Mapping[tuple[str | None, int | None], Record], evaluations: Sequence[Record]
) -> Iterator[Alarm]:
    """Variants with exactly the scores of the variant they are compared with, and no known reason."""
    by_run: dict[tuple[str | None, int | None], dict[tuple[str | None, str | None], Record]] = {}
    for record in evaluations:
        by_run.setdefault((record.variant, record.seed), {})[record.suite, record.condition] = record
    for (variant, seed), records in by_run.items():
        other = study.compared_with(variant)
        base = by_run.get((other, seed), {})
        shared = [c for c, r in records.items() if c in base and _scores(r) and not _detects_nothing(r)]
        equal = [c for c in shared if _scores(records[c]) == _scores(base[c])]
        if other == variant or not equal or _explained(trainings, (variant, seed), (other, seed), records, base):
            continue
        everywhere = len(equal) == len(shared)
        if everywhere:
            ending = "every condition: it changes nothing, or its config is not used"
        else:
            ending = "some conditions only"
        yield Alarm(
            "equal to the baseline",
            ALARM if everywhere else NOTICE,
            f"All scores equal those of '{other}' to the last digit under {ending}.",
            f"{study.name} {variant} seed {seed} {', '.join(str(condition) for _, condition in equal)}",
        )


def _explained(trainings: Mapping, run: tuple, other: tuple, records: Mapping, other_records: Mapping) -> bool:
    """True if one result was reused for the other, or if both are the same config without training."""

    def source(key: tuple, records: Iterable[Record]) -> set[str]:
        record = trainings.get(key)
        of_run = [record, *records] if record is not None else list(records)
        study = next((r.study for r in of_run), None)
        return {f"{study}/{key[0]}/seed{key[1]}", *(r.extra["same_as"] for r in of_run if r.extra.get("same_as"))}

    if source(run, records.values()) & source(other, other_records.values()):
        return True
    pair = [trainings.get(key) for key in (run, other)]
    untrained = all(r is not None and r.cost.get("iterations") == 0 for r in pair)
    return untrained and len({r.provenance.get("config_sha256") for r in pair} - {None}) == 1


# ---------------------------------------------------------------- training


def _training(record: Record, schedule: Schedule) -> Iterator[Alarm]:
    """The trend of the loss: it has to fall from scratch, and not to rise where a trained model is trained further."""
    losses = [_number(loss) for _, loss in record.curve]
    if None in losses:
        yield Alarm("training loss", ALARM, "The training loss was not always a finite number.", describe_run(record))
        return
    if len(losses) < MIN_POINTS:
        return
    # A trained model has little left to learn in so short a time: there, only a loss that clearly rises is implausible.
    from_trained = schedule.init == "base"
    trend = stats.kendalltau(range(len(losses)), losses, alternative="greater" if from_trained else "less").pvalue
    if from_trained and trend < RISING:
        sentence = "The training loss rises, though training starts from a trained model: check the learning rate."
        yield Alarm("training loss", ALARM, sentence, describe_run(record))
    # Of a constant loss there is no trend at all (NaN).
    elif not from_trained and not trend <= FALLING:
        sentence = "The training loss did not fall (no trend beyond chance, Kendall's tau): the model has not learnt."
        yield Alarm("training loss", ALARM, sentence, describe_run(record))


# ---------------------------------------------------------------- as text


def alarms_table(name: str, alarms: Iterable[Alarm]) -> ReportTable:
    """One row per sentence, with all runs that it is about; alarms first."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for alarm in sorted(alarms, key=lambda a: a.severity != ALARM):
        together.setdefault((alarm.severity, alarm.check, alarm.sentence), []).append(alarm.where)
    rows = []
    for (severity, check, sentence), runs in together.items():
        count, more = str(len(runs)), f"; and {len(runs) - MAX_RUNS} more" if len(runs) > MAX_RUNS else ""
        data = {"severity": severity, "check": check, "what": sentence, "count": len(runs), "where": "; ".join(runs)}
        text = {"Severity": severity, "What": sentence, "Times": count, "Where": "; ".join(runs[:MAX_RUNS]) + more}
        rows.append(Row(data, text, severity == ALARM))
    note = "alarm: do not believe these numbers before the cause is known. notice: look twice before using them."
    columns = ["severity", "check", "what", "count", "where"], ["Severity", "What", "Times", "Where"]
    return make_table(f"{name}_alarms", "Sanity alarms", rows, note, ["Times"], columns)


def alarms_sentence(alarms: Sequence[Alarm]) -> str:
    """``2 alarms and 1 notice``, counted by sentence, not by run; empty where there is none."""
    kinds = {(a.severity, a.check, a.sentence) for a in alarms}
    counts = [(sum(k[0] == severity for k in kinds), severity) for severity in (ALARM, NOTICE)]
    return " and ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in counts if n)


def _number(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
