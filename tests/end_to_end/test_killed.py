"""A smoke run killed with SIGKILL at ten random moments ends with the records of a run that nothing disturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import copy_workflow
from fault_processes import kill_all
from fault_stages import CLOCK, steady_records

from aqr_bench.cli.folder_lock import workers_in

RUN = [sys.executable, "-m", "aqr_bench", "run", "--tier", "smoke", "--study", "smoke", "--cores", "2"]
KILLS = 10
SEED = 7
OUTPUTS = {"world.json", "data.json", "pictures.json", "index.html"}  # and every record
LIMIT_S = 1200


def start(folder: Path) -> subprocess.Popen:
    with open(folder / "run.log", "a") as log:
        return subprocess.Popen(RUN, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finished_jobs(folder: Path) -> int:
    """How many outputs are there. Folders may vanish under this: os.walk passes over them, Path.glob does not."""
    count = 0
    for place, folders, files in os.walk(folder / "results" / "smoke"):
        folders[:] = [name for name in folders if name not in ("work", "tables", "v1.0-mini", "samples", "sweeps")]
        full = not place.endswith(".partial")
        count += sum(full and (name in OUTPUTS or name.endswith(".jsonl")) for name in files)
    return count


def undisturbed(folder: Path) -> tuple[float, list[float]]:
    """Run to the end. Returns seconds until the first job began, and the seconds at which each job was finished."""
    began = time.monotonic()
    process = start(folder)
    first_job, done = None, []
    while process.poll() is None:
        assert time.monotonic() - began < LIMIT_S
        if first_job is None and (folder / "logs" / "smoke" / "world.log").exists():
            first_job = time.monotonic() - began
        now = finished_jobs(folder)
        done += [time.monotonic() - began] * (now - len(done))
        time.sleep(0.05)
    assert process.returncode == 0, (folder / "run.log").read_text()
    return first_job, done


def disturbed(folder: Path, startup: float, done: list[float]) -> list[str]:
    """Start, kill, start again, ten times, then to the end. Returns what was under way at each kill.

    A moment is drawn from the undisturbed run's time. Work that is lost shifts it, hence it is aimed by what is
    finished: so many jobs, and so many seconds after the last of them.
    """
    generator = random.Random(SEED)
    moments = sorted(generator.uniform(0.0, done[-1]) for _ in range(KILLS))
    states = []
    for moment in moments:
        before = sum(when <= moment for when in done)
        wait = moment - (done[before - 1] if before else 0.0)
        process = start(folder)
        # Where enough is finished already, the seconds count from when this call's first job begins.
        reached = time.monotonic() + (startup if before and finished_jobs(folder) >= before else 0.0)
        deadline = time.monotonic() + LIMIT_S
        while finished_jobs(folder) < before and process.poll() is None:
            assert time.monotonic() < deadline, (folder / "run.log").read_text()
            time.sleep(0.05)
            reached = time.monotonic()
        time.sleep(max(0.0, reached + wait - time.monotonic()))
        jobs = sorted(name for _, name in workers_in(folder))
        assert process.poll() is None, "the run ended before its kill:\n" + (folder / "run.log").read_text()
        kill_all(process.pid, folder)
        process.wait()
        states.append(f"{moment:.1f} s, {finished_jobs(folder)} jobs done, at work: {', '.join(jobs) or 'none'}")
    process = start(folder)
    process.wait(timeout=LIMIT_S)
    assert process.returncode == 0, (folder / "run.log").read_text()
    return states


def contents(folder: Path) -> dict[str, list[dict]]:
    """The records of every run by file, without what a clock decides; of a measurement only that it went well."""
    results = folder / "results" / "smoke"
    return {str(f.relative_to(results)): steady_records(f, CLOCK) for f in sorted(results.rglob("*.jsonl"))}


@pytest.mark.slow
def test_ten_kills_leave_the_same_records(tmp_path):
    quiet, stormy = (copy_workflow(tmp_path / name) for name in ("quiet", "stormy"))
    startup, done = undisturbed(quiet)
    states = disturbed(stormy, startup, done)
    print("\n".join(states))
    assert len(set(states)) == KILLS
    expected, result = contents(quiet), contents(stormy)
    assert len(expected) == 8 and sorted(result) == sorted(expected)
    trained = expected["base/seed0/train.jsonl"][0]
    assert trained["curve"] and len(trained["provenance"]["checkpoint_sha256"]) == 64, "nothing would be compared"
    for file, records in expected.items():
        assert all(record["status"] == "ok" for record in records), file
        assert result[file] == records, file
