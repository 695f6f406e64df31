"""Does a heavy package work? Each is imported in a separate process, where a broken one does no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 180  # the first import after an installation compiles bytecode, on slow disks for minutes

# Each prints one JSON object on its last line. What it computes is the least that a broken build cannot.
SCRIPTS = {
    "torch": """
import json, torch
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": [], "gpu_error": None}
float(torch.ones(2, 2).mm(torch.ones(2, 2)).sum())
try:
    if torch.cuda.is_available():
        float(torch.ones(2, 2, device="cuda").mm(torch.ones(2, 2, device="cuda")).sum())
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
except Exception as error:
    facts["gpu_error"] = str(error).strip().splitlines()[0]
print(json.dumps(facts))
""",
    "mmcv": """
import json, mmcv
from aqr_bench.compat import has_compiled_mmcv
compiled = has_compiled_mmcv()
if compiled:
    import torch, mmcv._ext
print(json.dumps({"version": mmcv.__version__, "compiled": compiled}))
""",
    "mmdet3d": """
import json
from aqr_bench.compat import prepare
prepare()
import mmdet3d, mmdet3d.models
print(json.dumps({"version": mmdet3d.__version__}))
""",
    "spconv": """
import json, spconv, spconv.pytorch
from spconv.cppconstants import CPU_ONLY_BUILD
print(json.dumps({"version": spconv.__version__, "cuda": not CPU_ONLY_BUILD}))
""",
    "nuscenes-devkit": """
import importlib.metadata, json
from nuscenes import NuScenes
from nuscenes.eval.detection.evaluate import DetectionEval
print(json.dumps({"version": importlib.metadata.version("nuscenes-devkit")}))
""",
}


@dataclass(frozen=True)
class ImportResult:
    """``error``: why the package does not work, in one line; None if it does, and then ``facts`` are known.

    ``slow``: it was stopped. The first import compiles bytecode, so a second one may work.
    """

    error: str | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False


def check_import(script: str, timeout_s: float = TIMEOUT_S) -> ImportResult:
    """Run a script in a fresh interpreter; whatever it does, a crash or a hang included, comes back as a value."""
    # PyTorch and OpenCV start a thread per core otherwise, for nothing.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return ImportResult(
            f"did not import within {timeout_s:.0f} s, on a busy machine or for the first time", slow=True
        )
    except OSError as error:
        return ImportResult(f"{sys.executable} could not be started ({error})")
    if done.returncode < 0:
        return ImportResult(f"its import was ended by signal {-done.returncode}")
    lines = [line.strip() for line in (done.stderr if done.returncode else done.stdout).splitlines() if line.strip()]
    last = lines[-1] if lines else f"its import ended with code {done.returncode} and printed nothing"
    if done.returncode:
        return ImportResult(last)
    try:
        return ImportResult(None, json.loads(last))
    except json.JSONDecodeError:
        return ImportResult(f"its import printed '{last[:80]}' and no version")


def check_imports(names: Sequence[str] = tuple(SCRIPTS)) -> dict[str, ImportResult]:
    """Check several packages, as many at once as there are cores."""
    with ThreadPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(check_import, (SCRIPTS[name] for name in names)), strict=True))
