"""How long a model is trained, with which overrides, and where its weights start: of a tier, and of one variant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aqr_bench.errors import UserError, nearest
from aqr_bench.study.overrides import merge_overrides
from aqr_bench.study.spec import Schedule

if TYPE_CHECKING:
    from aqr_bench.study.spec import Study, Tier


def tier_schedule(
    entry: Mapping[str, Any],
    init: str,
    path: Path,
    files: Mapping[str, Path] = MappingProxyType({}),
    memory_limit_mb: int | None = None,
) -> Schedule:
    """A tier's schedule for its base models or its variants.

    Args:
        entry: what the tier says under ``base`` or ``variant``.
        files: what its model starts from; with a checkpoint among them nothing is trained.
    Raises:
        UserError: a length for a training that does not take place.
    """
    length = {key: entry.get(key) for key in ("iterations", "epochs")}
    if "checkpoint" in files:
        if any(length.values()):
            raise UserError(f"{path}: base: has a length, but models.*.checkpoint says that nothing is trained")
        length, init = {"iterations": 0}, "published"
    return Schedule(config=entry.get("config", {}), init=init, memory_limit_mb=memory_limit_mb, **length, **files)


def model_of(tier: Tier, study: Study | None, variant: str | None) -> str:
    """The model config of a variant, or of the tier's base model where there is no study."""
    model = None if study is None or variant is None else variant_schedule(tier, study, variant).model
    return model or tier.model


def variant_schedule(tier: Tier, study: Study, variant: str) -> Schedule:
    """How one variant is trained: the tier's schedule for variants with what study and variant say about it.

    The config is the tier's, then the variant's. A variant that does not start from the base model is trained like a
    base model: the tier's overrides for base trainings count, not those for warm starts. One with a model config of its
    own is trained as that config says: the tier's overrides are for the tier's model.
    """
    if variant not in study.variants:
        raise UserError(f"{study.path}: unknown variant '{variant}'{nearest(variant, study.variants)}")
    entry = study.variants[variant]
    init, model, who = entry.init or tier.variant.init, entry.model or tier.model, f"{study.path}: variant '{variant}'"
    files = tier.models.get(model, {})
    if model != tier.model and init in ("base", "features"):
        raise UserError(f"{who} has another model than the tier: init must be 'published' or 'scratch', not '{init}'")
    if init == "published" and "checkpoint" not in files:
        init = "scratch"  # a tier without the checkpoint trains the model
    if init == "features" and not tier.pretrain:
        raise UserError(f"{who} starts from 'features', but {tier.path} has no 'pretrain'")
    like = tier.variant if init == "base" else tier.base if model == tier.model else Schedule(None)
    length = {"iterations": like.iterations, "epochs": like.epochs}
    if entry.iterations is not None or init == "published":
        length = {"iterations": entry.iterations or 0}
    elif init != "base" and tier.base.init == "published" and model == tier.model:
        length = {"iterations": None}  # the tier trains no base model, so has no length for one
    if length["iterations"] == 0 and init not in ("base", "published"):
        raise UserError(f"{who} has 0 iterations, so init must be 'base' or 'published', not '{init}'")
    limit = tier.base.memory_limit_mb if entry.memory_limit_mb is None else entry.memory_limit_mb
    config = merge_overrides(like.config, entry.config)
    return Schedule(config=config, init=init, model=model, memory_limit_mb=limit, **length, **files)
