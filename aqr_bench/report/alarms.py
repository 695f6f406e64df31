"""Sanity alarms: what records say that good runs do not, each with its severity, a sentence, and where it was seen.

An alarm is no verdict on a design. It says that numbers should not be believed (``alarm``) or not be used without a
second look (``notice``) before its cause is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy import stats

from aqr_bench.records.record import Record
from aqr_bench.report.collect import BASE, METRICS
from aqr_bench.report.input_alarms import implausible_inputs, single_sensor, unequal_inputs
from aqr_bench.report.matched import recall_and_precision
from aqr_bench.report.scene_bootstrap import kept_file
from aqr_bench.report.statistics import RESOLUTION
from aqr_bench.report.tables.study import Table
from aqr_bench.study.load import load_suite
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Schedule, Study, Suite, Tier

ALARM, NOTICE = "alarm", "notice"
AXIS_ERROR = math.pi / 2  # mAOE of headings that say nothing, or that are turned by a quarter or mirrored
AXIS_BAND = 0.2  # radians: traffic cones have no heading, those of barriers count modulo pi
GOOD_MAP = 0.2  # enough found objects for their headings to mean something
LOST_VELOCITY = 1.0  # m/s; NDS gives nothing for a larger error, so velocities are not learnt either
FAR_ABOVE = 2.0  # recall over precision where F1 is best; near 1 in a healthy detector
LEAST_RECALL = 0.3
RISING, FALLING = 0.01, 0.05  # p-values of the trend of a loss
LEAST_POINTS = 5  # of a loss curve: fewer have no trend that could be told from chance
MOST_PLACES = 6  # shown on the page; the CSV has all


@dataclass(frozen=True)
class Alarm:
    """One thing that is not as it should be.

    check     short name of the rule
    severity  ``alarm`` or ``notice``
    sentence  what is wrong and what it may mean; the same for all places, which are then told together
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
    known = {(r.kind, r.variant, r.seed, r.suite, r.condition): r for r in records if r.ok}.values()
    trainings = {(r.variant, r.seed): r for r in known if r.kind == "train" and r.variant in study.variants}
    evaluations = [r for r in known if r.kind == "evaluate" and r.variant in study.variants]
    found = _evaluations(root, {study.suite.name: study.suite}, evaluations)
    found += _twins(study, trainings, evaluations)
    for (variant, _), record in trainings.items():
        found += _training(record, variant_schedule(tier, study, variant))
    return found


def base_alarms(root: Path, tier: Tier, suites: Iterable[Suite], records: Iterable[Record]) -> list[Alarm]:
    """All alarms of the base models."""
    known = [r for r in records if r.ok]
    found = _evaluations(root, {s.name: s for s in suites}, [r for r in known if r.kind == "evaluate"])
    for record in known:
        if record.kind == "train":
            found += _training(record, tier.base)
    return found


def _evaluations(root: Path, suites: dict[str, Suite], evaluations: Sequence[Record]) -> list[Alarm]:
    found: list[Alarm] = []
    for name in dict.fromkeys(r.suite for r in evaluations):
        suite = suites.get(name) or load_suite(name)
        here = [r for r in evaluations if r.suite == name]
        for record in here:
            found += _one_evaluation(record)
            if record.condition == suite.conditions[0].name:
                found += _duplicates(record, kept_file(root, record.run, record, "matches"))
        found += _suite(suite, here)
    return found


def place(record: Record) -> str:
    """``bias_site cross seed 0 clean``: the run that a record is of."""
    words = [record.study, record.variant or BASE, f"seed {record.seed}", record.condition]
    return " ".join(w for w in words if w)


# ---------------------------------------------------------------- one evaluation


