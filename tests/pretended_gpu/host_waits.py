"""The baseline of host waits (host_waits.json), how counts compare with it, and the command that renews it:

python tests/pretended_gpu/host_waits.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from model_cases import WAITS

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "host_waits.json"
RENEW = "python tests/pretended_gpu/host_waits.py"
LINES = 12  # of the places that wait most, in a message


def load_baseline() -> dict[str, Any]:
    """``{model: {"training" | "inference": {"waits" | "uploads": {"file function: what": count}}}}``."""
    return json.loads(BASELINE.read_text(encoding="utf-8"))


def compared(name: str, counts: dict[str, Any], baseline: dict[str, Any]) -> str | None:
    """None where the sums are those of the baseline, else what differs and what to do.

    Args:
        name: of the model.
        counts: as the baseline has it for a model, with ``lines``: the places that wait, the most frequent first.
    """
    if name not in baseline:
        return f"{BASELINE.name} has no model '{name}'; renew it: {RENEW}"
    messages = []
    for step, kinds in baseline[name].items():
        for kind, places in kinds.items():
            before, now = sum(places.values()), sum(counts[step][kind].values())
            if before == now:
                continue
            changes = [
                f"  {places.get(place, 0)} -> {counts[step][kind].get(place, 0)}  {place}"
                for place in sorted({*places, *counts[step][kind]})
                if places.get(place, 0) != counts[step][kind].get(place, 0)
            ]
            todo = "fewer than the baseline has" if now < before else "more: do without them"
            messages += [f"{name}, {step}: {now} {kind}, {before} in {BASELINE.name} ({todo})", *changes]
            if kind == "waits":
                messages += ["lines that wait:", *(f"  {line}" for line in counts[step]["lines"][:LINES])]
    return "\n".join([*messages, f"If that is meant, renew the baseline: {RENEW}"]) if messages else None


def main() -> int:
    """Count anew and write the baseline; prints the sums."""
    sys.path.insert(0, str(HERE))
    from pretended_cuda import environment, unavailable

    if reason := unavailable():
        raise SystemExit(f"error: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        command = [sys.executable, str(HERE / "run_models.py"), str(out), *(case.name for case in WAITS)]
        subprocess.run(command, env=environment(HERE.parents[1]), check=True)
        results = json.loads(out.read_text())
    baseline: dict[str, Any] = {}
    for name, result in results.items():
        if result["error"]:
            raise SystemExit(f"error: '{name}' cannot be counted:\n{result['error']}")
        for facts in result["facts"].values():
            del facts["lines"]
        baseline[name] = result["facts"]
        sums = {
            f"{step} {kind}": sum(n.values()) for step, kinds in baseline[name].items() for kind, n in kinds.items()
        }
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in sums.items()))
    BASELINE.write_text(json.dumps(baseline, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
