"""Run a Python program with the pretended GPU and print what happened on it:

python tests/pretended_gpu/pretend.py SCRIPT.py [ARGUMENT ...]
python tests/pretended_gpu/pretend.py -m MODULE [ARGUMENT ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(argv: list[str]) -> None:
    """Replace this process by the program; exits with a message where the GPU cannot be pretended."""
    sys.path.insert(0, str(HERE))
    from pretended_cuda import environment, unavailable
    from pretended_cuda.guard import REPORT

    if not argv:
        raise SystemExit(__doc__)
    if reason := unavailable():
        raise SystemExit(f"error: {reason}")
    os.execve(sys.executable, [sys.executable, *argv], {**environment(HERE.parents[1]), REPORT: "1"})


if __name__ == "__main__":
    main(sys.argv[1:])
