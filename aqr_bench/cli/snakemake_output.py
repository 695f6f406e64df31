"""Snakemake's output, cut down to what a person needs to see."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aqr_bench.cli.time_left import TimeLeft


@dataclass
class Progress:
    """Follows Snakemake's output line by line and keeps what a reader needs."""

    done: int = 0
    total: int = 0
    nothing_to_do: bool = False
    threads: int = 1  # of each job
    counting: bool = True  # False in a dry run, where nothing gets done
    failed_logs: list[str] = field(default_factory=list)
    time_left: TimeLeft = field(default_factory=lambda: TimeLeft({}))
    running: dict[int, str] = field(default_factory=dict)  # messages of the jobs at work
    _in_error: bool = False
    _in_stats: bool = False  # within the table of how many jobs each rule has

    def feed(self, line: str) -> str | None:
        """Return the line to show for this line of Snakemake, or None to show nothing."""
        text = line.rstrip()
        if self._in_error and text.startswith("    "):
            if failed := re.match(r" +jobid: (\d+)", text):
                self.running.pop(int(failed[1]), None)
                self.time_left.ends(int(failed[1]), failed=True)
            if text.strip().startswith("log: "):
                self.failed_logs.append(text.strip()[len("log: ") :].partition(" (check")[0])
            return None
        self._in_error = text.startswith("Error in rule ")
        if self._in_error:
            return None
        if steps := re.match(r"(\d+) of (\d+) steps \(\d+%\) done", text):
            self.done, self.total = int(steps[1]), int(steps[2])
            return None
        if total := re.match(r"total +(\d+)$", text):
            self.total, self._in_stats = int(total[1]), False
            return None
        if self._in_stats and (jobs := re.match(r"(\S+) +(\d+)$", text)):
            self.time_left.left[jobs[1]] = int(jobs[2])
            return None
        self._in_stats = self._in_stats or text == "Job stats:"
        if cores := re.match(r"Provided cores: (\d+)", text):
            self.time_left.lanes = max(1, int(cores[1]) // self.threads)
            return None
        if gpus := re.match(r"Provided resources: .*\bgpu=\D*(\d+)", text):
            self.time_left.lanes = max(1, min(self.time_left.lanes, int(gpus[1])))
            return None
        if job := re.match(r"Job (\d+): (.+)", text):
            self.running[int(job[1])] = job[2]
            self.time_left.begins(int(job[1]), job[2])
            return f"[{self.done}/{self.total}] {job[2]}" if self.counting else job[2]
        if ended := re.match(r"Finished jobid: (\d+)", text):
            self.running.pop(int(ended[1]), None)
            self.time_left.ends(int(ended[1]))
            return None
        if text.startswith("Nothing to be done"):
            self.nothing_to_do = True
            return None
        return None if _NOISE.match(text) else text

    def live(self) -> str:
        """One line: jobs done of all, what is at work, about how long it takes yet."""
        if not self.total:
            return "planning"
        at_work = list(self.running.values())
        more = f" and {len(at_work) - 1} more" if len(at_work) > 1 else ""
        now = f"{at_work[0]}{more}" if at_work else "waiting for Snakemake"
        return f"[{self.done}/{self.total}] {self.time_left.in_words()}: {now}"


_NOISE = re.compile(
    r"""$|\s+(input|output|jobid|resources|reason|threads|log):|\(check|
    Using\ (workflow|shell|profile)|Assuming|Building\ DAG|Provided\ |Rules\ claiming|Conda\ env|Job\ stats|job\ +count|
    -+\ +-+$|\w+\ +\d+$|Select\ jobs|Execute\ \d|\[\w{3}\ \w{3}\ |Finished\ jobid|(local)?rule\ \w+:|Complete\ log|
    Elapsed\ time|RuleException|CalledProcessError|Command\ '|Exiting\ because|Shutting\ down|Reason|Config\ file|
    Resources\ before|Will\ exit|WorkflowError:$|At\ least\ one\ job|Trying\ to\ restart|Removing\ output|
    Some\ jobs\ were\ triggered|If\ you\ (prefer|are\ sure)|Rules\ with\ provenance|This\ was\ a\ dry-run|
    \s\ \ \ |Host:|Unlocking""",
    re.VERBOSE,
)
