"""No two jobs at work share a GPU, whatever they ask for and however they end; none waits for ever."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from aqr_bench.cli import gpu_slots
from aqr_bench.cli.gpu_devices import visible_gpus
from aqr_bench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOUR = visible_gpus({"AQR_BENCH_GPUS": "4"})
# A job: locks a file for each of its GPUs, which fails if another job is using it, writes what it saw, stays a while.
JOB = """
import fcntl, json, os, sys, time
gpus, files, shared = os.environ["CUDA_VISIBLE_DEVICES"].split(","), [], []
for gpu in gpus:
    files.append(open("busy-" + gpu, "w"))
    try:
        fcntl.flock(files[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        shared.append(gpu)
with open("log", "a") as log:
    log.write(json.dumps({"pid": os.getpid(), "gpus": gpus, "shared": shared}) + chr(10))
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder for the jobs' files, with a temporary folder of its own, so that runs on this machine do not count."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def start(place: Path, count: int, *command: str, gpus: int = 4, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AQR_BENCH_GPUS": str(gpus)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    call = [sys.executable, "-m", "aqr_bench", "gpu-slots", str(count), "--", *command]
    return subprocess.Popen(call, cwd=place, env=environment, text=True, **options)


def job(place: Path, count: int, seconds: float) -> subprocess.Popen:
    return start(place, count, sys.executable, "-S", "-c", JOB, str(seconds))


def log(place: Path) -> list[dict]:
    """Complete lines; a job may be writing."""
    file = place / "log"
    return (
        [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")] if file.exists() else []
    )


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"not within two minutes: {what}"
        time.sleep(0.02)


def free(place: Path) -> set[str]:
    return {gpu.entry for gpu in FOUR} - {gpu.entry for gpu in gpu_slots.taken_gpus(FOUR, gpu_slots.lock_folder())}


def test_many_jobs_of_one_and_two_gpus_some_killed_never_share_one(place):
    # Every fifth stays for ever, until it is killed in the middle of its work.
    counts = [1 + (number % 3 == 0) for number in range(25)]
    lasting = {number for number in range(25) if number % 5 == 0}
    jobs = [job(place, count, 600 if number in lasting else 0.02) for number, count in enumerate(counts)]
    doomed = {jobs[number].pid: jobs[number] for number in lasting}

    def kill_those_at_work() -> bool:
        for line in log(place):
            if line["pid"] in doomed:
                doomed.pop(line["pid"]).kill()
        return not doomed

    wait_until(kill_those_at_work, "the lasting jobs get their GPUs")
    codes = [process.wait(120) for process in jobs]
    assert codes == [-signal.SIGKILL if number in lasting else 0 for number in range(25)]
    seen = {line["pid"]: line for line in log(place)}
    assert len(seen) == 25 and not any(line["shared"] for line in seen.values())
    assert [len(set(seen[process.pid]["gpus"])) for process in jobs] == counts
    assert {gpu for line in seen.values() for gpu in line["gpus"]} <= {"0", "1", "2", "3"}
    assert free(place) == {"0", "1", "2", "3"}
    assert sorted(path.name for path in gpu_slots.lock_folder().iterdir()) == ["mutex", "slots"]


def test_a_gpu_is_taken_as_long_as_any_process_of_the_job_lives(place):
    # As torchrun does: the worker inherits standard input alone, and outlives a launcher that is killed.
    worker = "import sys, time; print('at work', flush=True); time.sleep(600)"
    launcher = (
        f"import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {worker!r}]); print(p.pid); p.wait()"
    )
    process = start(place, 1, sys.executable, "-u", "-c", launcher, stdout=subprocess.PIPE)
    pid = int(next(line for line in process.stdout if line.strip().isdecimal()))
    process.kill()
    process.wait()
    try:
        assert len(free(place)) == 3
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(free(place)) == 4, "the worker's end frees the GPU")


def test_one_that_needs_two_is_not_passed_by_and_takes_none_before_it_has_both(place):
    folder = gpu_slots.lock_folder()
    holders = [gpu_slots.acquire(FOUR, 1, folder)[0] for _ in range(4)]
    steps = []

    def later() -> None:
        """Of the one that waits for two: another comes after it, for one, while GPUs become free one by one."""
        steps.append(len(holders))
        if len(steps) == 2:
            os.close(holders.pop())
            assert len(free(place)) == 1  # nothing is hoarded
            with pytest.raises(StopWaiting):
                gpu_slots.acquire(FOUR, 1, folder, wait=stop)  # the free one is for who came first
        if len(steps) == 3:
            os.close(holders.pop())

    _, taken = gpu_slots.acquire(FOUR, 2, folder, wait=later)
    assert len(taken) == 2 and steps == [4, 4, 3]


class StopWaiting(Exception):
    pass


def stop() -> None:
    raise StopWaiting


def test_waiting_for_some_gpus_does_not_keep_others_from_the_rest(place):
    folder = gpu_slots.lock_folder()
    gpu_slots.acquire(FOUR[:1], 1, folder)
    with pytest.raises(StopWaiting):
        gpu_slots.acquire(FOUR[:1], 1, folder, wait=stop)
    _, taken = gpu_slots.acquire(FOUR, 1, folder, wait=stop)
    assert taken == FOUR[1:2]


def test_a_waiting_process_that_is_killed_leaves_no_gap_in_the_queue(place):
    holder, _ = gpu_slots.acquire(FOUR, 4, gpu_slots.lock_folder())
    waiting = start(place, 4, "true", stderr=subprocess.PIPE)
    assert "waiting for 4 of the GPUs 0, 1, 2, 3" in waiting.stderr.readline()
    waiting.kill()
    waiting.wait()
    after = job(place, 1, 0)
    os.close(holder)
    assert after.wait(120) == 0 and log(place)[0]["shared"] == []


def test_the_job_sees_its_gpu_alone_and_its_exit_code_is_passed_on(place):
    done = start(place, 1, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; cat; exit 7", stdout=subprocess.PIPE)
    assert done.communicate(timeout=60)[0] == "0\n" and done.returncode == 7
    none = start(place, 0, "sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES-unset}"', stdout=subprocess.PIPE)
    assert none.communicate(timeout=60)[0] == "\n"


def test_without_a_gpu_the_command_runs_as_it_is_and_nothing_is_locked(place):
    done = start(place, 8, "sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES-unset}"', gpus=0, stdout=subprocess.PIPE)
    assert done.communicate(timeout=60)[0] == "unset\n" and list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "command", "message"),
    [
        (5, "true", "error: 5 GPUs are needed, 4 visible here (0, 1, 2, 3). Make more of them visible"),
        (1, "no-such-command", "error: cannot start no-such-command: No such file or directory"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_2(place, count, command, message):
    done = start(place, count, command, stderr=subprocess.PIPE)
    output = done.communicate(timeout=60)[1]
    assert done.returncode == 2 and output.startswith(message) and output.count("\n") == 1
    assert free(place) == {"0", "1", "2", "3"}


def test_jobs_of_slurm_have_folders_of_their_own(place):
    one, two = (gpu_slots.lock_folder({"SLURM_JOB_ID": number}) for number in ("11", "12"))
    gpu_slots.acquire(FOUR, 4, one)
    assert gpu_slots.acquire(FOUR, 4, two, wait=stop)[1] == FOUR
    assert gpu_slots.lock_folder({"SLURM_JOB_ID": "../x"}).parent == one.parent
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in (one, two, one.parent))


def test_a_folder_that_is_not_ours_alone_is_refused(place, monkeypatch):
    folder = place / f"aqr-bench-gpus-{os.geteuid()}"
    (place / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(place / "elsewhere")
    with pytest.raises(UserError, match=f"{folder} cannot hold the locks of GPUs: it is no folder. Remove it, or set"):
        gpu_slots.lock_folder()
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match=r"others may write to it \(mode 777\)"):
        gpu_slots.lock_folder()
    folder.chmod(0o700)
    owner = os.geteuid()
    facts = folder.lstat()
    foreign = os.stat_result([*facts[:4], owner + 1, *facts[5:10]])
    monkeypatch.setattr(Path, "lstat", lambda _: foreign)
    with pytest.raises(UserError, match=f"it belongs to user {owner + 1}, not to {owner}"):
        gpu_slots.lock_folder()


def test_a_temporary_folder_that_is_not_there_is_one_clear_line(place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(place / "gone"))
    with pytest.raises(UserError, match=r"cannot make the folder .*/gone/.* .No such file or directory.. Set TMPDIR"):
        gpu_slots.lock_folder()

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(UserError, match="no folder for the locks of GPUs: No usable temporary directory"):
        gpu_slots.lock_folder()


def test_the_list_says_which_are_taken(place, monkeypatch, capsys):
    monkeypatch.setenv("AQR_BENCH_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu_slots.acquire(FOUR[:2], 1, gpu_slots.lock_folder())
    assert gpu_slots.main(["--list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("0", "taken"), ("1", "free")]
    assert gpu_slots.main(["--list", "--json"]) == 0
    assert [(gpu["name"], gpu["taken"]) for gpu in json.loads(capsys.readouterr().out)["gpus"]] == [
        ("0", True), ("1", False),
    ]  # fmt: skip


def test_it_starts_without_anything_heavy():
    heavy = ("torch", "numpy", "mmengine", "yaml", "snakemake", "psutil")
    code = f"import sys, aqr_bench.cli.gpu_slots; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n"