def _one_evaluation(record: Record) -> Iterator[Alarm]:
    absent = [metric for metric in METRICS if _number(record.scores.get(metric)) is None]
    if absent:
        severity = ALARM if {"mAP", "NDS"} & set(absent) else NOTICE
        yield Alarm(
            "missing score", severity, f"The evaluation is called ok but has no {', '.join(absent)}.", place(record)
        )
    found = {metric: _number(record.scores.get(metric)) for metric in METRICS}
    if not _near_axis_error(found["mAOE"]) or (found["mAP"] or 0.0) < GOOD_MAP:
        return
    what = "Objects are found, but mAOE is near 1.57 rad, that of headings that say nothing"
    seen = f"{place(record)} (mAOE {found['mAOE']:.2f})"
    if found["mAVE"] is not None and found["mAVE"] >= LOST_VELOCITY:
        why = f", and velocities are off by more than {LOST_VELOCITY:g} m/s: neither is learnt (too short a training), "
        more = "so NDS says little here. Box axes mixed up would show the same mAOE."
        yield Alarm("headings", NOTICE, what + why + more, seen)
    else:
        why = ": look for mixed-up box axes (length and width, sign or zero of the yaw: mmdet3d 0.x, 1.x and nuScenes "
        yield Alarm("headings", ALARM, f"{what}{why}differ).", seen)


def _near_axis_error(maoe: float | None) -> bool:
    return maoe is not None and abs(maoe - AXIS_ERROR) <= AXIS_BAND


def _duplicates(record: Record, matches: Path | None) -> Iterator[Alarm]:
    found = recall_and_precision(matches)
    if found is not None and found[0] >= LEAST_RECALL and found[0] > FAR_ABOVE * found[1]:
        yield Alarm(
            "recall far above precision",
            ALARM,
            f"Where F1 is best, recall is more than {FAR_ABOVE:g} times the precision (at 2 m, median of the classes): "
            "look for doubled detections, for scores that do not rank, or for objects missing from the truth.",
            f"{place(record)} (recall {found[0]:.2f}, precision {found[1]:.2f})",
        )


# ---------------------------------------------------------------- evaluations against each other


def _suite(suite: Suite, evaluations: Sequence[Record]) -> Iterator[Alarm]:
    """What a suite's evaluations say together: unchanged scores, scores that are all 0, and the inputs."""
    reference = suite.conditions[0].name
    models: dict[tuple[str | None, int | None], dict[str, Record]] = {}
    for record in evaluations:
        models.setdefault((record.variant, record.seed), {})[record.condition] = record
    for by_condition in models.values():
        clean = by_condition.get(reference)
        others = [r for name, r in by_condition.items() if name != reference]
        if clean is None:
            continue
        if _finds_nothing(clean):
            sentence = f"mAP is 0.000 under '{reference}': the model finds nothing, so its scores say nothing anywhere."
            yield Alarm("nothing found", NOTICE, sentence, place(clean))
            continue
        for record in others:
            if _scores(record) and _scores(record) == _scores(clean):
                yield Alarm(
                    "unchanged scores",
                    ALARM,
                    f"All scores equal those under '{reference}' to the last digit: the corruption does not reach the "
                    "model, or the model does not read what it changes.",
                    place(record),
                )
    for check, severity, found in (
        ("inputs", ALARM, implausible_inputs(suite, evaluations)),
        ("other inputs", NOTICE, unequal_inputs(evaluations)),
        ("single sensor", NOTICE, single_sensor(suite, evaluations)),
    ):
        yield from (Alarm(check, severity, sentence, place(record)) for sentence, record in found)


def _finds_nothing(record: Record) -> bool:
    score = _number(record.scores.get("mAP"))
    return score is not None and score < RESOLUTION


def _scores(record: Record) -> Mapping:
    """The scores, also by class, without those that are none."""
    found = {k: v for k, v in record.scores.items() if v is not None and k != "classes"}
    return {**found, "classes": record.scores.get("classes")} if found else {}


def _twins(
    study: Study, trainings: Mapping[tuple[str | None, int | None], Record], evaluations: Sequence[Record]
) -> Iterator[Alarm]:
    """Variants whose scores are those of the variant they are compared with, to the last digit, and no reason why."""
    by_run: dict[tuple[str | None, int | None], dict[tuple[str | None, str | None], Record]] = {}
    for record in evaluations:
        by_run.setdefault((record.variant, record.seed), {})[record.suite, record.condition] = record
    for (variant, seed), own in by_run.items():
        other = study.compared_with(variant)
        base = by_run.get((other, seed), {})
        shared = [c for c in own if c in base and _scores(own[c]) and not _finds_nothing(own[c])]
        equal = [c for c in shared if _scores(own[c]) == _scores(base[c])]
        if other == variant or not equal or _explained(trainings, (variant, seed), (other, seed), own, base):
            continue
        whole = len(equal) == len(shared)
        ending = "every condition: it changes nothing, or its config is not used" if whole else "some conditions only"
        yield Alarm(
            "equal to the baseline",
            ALARM if whole else NOTICE,
            f"All scores equal those of '{other}' to the last digit under {ending}.",
            f"{study.name} {variant} seed {seed} {', '.join(str(condition) for _, condition in equal)}",
        )


