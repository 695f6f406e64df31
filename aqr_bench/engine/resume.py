"""Where a killed training resumes: from the newest valid checkpoint in its work folder, or from the start.

A checkpoint may be half written (the process was killed, the disk was full) or damaged later. torch's files are zip
archives with a check sum for each entry, so that this is known before anything is loaded.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aqr_bench.errors import UserError
from aqr_bench.records.record import status_of

_NAME = re.compile(r"(?:iter|epoch)_(\d+)\.pth$")


def latest_valid_checkpoint(work: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, None to start afresh, and a line for each file that had to be passed over.

    Args:
        work: folder of one training, as mmengine's CheckpointHook fills it.
    """
    if (damage := curve_damage(work / "curve.json")) is not None:
        return None, [f"{damage}; the training starts afresh"] if _checkpoints(work) else []
    passed = []
    for path in _checkpoints(work):
        damage = checkpoint_damage(path)
        if damage is None:
            return path, [f"{line}; going on from {path.name}" for line in passed]
        passed.append(f"checkpoint {path} is damaged ({damage})")
    return None, [f"{line}; the training starts afresh" for line in passed]


def checkpoint_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None; reads all of it.

    Weights that are not finite are damage: a training that diverged after it was written would diverge again for ever,
    also where what made it diverge is gone.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except FileNotFoundError:
        return "it is gone"
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError, RuntimeError) as error:
        # RuntimeError and NotImplementedError: a flipped bit that says encrypted, or packed by an unknown method.
        return " ".join(str(error).split()) or type(error).__name__
    if bad is not None:
        return f"the check sum of {bad} is wrong"
    from aqr_bench.engine.checkpoint import read_checkpoint, usable_weights

    try:
        usable_weights(read_checkpoint(path))
    except UserError as error:
        return error.message
    return None


def curve_damage(path: Path) -> str | None:
    """What is wrong with the loss curve that belongs to the checkpoints, or None, also where there is none yet."""
    if not path.is_file():
        return None
    try:
        points = json.loads(path.read_text(encoding="utf-8"))
        valid = all(len(point) == 2 and float(point[0]) > 0 for point in points)
    except (ValueError, TypeError) as error:
        return f"loss curve {path} is damaged ({error})"
    return None if valid else f"loss curve {path} is damaged (not pairs of iteration and loss)"


def _checkpoints(work: Path) -> list[Path]:
    """Checkpoints of mmengine in a folder, the newest first."""
    numbered = [(int(match[1]), path) for path in work.glob("*.pth") if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


@contextmanager
def name_resumed_checkpoint(checkpoint: Path | None) -> Iterator[None]:
    """Add to an error that a resumed training was resumed, and what to delete if that is what made it fail.

    A fault in a work folder fails every later call in the same way; only its reader can tell it from a fault elsewhere.
    """
    try:
        yield
    except Exception as error:
        if checkpoint is not None and status_of(error) == "failed":
            error.add_note(
                f"The training was resumed from {checkpoint.name}. If it fails like this each time it is resumed, "
                f"delete {checkpoint.parent} to start afresh."
            )
        raise
