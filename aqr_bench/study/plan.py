"""What is to be run, and which records come of it.

The workflow's rules and `aqr-bench run` build one ``Selection`` from the same names. What each record depends on in
tier and study is in ``study.settings``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import known_studies, known_suites, load_study, load_suite, load_tier
from aqr_bench.study.requirements import require_inputs
from aqr_bench.study.runs import base_runs, limit_seeds, matrix
from aqr_bench.study.schema import repository_root
from aqr_bench.study.spec import Launcher, Run, Schedule, Study, Suite, Tier

ONE_PROCESS = Launcher()

# ---------------------------------------------------------------- what is selected


@dataclass(frozen=True)
class Selection:
    """One call of the benchmark.

    Args:
        studies: those that are chosen, with the seeds that are run.
        studies_by_name: all that the tier can run, the chosen ones included: each of them is a target.
        suites: further ones, under which the variants of the chosen studies are evaluated too.
        seeds: how many of every study's were asked for; None: as the tier says.
    """

    tier: Tier
    studies: tuple[Study, ...]
    studies_by_name: Mapping[str, Study]
    suites: tuple[Suite, ...] = ()
    seeds: int | None = None

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.tier.name)

    @property
    def trained(self) -> list[Study]:
        """The chosen studies that train models."""
        return [study for study in self.studies if not study.measure_only]

    @property
    def suites_by_name(self) -> dict[str, Suite]:
        """By name, all that ship, those of the known studies, and the further ones."""
        shipped = {name: load_suite(name) for name in known_suites()}
        named = {study.suite.name: study.suite for study in self.studies_by_name.values()}
        return {**shipped, **named, **{suite.name: suite for suite in self.suites}}

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
) -> Selection:
    """Load and check what is to be run, given by names or files.

    Args:
        studies: None: those that the tier names, with its further suites unless ``suites`` names others.
    Raises:
        UserError: an unknown name, a mistake in a file, a study that the tier cannot run, inputs that are not there.
    """
    loaded = load_tier(tier)
    if suites is None:
        suites = () if studies else loaded.suites
    chosen = [limit_seeds(load_study(name), loaded, seeds) for name in studies or loaded.studies]
    further = tuple(map(load_suite, suites))
    base_runs(loaded, chosen)  # raises where the tier cannot run one of them
    require_inputs(loaded, chosen)
    known = {study.name: study for study in map(load_study, known_studies()) if can_run(loaded, study)}
    return Selection(loaded, tuple(chosen), {**known, **{s.name: s for s in chosen}}, further, seeds)


def can_run(tier: Tier, study: Study) -> bool:
    """Whether the tier has all that the study's variants start from."""
    try:
        base_runs(tier, [study])
    except UserError:
        return False
    return True


def name_or_path(file: Path) -> str:
    """How a job names a tier, study or suite: by name if the repository ships it, by path otherwise."""
    shipped = file.resolve().is_relative_to((repository_root() / "ablations").resolve())
    return file.stem if shipped else file.as_posix()


def launcher_of(tier: Tier, schedule: Schedule) -> Launcher:
    """How a training is started; weights that are taken as they are need but one process."""
    return ONE_PROCESS if schedule.iterations == 0 else tier.launcher


def evaluation_settings(tier: Tier, suite: Suite) -> dict[str, Any]:
    """What an evaluation depends on besides the model and its config."""
    conditions = [condition.settings for condition in suite.conditions]
    return {"conditions": conditions, "batch_size": tier.evaluate_batch_size}
