"""Checkpoints of trainings: written, read weights-only, merged, loaded into a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aqr_bench.atomic import atomic_write
from aqr_bench.errors import join_names, short
from aqr_bench.foreign_files import placeholder_at
from aqr_bench.records.record import Record, not_started_reason, read_records
from aqr_bench.study.hashes import sha256_file

MAX_WEIGHT = 1e19  # the square of a larger one is infinite in float32, and so is what it is multiplied into
NEW_PARAMETERS = ("pts_bbox_head.aqr.",)  # what a variant may have that its base has not


def trained_checkpoint(record_path: str | Path) -> Path:
    """Checkpoint that a train record names; RuntimeError if that training failed or its checkpoint changed."""
    record = read_records(record_path)[0]
    if reason := start_failure(record):
        raise RuntimeError(reason)
    return verified_checkpoint(record, record_path)


def start_failure(record: Record) -> str | None:
    """Why a training cannot start from the training of this record: it failed. None if it is ok."""
    name = record.extra.get("pretrain")
    return not_started_reason(f"pretraining {name}" if name else "base training", record)


def verified_checkpoint(record: Record, record_path: str | Path) -> Path:
    """The checkpoint file of a train record, if it is there and still the one that was written."""
    name = record.provenance.get("checkpoint")
    path = Path(record_path).parent / name if name else None
    if path is None or not path.is_file():
        raise RuntimeError(f"checkpoint is missing: {name}")
    if sha256_file(path) != record.provenance.get("checkpoint_sha256"):
        raise RuntimeError(f"checkpoint {name} is not the one that its record describes (SHA-256 differs)")
    return path


def merged_weights(checkpoints: Sequence[Path], out: Path) -> Path:
    """One checkpoint of several, as it is if there is but one."""
    if len(checkpoints) == 1:
        return checkpoints[0]
    weights: dict = {}
    for checkpoint in checkpoints:
        weights.update(weights_of(checkpoint))
    return write_weights(out, weights, iterations=0)


def weights_of(checkpoint: Path) -> dict[str, Any]:
    """The weights in a checkpoint of ours.

    Raises:
        RuntimeError: the file holds none, more than data, or weights that are not finite; it and they are named.
    """
    import torch

    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # a damaged file makes torch raise nearly anything
        if (kind := placeholder_at(checkpoint)) is not None:
            raise RuntimeError(f"{checkpoint} is {kind.name}. {kind.remedy}") from error
        reason = str(error).rpartition("Trying to load")[2].partition(".\n")[0].strip() or type(error).__name__
        raise RuntimeError(f"{checkpoint} cannot be read as a checkpoint ({short(reason, 160)})") from error
    if fault := weights_fault(weights):
        raise RuntimeError(f"{checkpoint} cannot be used: {fault}")
    return weights


def weights_fault(weights: Mapping[str, Any]) -> str | None:
    """Which weights cannot be used: not finite, or above ``MAX_WEIGHT``. A detector with one detects nothing."""
    import torch

    bad = []
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            low, high = (float(limit) for limit in torch.aminmax(value))  # NaN where there is one
            if not max(-low, high) <= MAX_WEIGHT:
                bad.append(f"{name} (from {low:.3g} to {high:.3g})")
    if not bad:
        return None
    return f"{len(bad)} of {len(weights)} weights are not finite or above {MAX_WEIGHT:g}: {join_names(bad)}"


def final_weights(runner: Any) -> dict:
    """The averaged weights if the run kept an exponential moving average, else the model's own.

    Raises:
        DivergedError: they are not finite, which no loss shows: the last one is of the weights before the last step.
    """
    from mmengine.hooks import EMAHook

    from aqr_bench.engine.hooks import DivergedError

    averaged = [h for h in runner.hooks if isinstance(h, EMAHook)]
    model = averaged[0].ema_model.module if averaged else inner_model(runner)
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    if fault := weights_fault(weights):
        raise DivergedError(f"after the last iteration, {runner.iter}, {fault}")
    return weights


def inner_model(runner: Any) -> Any:
    """The model itself, which is wrapped where several processes train."""
    from mmengine.model import is_model_wrapper

    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def load_weights(model: Any, checkpoint: Path, complete: bool = True) -> None:
    """Load a checkpoint weights-only; no weight may be left over; if ``complete``, only AQR's may be missing."""
    state = weights_of(checkpoint)
    result = model.load_state_dict(state, strict=False)
    missing = [k for k in result.missing_keys if complete and not k.startswith(NEW_PARAMETERS)]
    unexpected = [k for k in result.unexpected_keys if not k.startswith(NEW_PARAMETERS)]
    if missing or unexpected:
        raise RuntimeError(f"{checkpoint} does not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def write_weights(path: str | Path, weights: Mapping[str, Any], **meta: Any) -> Path:
    """Write ``{"state_dict": weights, "meta": meta}`` as torch does, whole or not at all.

    A tensor that is a window into larger storage takes all of that along: give a copy.
    """
    import torch

    # Through a file of Python's: torch's own writer says nothing of a full disk.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save({"state_dict": weights, "meta": meta}, file)
    return Path(path)
