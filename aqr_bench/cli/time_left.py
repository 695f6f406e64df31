"""How long a workflow will take yet: expected times of its jobs, corrected by how long the finished ones took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aqr_bench.cli.estimate import known_times, plan, seconds
from aqr_bench.console import duration
from aqr_bench.study.spec import Study, Suite, Tier

# Rules of the workflow by how their messages begin, see workflow/rules; Snakemake names the rule only at a job's end.
RULES = {
    "World of": "world",
    "Information files": "prepare",
    "Objects for": "database",
    "Pretraining": "pretrain",
    "Base training": "train_base",
    "Training": "train_variant",
    "Evaluating": "evaluate",
    "Measuring": "measure",
    "Pictures": "pictures",
    "Report": "report",
}
WORKS = {  # of aqr_bench/cli/estimate.py
    "world": "world",
    "pretrainings": "pretrain",
    "base trainings": "train_base",
    "variant trainings": "train_variant",
    "evaluations": "evaluate",
    "measurements": "measure",
}
MINOR_S = {"prepare": 15.0, "pictures": 15.0, "report": 15.0}  # not in records; small, whatever the tier
ALONE = ("world", "measure", "database")  # claim every core


def expected_seconds(tier: Tier, studies: Sequence[Study], suites: Iterable[Suite], results: Path) -> dict[str, float]:
    """Mean seconds of one job of each rule, by the records below ``results`` or as the tier assumes; unknown ones lack.

    A job that takes over a twin's work takes hardly any time: the mean is over all jobs.
    """
    times = known_times(tier, results)
    found = dict(MINOR_S)
    for work in plan(tier, studies, suites):
        each = None if times is None else seconds(work, times)
        if each is not None and work.jobs:
            found[WORKS[work.what]] = sum(each) / work.jobs
    return found


@dataclass
class TimeLeft:
    """Estimates the time left of a workflow from expected times, corrected by those of the jobs that are done.

    Args:
        expected: seconds of one job by rule.
        lanes: jobs that run side by side, those of ``ALONE`` apart.
        left: jobs by rule that are not done, running ones with them.
        clock: seconds, of any beginning.
    """

    expected: Mapping[str, float]
    lanes: int = 1
    left: dict[str, int] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    running: dict[int, tuple[str, float]] = field(default_factory=dict)  # by job: its rule, and when it began
    done: dict[str, list[float]] = field(default_factory=dict)

    def begins(self, job: int, message: str) -> None:
        self.running[job] = (rule_of(message), self.clock())

    def ends(self, job: int, failed: bool = False) -> None:
        """What a failed job took tells nothing about the others."""
        if job not in self.running:
            return
        rule, began = self.running.pop(job)
        if not failed:
            self.done.setdefault(rule, []).append(self.clock() - began)
        self.left[rule] = max(0, self.left.get(rule, 0) - 1)

    def per_job(self, rule: str) -> float | None:
        """Seconds of a job: as those of this run took, else as expected of a machine as fast as this one."""
        if rule in self.done:
            return sum(self.done[rule]) / len(self.done[rule])
        if rule not in self.expected:
            return None
        known = [r for r in list(self.done) if r in self.expected and r not in MINOR_S]
        should = sum(self.expected[r] * len(self.done[r]) for r in known)
        return self.expected[rule] * (sum(sum(self.done[r]) for r in known) / should if should else 1.0)

    def seconds(self) -> tuple[float, bool]:
        """Seconds left, and whether all that is left is known (else it will be longer)."""
        total, whole, now = 0.0, True, self.clock()
        for rule, jobs in list(self.left.items()):  # other threads ask for this
            each = self.per_job(rule)
            if each is None:
                whole = whole and (jobs == 0 or rule == "all")
                continue
            lanes = 1 if rule in ALONE else max(1, min(self.lanes, jobs))
            gone = sum(min(now - began, each) for own, began in list(self.running.values()) if own == rule)
            total += max(0.0, jobs * each - gone) / lanes
        return total, whole

    def in_words(self) -> str:
        """``about 6 min left``."""
        left, whole = self.seconds()
        if not left:
            return "time left unknown" if not whole else "almost done"
        return f"{'about' if whole else 'more than'} {duration(left)} left"


def rule_of(message: str) -> str:
    """The rule of a job by its message; one that is not known stands for itself."""
    return next((rule for start, rule in RULES.items() if message.startswith(start)), message)