def _explained(trainings: Mapping, own: tuple, other: tuple, here: Mapping, there: Mapping) -> bool:
    """True if the two are the same work: taken over from each other, or no training of the same config."""

    def source(key: tuple, records: Iterable[Record]) -> set[str]:
        record = trainings.get(key)
        known = [record, *records] if record is not None else list(records)
        study = next((r.study for r in known), None)
        return {f"{study}/{key[0]}/seed{key[1]}", *(r.extra["same_as"] for r in known if r.extra.get("same_as"))}

    if source(own, here.values()) & source(other, there.values()):
        return True
    pair = [trainings.get(key) for key in (own, other)]
    untrained = all(r is not None and r.cost.get("iterations") == 0 for r in pair)
    return untrained and len({r.provenance.get("config_sha256") for r in pair} - {None}) == 1


# ---------------------------------------------------------------- training


def _training(record: Record, schedule: Schedule) -> Iterator[Alarm]:
    """The trend of the loss: falling where a training starts afresh; at least not rising where it goes on."""
    losses = [_number(loss) for _, loss in record.curve]
    if None in losses:
        yield Alarm("training loss", ALARM, "The training loss was not a finite number at times.", place(record))
        return
    if len(losses) < LEAST_POINTS:
        return
    # A trained model has little left to learn in so short a time: there, only a loss that clearly rises is odd.
    goes_on = schedule.init == "base"
    trend = stats.kendalltau(range(len(losses)), losses, alternative="greater" if goes_on else "less").pvalue
    if goes_on and trend < RISING:
        sentence = "The training loss rises, though training goes on from a trained model: look at the learning rate."
        yield Alarm("training loss", ALARM, sentence, place(record))
    # Of a constant loss there is no trend at all (NaN).
    elif not goes_on and not trend <= FALLING:
        sentence = "The training loss did not fall (no trend beyond chance, Kendall's tau): the model has not learnt."
        yield Alarm("training loss", ALARM, sentence, place(record))


# ---------------------------------------------------------------- for people


def alarms_table(name: str, alarms: Iterable[Alarm]) -> Table:
    """One row for each thing that is wrong, with all places where it is so; alarms first."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for alarm in sorted(alarms, key=lambda a: a.severity != ALARM):
        together.setdefault((alarm.severity, alarm.check, alarm.sentence), []).append(alarm.where)
    rows = [
        {"severity": severity, "check": check, "what": sentence, "count": len(places), "where": "; ".join(places)}
        for (severity, check, sentence), places in together.items()
    ]
    shown = [
        {
            "Severity": row["severity"],
            "What": row["what"],
            "Times": str(row["count"]),
            "Where": "; ".join(places[:MOST_PLACES])
            + (f"; and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""),
        }
        for row, places in zip(rows, together.values(), strict=True)
    ]
    return Table(
        f"{name}_alarms",
        "Sanity alarms",
        pd.DataFrame(rows, columns=["severity", "check", "what", "count", "where"]),
        pd.DataFrame(shown, columns=["Severity", "What", "Times", "Where"]),
        "alarm: do not believe these numbers before the cause is known. notice: look twice before using them.",
        frozenset(i for i, row in enumerate(rows) if row["severity"] == ALARM),
        frozenset(["Times"]),
    )


def alarms_sentence(alarms: Sequence[Alarm]) -> str:
    """``2 alarms and 1 notice``, counted by what is wrong, not by places; empty where there is none."""
    kinds = {(a.severity, a.check, a.sentence) for a in alarms}
    counts = [(sum(k[0] == severity for k in kinds), severity) for severity in (ALARM, NOTICE)]
    return " and ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in counts if n)


def _number(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
