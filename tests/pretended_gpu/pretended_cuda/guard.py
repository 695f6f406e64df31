"""The compiled device guard (guard.cpp) and the environment in which every Python process has the pretended GPU.

Imports no torch: a process has to load the guard before torch, or autograd does not learn of the device.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "guard.cpp"
LIBRARY = "AQR_PRETENDED_GPU"  # environment: the compiled guard; a process that has it pretends
EVENTS = "AQR_PRETENDED_GPU_EVENTS"  # environment: folder for what was refused or wrong, one file per process
REPORT = "AQR_PRETENDED_GPU_REPORT"  # environment: if set, each process prints all counters as it ends


def unavailable() -> str | None:
    """Why this machine cannot pretend, or None if it can."""
    if compiler() is None:
        return "the pretended GPU needs a C++ compiler (c++, g++ or clang++), none is installed"
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return "torch is not installed"
    if (torch_folder() / "lib" / "libtorch_cuda.so").is_file():
        return "torch is a CUDA build, which has the device already; the pretended GPU needs a CPU build"
    return None


def compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of c++, g++ and clang++."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def torch_folder() -> Path:
    """Where torch is installed; torch is not imported."""
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])


def library() -> Path:
    """The compiled guard, from the user's cache or built now.

    Raises:
        RuntimeError: the compiler fails; its messages are in the text.
    """
    torch = torch_folder()
    parts = (SOURCE.read_bytes(), importlib.metadata.version("torch").encode(), os.fsencode(torch))
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aqr-bench" / "pretended_gpu"
    path = cache / f"guard-{key}.so"
    if path.is_file():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    # Test processes may build at the same time: each builds under a name of its own, and renaming is atomic.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        built = Path(folder) / path.name
        command = [compiler(), "-O1", "-shared", "-fPIC", "-std=c++20", str(SOURCE), "-o", str(built)]
        command += [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
        command += [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile against torch in {torch}:\n{done.stderr[-3000:]}")
        os.replace(built, path)
    return path


def environment(checkout: Path, events: Path | None = None) -> dict[str, str]:
    """Environment variables with which a Python process, and every one that it starts, has the pretended GPU.

    Args:
        checkout: folder that holds the package ``aqr_bench``.
        events: folder in which each process leaves what was refused or wrong (``counters.write_events``).
    """
    folders = [HERE / "startup", HERE.parent, checkout]
    inherited = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    pretended = {LIBRARY: str(library()), "OMP_NUM_THREADS": "1"}
    pretended["PYTHONPATH"] = os.pathsep.join([*map(str, folders), *inherited])
    if events is not None:
        events.mkdir(parents=True, exist_ok=True)
        pretended[EVENTS] = str(events)
    return {**os.environ, **pretended}
