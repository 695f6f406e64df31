"""How far a workflow is: Snakemake's events become the lines to show, the jobs at work and the time left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqr_bench.cli.estimate import job_groups, job_seconds, known_times
from aqr_bench.cli.snakemake_events import RECORD_SEPARATOR
from aqr_bench.console import duration
from aqr_bench.study.spec import Study, Suite, Tier

MINOR_S = {"prepare": 15.0, "pictures": 15.0, "report": 15.0}  # not in records; small, whatever the tier
EXCLUSIVE = ("world", "measure", "database")  # rules that claim every core


def expected_seconds(tier: Tier, studies: Sequence[Study], suites: Iterable[Suite], results: Path) -> dict[str, float]:
    """Mean seconds of one job of each rule, by the records below ``results`` or as the tier assumes; unknown ones lack.

    A job that reuses the result of another takes hardly any time: the mean is over all jobs.
    """
    times = known_times(tier, results)
    expected = dict(MINOR_S)
    for group in job_groups(tier, studies, suites):
        each = None if times is None else job_seconds(group, times)
        if each is not None and group.jobs:
            expected[group.rule] = sum(each) / group.jobs
    return expected


@dataclass
class TimeLeft:
    """Estimates the time left of a workflow from expected times, corrected by those of the jobs that are done.

    Args:
        expected: seconds of one job by rule.
        parallel_jobs: jobs that run at once, those of ``EXCLUSIVE`` rules apart.
        remaining: jobs by rule that are not done, running ones included.
        clock: seconds since any moment.
    """

    expected: Mapping[str, float]
    parallel_jobs: int = 1
    remaining: dict[str, int] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    running: dict[int, tuple[str, float]] = field(default_factory=dict)  # by job: its rule, and when it started
    done: dict[str, list[float]] = field(default_factory=dict)

    def start(self, job: int, rule: str) -> None:
        self.running[job] = (rule, self.clock())

    def finish(self, job: int, failed: bool = False) -> None:
        """The duration of a failed job is no estimate of any other."""
        if job not in self.running:
            return
        rule, started = self.running.pop(job)
        if not failed:
            self.done.setdefault(rule, []).append(self.clock() - started)
        self.remaining[rule] = max(0, self.remaining.get(rule, 0) - 1)

    def per_job(self, rule: str) -> float | None:
        """Seconds of a job: as those of this run took, else as expected of a machine as fast as this one."""
        if rule in self.done:
            return sum(self.done[rule]) / len(self.done[rule])
        if rule not in self.expected:
            return None
        measured = [r for r in list(self.done) if r in self.expected and r not in MINOR_S]
        expected = sum(self.expected[r] * len(self.done[r]) for r in measured)
        return self.expected[rule] * (sum(sum(self.done[r]) for r in measured) / expected if expected else 1.0)

    def seconds(self) -> tuple[float, bool]:
        """Seconds left, and whether the time of every remaining job is known (else it will be longer)."""
        total, complete, now = 0.0, True, self.clock()
        for rule, jobs in list(self.remaining.items()):  # the thread of the live line calls this as well
            each = self.per_job(rule)
            if each is None:
                complete = complete and (jobs == 0 or rule == "all")
                continue
            parallel = 1 if rule in EXCLUSIVE else max(1, min(self.parallel_jobs, jobs))
            elapsed = sum(min(now - started, each) for r, started in list(self.running.values()) if r == rule)
            total += max(0.0, jobs * each - elapsed) / parallel
        return total, complete

    def __str__(self) -> str:
        """``about 6 min left``."""
        seconds, complete = self.seconds()
        if not seconds:
            return "almost done" if complete else "time left unknown"
        return f"{'about' if complete else 'more than'} {duration(seconds)} left"


@dataclass
class Progress:
    """Reads the output of :mod:`aqr_bench.cli.snakemake_events` line by line.

    Args:
        threads: of each job.
        gpus: so many jobs at most run at once; 0: as many as there are cores for.
        dry_run: nothing gets done, so jobs are not numbered.
        announce: report each job that starts by a line, for lack of a live one.
        verbose: show Snakemake's own words instead of ours.
    """

    threads: int = 1
    gpus: int = 0
    dry_run: bool = False
    announce: bool = True
    verbose: bool = False
    time_left: TimeLeft = field(default_factory=lambda: TimeLeft({}))
    done: int = 0
    total: int = 0  # 0 to the end: nothing to do
    failed_jobs: int = 0
    failed_logs: list[str] = field(default_factory=list)
    running: dict[int, str] = field(default_factory=dict)  # messages of the jobs at work

    def feed(self, line: str) -> str | None:
        """The text to show for a line of output, None for nothing: what jobs print is shown as it is."""
        printed, separator, data = line.rstrip("\n").partition(RECORD_SEPARATOR)
        if not separator:
            return printed or None
        try:
            event = json.loads(data)
        except ValueError:  # a job has printed into the middle of the line
            return f"{printed}{data}"
        message = self.update(event)
        texts = [printed, event["text"] if self.verbose else message]
        return "\n".join(text for text in texts if text) or None

    def update(self, event: Mapping[str, Any]) -> str | None:
        """Take in an event; returns the text to show for it."""
        match event["event"]:
            case "jobs":
                self.time_left.remaining = dict(event["count"])
                self.total = sum(event["count"].values())
            case "cores":
                parallel = max(1, event["count"] // self.threads)
                self.time_left.parallel_jobs = min(parallel, self.gpus or parallel)
            case "progress":
                self.done, self.total = event["done"], event["total"]
            case "start":
                self.time_left.start(event["job"], event["rule"])
                message = event["message"]  # none of a rule that only names files
                if not message:
                    return None
                self.running[event["job"]] = message
                if self.dry_run:
                    return message
                return f"[{self.done}/{self.total}] {message}" if self.announce else None
            case "finish" | "failure" as how:
                self.running.pop(event["job"], None)
                self.time_left.finish(event["job"], failed=how == "failure")
                self.failed_jobs += how == "failure"
                self.failed_logs += event.get("logs", [])
            # After a failed job Snakemake only repeats that one has failed.
            case "message" if not (self.failed_jobs and event["exception"] in (None, "WorkflowError")):
                return event["message"]
        return None

    def status(self) -> str:
        """One line: jobs done of all, time left, what is at work."""
        if not self.total:
            return "planning"
        messages = list(self.running.values())
        more = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
        now = f"{messages[0]}{more}" if messages else "waiting for Snakemake"
        return f"[{self.done}/{self.total}] {self.time_left}: {now}"
