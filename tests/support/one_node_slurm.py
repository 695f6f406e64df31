"""A Slurm cluster of one node, with daemons and a configuration of its own, for as long as a test needs it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
LIKE_CHILDREN = ("setpriv", "--pdeathsig", "TERM")  # they end with the tests, also where these are killed
SEARCHED = f"{os.environ['PATH']}:/usr/sbin:/sbin"
# config_overrides: the node is taken to be as large as it says here, whatever the machine has, so that the profile's
# requests fit. The GPUs are counted; no device is behind them.
# Of Snakemake: jobs of a second, on one machine; the profile's waits are for clusters.
FAST = ("--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "8", "--seconds-between-status-checks", "1")
NOT_GPUS = ("null", "zero", "full", "random")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket}
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,bf_interval=1
ReturnToService=2
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=256000 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; None if there can."""
    for name in (*DAEMONS, *CLIENTS, LIKE_CHILDREN[0]):
        if shutil.which(name, path=SEARCHED) is None:
            return f"{name} is not installed (Debian: slurmctld slurmd slurm-client munge)"
    if find_spec("snakemake_executor_plugin_slurm") is None:
        return "snakemake-executor-plugin-slurm is not installed (requirements-slurm.lock)"
    return None if os.geteuid() == 0 else "the daemons need root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd in ``folder``, stop them at the end. Yields the environment for clients."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o711)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    munge = folder / "munge" / "socket"
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, socket=munge, folder=folder, ports=free_ports(2))
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{name}\n" for name in NOT_GPUS))
    # The plugin clears SLURM_* inside a job, and with it the way to a configuration that is not in /etc: srun is told.
    shim = folder / "bin" / "srun"
    shim.parent.mkdir()
    real = shutil.which("srun", path=SEARCHED)
    shim.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
    shim.chmod(0o755)
    env = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{shim.parent}:{SEARCHED}"}
    # --force: the folders above the socket belong to the test, not to a user munge.
    own = ["--foreground", "--force", "--socket", munge, "--key-file", key]
    own += [f"--{name}-file={folder}/munge/{name}" for name in ("pid", "log", "seed")]
    with ExitStack() as running:
        running.enter_context(daemon(["munged", *own], folder, env))
        wait_for(munge.exists, 20, folder)
        running.enter_context(daemon(["slurmctld", "-D", "-i"], folder, env))
        running.enter_context(daemon(["slurmd", "-D"], folder, env))
        wait_for(lambda: " idle" in client(env, "sinfo", "-h", "-o", "%n %T"), 60, folder)
        yield env


@contextmanager
def daemon(command: list, folder: Path, env: dict[str, str]) -> Iterator[None]:
    with open(folder / f"{command[0]}.out", "w") as out:
        process = subprocess.Popen([*LIKE_CHILDREN, *map(str, command)], env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def client(env: dict[str, str], *command: str) -> str:
    """What a client of Slurm prints; empty where it fails."""
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60).stdout


def jobs(env: dict[str, str]) -> list[dict[str, str]]:
    """Every job since the cluster's start, the fields by the names that ``scontrol show job`` gives them."""
    text = client(env, "scontrol", "show", "job", "--oneliner")
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.startswith("JobId")]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(condition, seconds: float, folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        logs = [f"{f.name}:\n{f.read_text()[-2000:]}" for f in [*folder.glob("*.out"), *folder.glob("*.log")]]
        assert time.monotonic() < deadline, "\n".join(logs)
        time.sleep(0.3)
