"""Where a number comes from: hashes of config, code and data, package versions, and the machine the job ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aqr_bench.errors import UserError
from aqr_bench.folders import is_installed, shipped_folder
from aqr_bench.records.blamed_file import BLAMED, blamed_file
from aqr_bench.study.hashes import sha256_file

if TYPE_CHECKING:
    from aqr_bench.records.job import Job
    from aqr_bench.records.request import Request

PACKAGES = (
    "aqr-bench",
    "torch",
    "numpy",
    "mmengine",
    "mmcv",
    "mmcv-lite",
    "mmdet",
    "mmdet3d",
    "nuscenes-devkit",
    "spconv",
    *(f"spconv-cu{version}" for version in (114, 118, 120, 121, 124, 126)),
    "opencv-python",
    "opencv-python-headless",
)
JOB_HASHES = ("config_sha256", "code_sha256", "data_sha256", "infos_sha256")
# Settings of the process that may show in the last bits of a result, or are suspected of it.
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "AQR_THREADS", "PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES")


def utc_now() -> str:
    """Current time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------- the machine and the software


def machine() -> dict[str, Any]:
    """CPU, cores, memory, GPU, host, system and threads of this very process."""
    import psutil

    facts: dict[str, Any] = {
        "host": platform.node(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "release": platform.release(),
        "python": platform.python_version(),
        "gpu": None,
        "torch_threads": None,
    }
    # Importing torch only to describe the machine would cost seconds; a job that used it has it loaded.
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name(0)
            facts["gpu_count"] = torch.cuda.device_count()
            facts["cuda"] = torch.version.cuda
    return facts


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _tf32() -> bool | None:
    """Whether this process lets float32 products on a GPU use TF32; None where torch was not used."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.backends.cuda.matmul.allow_tf32


def packages() -> dict[str, str]:
    """Versions of the packages that a result depends on; those not installed are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any]:
    """``git_commit`` and ``git_dirty`` of the checkout; both None outside git or before the first commit.

    And of an installed package: a repository that its environment lies in is not the one it comes from.
    """
    nothing = {"git_commit": None, "git_dirty": None}
    if is_installed():
        return nothing
    try:
        root = shipped_folder()
        head = _git(root, "rev-parse", "HEAD")
        # Untracked files count as dirty only where they can change a result.
        changes = _git(root, "status", "--porcelain", "--", "aqr_bench", "ablations", "workflow", "Snakefile")
    except (UserError, OSError, subprocess.SubprocessError):
        return nothing
    return {"git_commit": head, "git_dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True)
    return done.stdout.strip()


def portable_path(path: str | Path) -> str:
    """A path without this machine in it: relative to the working folder or what ships, else ``<elsewhere>/name``.

    To the inner one of the two: an environment may lie in the working folder, and a checkout around it.
    """
    path = Path(path)
    if not path.is_absolute():
        return path.as_posix()
    for base in sorted((Path.cwd(), shipped_folder()), key=lambda folder: len(folder.parts), reverse=True):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return f"<elsewhere>/{path.name}"


def command_line() -> str:
    """The command that started this process, as one would type it in the working folder."""
    words = list(sys.orig_argv)
    if words:
        words[0] = "python"

    def portable(word: str) -> str:
        option, equals, value = word.partition("=")
        if equals and option.startswith("-") and value.startswith("/"):
            return f"{option}={portable_path(value)}"
        return portable_path(word) if word.startswith("/") else word

    # Only what a shell would take apart is quoted, so that the usual command reads as it was typed.
    return " ".join(shlex.quote(w) if set(w) & set(" \t\n'\"\\") else w for w in map(portable, words))


def provenance(
    job: Job | None = None,
    *,
    request: Request | None = None,
    seed: int | None = None,
    started: str | None = None,
    input_sha256: str | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_sha256: str | None = None,
    predictions_sha256: str | None = None,
    command: str | None = None,
    files: Mapping[str, str | Path] = MappingProxyType({}),
    loader_workers: int | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """The ``provenance`` part of a record; call it at the end of the job, in the process that did the work.

    ``request``: what the record was asked to be, by which it is known as current later.
    ``started`` is ``utc_now()`` taken at the start. A checkpoint given without its hash is hashed here. What is not
    known stays None. ``files``: by role, what else the result came from: tier, study, suite, checkpoints to start from.
    ``reason``: of a failure; the sensor file that it names is kept as it is now.
    """
    if checkpoint is not None and checkpoint_sha256 is None:
        checkpoint_sha256 = sha256_file(checkpoint)
    blamed = blamed_file(reason)
    return {
        **{name: getattr(job, name, None) for name in JOB_HASHES},
        **({} if request is None else {"request": request.to_dict()}),
        "input_sha256": input_sha256,
        "checkpoint": None if checkpoint is None else portable_path(checkpoint),
        "checkpoint_sha256": checkpoint_sha256,
        "predictions_sha256": predictions_sha256,
        "files": {role: file_facts(path) for role, path in files.items()},
        "loader_workers": loader_workers,
        "tf32": _tf32(),
        **git_state(),
        "command": command_line() if command is None else command,
        "started": started,
        "finished": utc_now(),
        "seed": seed,
        "packages": packages(),
        "machine": machine(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        **({} if blamed is None else {BLAMED: blamed}),
    }


def file_facts(path: str | Path) -> dict[str, str | None]:
    """Where a file lies, without this machine in it, and its SHA-256; None for a file that is not there."""
    file = Path(os.path.normpath(path))
    return {"path": portable_path(file), "sha256": sha256_file(file) if file.is_file() else None}
