"""A smoke run killed with SIGKILL at ten random moments ends with the records of a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from aqr_bench.cli.run import workers_in
from aqr_bench.records.record import read_run

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "aqr_bench", "run", "--tier", "smoke", "--study", "smoke", "--cores", "2"]
KILLS = 10
SEED = 7
OUTPUTS = {"world.json", "data.json", "pictures.json", "index.html"}  # and every record
# What a clock, a machine's load or a folder's name decides, and nothing else.
UNSTEADY = {"wall_s", "started", "finished", "utc", "time", "date", "path", "log"}
LIMIT_S = 1200


def copy_checkout(folder: Path) -> Path:
    """The repository's workflow and studies in a folder of their own; the package is the installed one."""
    folder.mkdir()
    for name in ("ablations", "workflow", "results/published"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def start(folder: Path) -> subprocess.Popen:
    with open(folder / "run.log", "a") as log:
        return subprocess.Popen(RUN, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finished_jobs(folder: Path) -> int:
    """How many outputs are there. Folders may vanish under this: os.walk passes over them, Path.glob does not."""
    count = 0
    for place, folders, files in os.walk(folder / "results" / "smoke"):
        folders[:] = [name for name in folders if name not in ("work", "tables", "v1.0-mini", "samples", "sweeps")]
        whole = not place.endswith(".partial")
        count += sum(whole and (name in OUTPUTS or name.endswith(".jsonl")) for name in files)
    return count


def kill_family(process: subprocess.Popen, folder: Path) -> None:
    """SIGKILL for the command, Snakemake and its jobs, also for a job that was born while the others died."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for pid in [process.pid, *(child.pid for child in family)]:
        _kill(pid)
    process.wait()
    while workers := workers_in(folder):
        for pid, _ in workers:
            _kill(pid)
        time.sleep(0.1)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


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
        kill_family(process, folder)
        states.append(f"{moment:.1f} s, {finished_jobs(folder)} jobs done, at work: {', '.join(jobs) or 'none'}")
    process = start(folder)
    process.wait(timeout=LIMIT_S)
    assert process.returncode == 0, (folder / "run.log").read_text()
    return states


def steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in UNSTEADY}
    return [steady(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, list[dict]]:
    """The records of every run by file, without what a clock decides; of a measurement only that it went well."""
    results = folder / "results" / "smoke"
    found = {}
    for file in sorted(results.rglob("*.jsonl")):
        records = [record.to_dict() for record in read_run(file)]
        for record in records:
            cost = record.pop("cost", None) or {}
            record["parameters"] = cost.get("parameters")
        found[str(file.relative_to(results))] = steady(records)
    return found


@pytest.mark.slow
def test_ten_kills_leave_the_same_records(tmp_path):
    quiet, stormy = (copy_checkout(tmp_path / name) for name in ("quiet", "stormy"))
    startup, done = undisturbed(quiet)
    states = disturbed(stormy, startup, done)
    print("\n".join(states))
    assert len(set(states)) == KILLS
    expected, found = contents(quiet), contents(stormy)
    assert len(expected) == 8 and sorted(found) == sorted(expected)
    trained = expected["base/seed0/train.jsonl"][0]
    assert trained["curve"] and len(trained["provenance"]["checkpoint_sha256"]) == 64, "nothing would be compared"
    for file, records in expected.items():
        assert all(record["status"] == "ok" for record in records), file
        assert found[file] == records, file
