"""Evaluations in record files wherever they lie, without tier or study: by model and seed, under one suite."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from aqr_bench.errors import UserError, join_names, nearest
from aqr_bench.metrics.scoring_rules import rules_of
from aqr_bench.records.record import NOT_APPLICABLE, Record, describe, read_records, record_files
from aqr_bench.report.collect import evaluations_of
from aqr_bench.report.robustness_scores import SINGLE_SENSOR, SuiteScores, families, suite_scores
from aqr_bench.report.rows import classes_frame, evaluations_frame
from aqr_bench.report.scene_bootstrap import EvaluatedRun, matches_beside
from aqr_bench.study.spec import Suite

MODELS = "models"  # in place of a study, in names of tables
Identity = tuple[str, ...]  # name that was given, tier, study, variant


@dataclass(frozen=True)
class LooseEvaluations:
    """Evaluations of several models under one suite.

    evaluations  EvaluationRow by model (``variant``), seed and condition
    classes      ClassRow likewise
    records      those of the suite that were read
    warnings     what was passed over: damaged files
    matches      matched detections by model, seed and condition, where they lie beside the records
    given        models that were trained elsewhere: one run each, so that seeds say nothing about them
    """

    suite: Suite
    evaluations: pd.DataFrame
    classes: pd.DataFrame
    records: tuple[Record, ...]
    warnings: tuple[str, ...] = ()
    matches: Mapping[tuple[str, int, str], Path] = field(default_factory=dict)
    given: frozenset[str] = frozenset()

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(self.evaluations["variant"]))

    @property
    def not_applicable(self) -> list[str]:
        """Conditions that concern none of the models."""
        concerned = set(self.evaluations[self.evaluations["status"] != NOT_APPLICABLE]["condition"])
        return [c.name for c in self.suite.conditions if c.name not in concerned]

    def families(self) -> dict[str, dict[int, str]]:
        """Corruption -> severity -> condition, of those that concern one of the models at least."""
        left_out = set(self.not_applicable)
        return {name: group for name, group in families(self.suite).items() if not left_out & set(group.values())}

    def robustness(self, baseline: str | None, single: pd.DataFrame | None = None) -> SuiteScores:
        """RA, RRA and CE of every model, relative to ``baseline``.

        ``single``: EvaluationRow of models with one sensor; those of the suite by default.
        """
        if single is None:
            single = self.evaluations[self.evaluations["condition"].isin(SINGLE_SENSOR)]
        return suite_scores(self.evaluations, self.suite, self.families(), MODELS, baseline, single)


def read_evaluations(places: Sequence[str], suite: Suite, models: Sequence[str] = ()) -> LooseEvaluations:
    """The evaluations under a suite in files and folders of records.

    Args:
        places: paths; ``NAME=PATH`` gives the model in it another name.
        models: names of those that are wanted, in this order; none: all, in the order in which they are read.
    Raises:
        UserError: no such path, no record of the suite, no such model, two evaluations of one model and seed.
    """
    evaluations: dict[tuple[Identity, int], tuple[Path, list[Record]]] = {}
    warnings, suites = [], Counter()
    for name, file in _files(places):
        for record in read_records(file):
            if record.extra.get("damaged"):
                warnings.append(str(record.reason))
            if record.kind != "evaluate" or record.extra.get("damaged"):
                continue
            suites[record.suite] += 1
            if record.suite != suite.name:
                continue
            key = ((name, record.tier, record.study or "", record.variant or ""), record.seed or 0)
            other, records = evaluations.setdefault(key, (file, []))
            if other != file:
                raise UserError(
                    f"two evaluations of {describe(record)} under {suite.name}: {other} and {file}",
                    "Name the models: NAME=FILE OTHER=FILE.",
                )
            records.append(record)
    if not evaluations:
        others = f"; they are of {join_names(map(str, suites))}" if suites else ""
        raise UserError(f"no evaluation under '{suite.name}' in {join_names(places)}{others}")
    labels = _labels([identity for identity, _ in evaluations])
    known = list(dict.fromkeys(labels.values()))
    for model in models:
        if model not in known:
            raise UserError(f"--models: no '{model}'{nearest(model, known)}")
    chosen = list(models) or known
    runs = [(labels[identity], seed, *of_file) for (identity, seed), of_file in evaluations.items()]
    runs = sorted((run for run in runs if run[0] in chosen), key=lambda run: (chosen.index(run[0]), run[1]))
    evaluated = [
        EvaluatedRun(label, seed, record, matches_beside(file, record), None)
        for label, seed, file, records in runs
        for record in evaluations_of(records, suite)
    ]
    read = tuple(record for *_, records in runs for record in records)
    rules = {rules_of(record.extra).text for record in read if record.ok}
    if len(rules) > 1:
        texts = "; ".join(sorted(text or "nuScenes' rules" for text in rules))
        raise UserError(f"records are scored by different rules, and no table mixes them: {texts}")
    return LooseEvaluations(
        suite,
        evaluations_frame(evaluated),
        classes_frame(evaluated),
        read,
        tuple(warnings),
        {run.key: run.matches for run in evaluated if run.matches is not None},
        frozenset(label for label, *_, records in runs if all(record.without_tier for record in records)),
    )


def _files(places: Sequence[str]) -> list[tuple[str, Path]]:
    """Given name (empty without one) and path of each record file; one that several paths lead to comes once."""
    files: dict[tuple[str, str], Path] = {}
    for text in places:
        name, equals, rest = text.partition("=")
        named = bool(equals and name and not Path(text).exists())
        for file in record_files(Path(rest if named else text)):  # read_records reports one that is not there
            files.setdefault((name if named else "", os.path.realpath(file)), file)
    return [(name, file) for (name, _), file in files.items()]


def _labels(identities: Iterable[Identity]) -> Mapping[Identity, str]:
    """The shortest names that tell models apart: of the variant, else with its study, else with its tier as well."""
    identities = list(dict.fromkeys(identities))

    def of(identity: Identity, parts: int) -> str:
        name, tier, study, variant = identity
        words = [tier, study, variant or ("base" if study else "")]
        longest = [word for word in words if word]
        label = "/".join(longest[-parts:])
        return label if not name else name if parts == 1 else f"{name}/{label}"

    for parts in (1, 2, 3):
        labels = {identity: of(identity, parts) for identity in identities}
        if len(set(labels.values())) == len(labels):
            break
    return labels
