"""What is to be run, and which records come of it.

The workflow's rules and `aqr-bench run` build one ``Selection`` from the same names. What each record depends on in
tier and study is in ``study.settings``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from aqr_bench.errors import UserError, nearest, short
from aqr_bench.folders import ablation_folders
from aqr_bench.study.layout import RESULTS, RunLayout
from aqr_bench.study.load import known_studies, known_suites, load_study, load_suite, load_tier, loadable
from aqr_bench.study.requirements import require_inputs, require_metrics
from aqr_bench.study.runs import base_runs, limit_seeds, matrix
from aqr_bench.study.spec import Launcher, Run, Schedule, Study, Suite, Tier

ONE_PROCESS = Launcher()
N = TypeVar("N", Study, Suite)

# ---------------------------------------------------------------- what is selected


@dataclass(frozen=True)
class Selection:
    """One call of the benchmark.

    Args:
        studies: those that are chosen, with the seeds that are run.
        studies_by_name: all that the tier can run, the chosen ones included: each of them is a target.
        suites: further ones, under which the variants of the chosen studies are evaluated too.
        seeds: how many of every study's were asked for; None: as the tier says.
        variants: those that were asked for; none: all.
        results: folder of the results, as the workflow names it: absolute, or relative to the project folder.
    """

    tier: Tier
    studies: tuple[Study, ...]
    studies_by_name: Mapping[str, Study]
    suites: tuple[Suite, ...] = ()
    seeds: int | None = None
    variants: tuple[str, ...] = ()
    results: Path = RESULTS

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.tier.name, self.results)

    @property
    def trained(self) -> list[Study]:
        """The chosen studies that train models."""
        return [study for study in self.studies if not study.measure_only]

    @cached_property  # reads files
    def suites_by_name(self) -> dict[str, Suite]:
        """By name, all that ship, those of the known studies, and the further ones."""
        shipped = {suite.name: suite for suite in loadable(load_suite, known_suites())[0]}
        named = {study.suite.name: study.suite for study in self.studies_by_name.values()}
        return {**shipped, **named, **{suite.name: suite for suite in self.chosen_suites}}

    @property
    def chosen_suites(self) -> list[Suite]:
        """Those of the chosen studies, and the further ones."""
        return list(unique("suite", [*(study.suite for study in self.studies), *self.suites]))

    @property
    def runs(self) -> list[Run]:
        """Trainings of the variants of the chosen studies, and of the base models that they start from."""
        return matrix(self.tier, self.studies) + base_runs(self.tier, self.studies)

    @property
    def records(self) -> list[str]:
        """All record files that the chosen studies need."""
        return [path for study in self.studies for path in self.study_records(study)] + self.base_records(self.studies)

    def base_records(self, studies: Iterable[Study]) -> list[str]:
        """Trainings and evaluations of the base models that the studies start from."""
        studies = list(studies)
        suites = sorted({study.suite.name for study in studies if not study.measure_only})
        return self._run_records(base_runs(self.tier, studies), suites)

    def study_records(self, study: Study, variants: Sequence[str] | None = None) -> list[str]:
        """Trainings, evaluations and measurements of a study, or of some of its variants."""
        variants = list(study.variants) if variants is None else variants
        runs = [run for run in matrix(self.tier, [study]) if run.variant in variants]
        suites = dict.fromkeys([study.suite.name, *(suite.name for suite in self.suites)])
        measured = [self.layout.measure(study.name, variant).as_posix() for variant in variants]
        return self._run_records(runs, suites) + measured

    def suite_records(self, suite: str) -> list[str]:
        """Evaluations of all runs under one suite."""
        return [self.layout.evaluate(run, suite).as_posix() for run in self.runs]

    def _run_records(self, runs: Sequence[Run], suites: Iterable[str]) -> list[str]:
        suites = list(suites)
        trained = [self.layout.train(run) for run in runs]
        evaluated = [self.layout.evaluate(run, suite) for run in runs for suite in suites]
        return [path.as_posix() for path in trained + evaluated]

    def pictured_run(self) -> Run:
        """The model whose detections are drawn: a base model, or a baseline, of the first study that trains any."""
        first = self.trained[0]
        baseline = [run for run in matrix(self.tier, [first]) if run.variant == first.baseline]
        return (base_runs(self.tier, [first]) or baseline)[0]


def select(
    tier: str | Path,
    studies: Sequence[str] | None = None,
    suites: Sequence[str] | None = None,
    seeds: int | None = None,
    variants: Sequence[str] | None = None,
    results: str | Path = RESULTS,
) -> Selection:
    """Load and check what is to be run, given by names or files.

    Args:
        studies: None: those that the tier names, with its further suites unless ``suites`` names others.
        variants: those of the studies that are run, besides each study's baseline; None: all.
        results: folder of the results.
    Raises:
        UserError: an unknown name, a mistake in a file, a study that the tier cannot run, inputs that are not there.
    """
    if set("{}") & set(str(results)):
        raise UserError(
            f"--results {results}: Snakemake takes braces in names of files for wildcards",
            "Name a folder without { and }.",
        )
    loaded = load_tier(tier)
    if suites is None:
        suites = () if studies else loaded.suites
    chosen = [limit_seeds(load_study(name), loaded, seeds) for name in studies or loaded.studies]
    chosen = unique("study", chosen)
    if variants:
        chosen = with_variants(chosen, variants)
    further = unique("suite", map(load_suite, suites))
    own_suites = {s.name: s for s in unique("suite", [*(study.suite for study in chosen), *further])}
    require_metrics(loaded, chosen)
    base_runs(loaded, chosen)  # raises where the tier cannot run one of them
    require_inputs(loaded, chosen)
    # A shipped study under a suite of which another file's namesake is chosen is no target of this call.
    known = {
        study.name: study
        for study in loadable(load_study, known_studies())[0]
        if can_run(loaded, study) and is_same_file(own_suites.get(study.suite.name, study.suite), study.suite)
    }
    targets = {**known, **{study.name: study for study in chosen}}
    return Selection(loaded, chosen, targets, further, seeds, tuple(variants or ()), Path(results))


def with_variants(studies: Sequence[Study], variants: Sequence[str]) -> tuple[Study, ...]:
    """The studies with these variants alone, and what they are compared with. UserError: no study has one of them."""
    known = {name for study in studies for name in study.variants}
    for name in variants:
        if name not in known:
            chosen = ", ".join(study.name for study in studies)
            raise UserError(f"--variants: no variant '{short(name)}' in {chosen}{nearest(name, known)}")
    limited = []
    for study in studies:
        named = [name for name in study.variants if name in variants]
        keep = {study.baseline, *named, *map(study.compared_with, named)}
        limited.append(replace(study, variants={name: v for name, v in study.variants.items() if name in keep}))
    return tuple(limited)


def is_same_file(a: Study | Suite, b: Study | Suite) -> bool:
    """Whether two of one kind come from one file, however it was named."""
    return a.path.resolve() == b.path.resolve()


def unique(what: str, entries: Iterable[N]) -> tuple[N, ...]:
    """The entries, each file once. UserError: two files of one name, whose results would lie in one folder."""
    by_name: dict[str, N] = {}
    for entry in entries:
        other = by_name.setdefault(entry.name, entry)
        if not is_same_file(other, entry):
            raise UserError(
                f"{what} '{entry.name}' is named by two files: {other.path} and {entry.path}",
                "Their results would lie in one folder. Rename one of them.",
            )
    return tuple(by_name.values())


def can_run(tier: Tier, study: Study) -> bool:
    """Whether the tier has all that the study's variants start from, and a custom metric where the study names one."""
    try:
        require_metrics(tier, [study])
        base_runs(tier, [study])
    except UserError:
        return False
    return True


def name_or_path(file: Path) -> str:
    """How a job names a tier, study or suite: by name if it is one of the project's or ships, by path otherwise."""
    folders = [folder.resolve() for kind in ("", "tiers", "conditions") for folder in ablation_folders(kind)]
    return file.stem if file.resolve().parent in folders else file.as_posix()


def launcher_of(tier: Tier, schedule: Schedule) -> Launcher:
    """How a training is started; weights that are taken as they are need but one process."""
    return ONE_PROCESS if schedule.iterations == 0 else tier.launcher


def evaluation_settings(tier: Tier, suite: Suite) -> dict[str, Any]:
    """What an evaluation depends on besides the model and its config."""
    return {"conditions": [condition.settings for condition in suite.conditions], **scoring_settings(tier)}


def scoring_settings(tier: Tier) -> dict[str, Any]:
    """What every evaluation of a tier depends on."""
    custom = {"metrics": list(tier.metrics)} if tier.metrics else {}
    return {"batch_size": tier.evaluate_batch_size, **custom, **tier.scoring.entry()}
