"""Files that a training starts from and that no run here has made: published weights, pretrained image backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aqr_bench.console import print_warning
from aqr_bench.engine.weights import write_weights
from aqr_bench.errors import UserError
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.requirements import PUBLISHED_BY
from aqr_bench.study.settings import initial_file
from aqr_bench.study.spec import Schedule, Tier

BACKBONE, HEAD = "img_backbone.", "pts_bbox_head."


def initial_checkpoint(tier: Tier, schedule: Schedule) -> Path | None:
    """The file that the schedule starts from; None if it starts from a training of ours, or from nothing.

    Raises:
        RuntimeError: it is not there. A single missing file is a failed run, not the end of all of them.
    """
    path = initial_file(schedule)
    if path is not None and not path.is_file():
        key = next(key for key in ("checkpoint", "branches", "backbone") if getattr(schedule, key) == path)
        name = f"models.{schedule.model or tier.model}.{key}"
        raise RuntimeError(f"{tier.path.name}: {name}: no file {path}. Published by {PUBLISHED_BY}")
    return path


def load_initial_weights(
    path: Path, schedule: Schedule, model: str, work: Path, classes: Sequence[str]
) -> tuple[Path, dict[str, Any]]:
    """A published file as a checkpoint that the model loads, in ``work``, and what the record says about it.

    Raises:
        RuntimeError: the file cannot be read, does not fit the model, or was trained on other ``classes``.
    """
    facts = {"kind": schedule.init, "file": path.name, "sha256": sha256_file(path), "doubts": []}
    out = work / "start.pth"
    try:
        if schedule.init == "published":
            facts["doubts"] = _convert(path, model, out, classes)
        elif schedule.branches is not None:
            facts.update(kind="branches", doubts=_convert(path, model, out, classes))
            state = {name: tensor for name, tensor in _state(out).items() if not name.startswith(HEAD)}
            _write(state, out, path)
        else:
            facts["kind"] = "backbone"
            _write({n: t for n, t in _state(path).items() if n.startswith(BACKBONE)}, out, path)
    except UserError as error:
        raise RuntimeError(str(error)) from error
    for doubt in facts["doubts"]:
        print_warning(f"{path}: {doubt}")
    return out, facts


def _convert(path: Path, model: str, out: Path, classes: Sequence[str]) -> list[str]:
    """Write the weights as the config ``model`` wants them; returns what speaks against using them for it."""
    from aqr_bench import compat

    compat.prepare()
    from aqr_bench.cmt.published_weights import PUBLISHED_CONFIGS, warnings_for
    from aqr_bench.engine.checkpoint import check_trained_classes, convert, read_checkpoint

    checkpoint = read_checkpoint(path)
    check_trained_classes(checkpoint, classes)
    if model not in PUBLISHED_CONFIGS:
        _write(dict(checkpoint.state), out, path)
        return []
    convert(path, out, model, force=True)
    return warnings_for(checkpoint.meta, model)


def _state(path: Path) -> dict[str, Any]:
    from aqr_bench.engine.checkpoint import read_checkpoint, usable_weights

    return dict(usable_weights(read_checkpoint(path)))


def _write(state: dict[str, Any], out: Path, source: Path) -> None:
    if not state:
        raise UserError(f"{source}: no weights of an image backbone ('{BACKBONE}*') or of branches in it")
    # Copies: a tensor may be a window into the mapped file, all of which would be written.
    write_weights(out, {name: tensor.clone() for name, tensor in state.items()})
