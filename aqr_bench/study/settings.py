"""What a result depends on in tier and study, as plain JSON values: records keep it, so that a difference has a name.

Each of these covers what the result depends on and nothing else, so that a change runs again what it concerns. Contents
of files that a training starts from are not in here: see ``records.request``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aqr_bench.study.hashes import canonical_json, config_hash
from aqr_bench.study.model_files import model_file, source_hashes
from aqr_bench.study.plan import launcher_of
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Condition, Launcher, Schedule, Study, Tier

Settings = dict[str, Any]


def training_settings(
    tier: Tier, study: Study | None = None, variant: str | None = None, pretrain: str | None = None
) -> Settings:
    """Of a training: of a variant, of one branch alone (``pretrain``), or of the base model."""
    if pretrain is not None:
        entry = {**_model_settings(tier, tier.model), **vars(tier.pretrain[pretrain])}
        return _plain({**entry, **_launcher_settings(tier.launcher)})
    if study is None or variant is None:
        model = {**_model_settings(tier, tier.model), "config": tier.base.config}
        return _plain({**model, **_schedule_settings(tier, tier.base)})
    schedule = variant_schedule(tier, study, variant)
    return _plain({**_variant_settings(tier, schedule), **_schedule_settings(tier, schedule)})


def condition_settings(
    tier: Tier, condition: Condition, study: Study | None = None, variant: str | None = None
) -> Settings:
    """Of the evaluation of a base model or variant under one condition. A config also acts at test time."""
    if study is None or variant is None:
        model = {**_model_settings(tier, tier.model), "config": tier.base.config}
    else:
        model = _variant_settings(tier, variant_schedule(tier, study, variant))
    scored = {"batch_size": tier.evaluate_batch_size, **tier.scoring.entry()}
    return _plain({**model, "condition": condition.settings, **scored})


def measure_settings(tier: Tier, study: Study, variant: str) -> Settings:
    """Of a variant's measurement. It is interleaved with the baseline's, hence the baseline's config."""
    baseline = variant_schedule(tier, study, study.baseline).config
    settings = _variant_settings(tier, variant_schedule(tier, study, variant))
    return _plain({**settings, "baseline": baseline, "measure": vars(tier.measure)})


def report_hash(studies: Iterable[Study]) -> str:
    """Of the report: all that the study files say, the questions and names included."""
    return config_hash({study.name: study.path.read_text(encoding="utf-8") for study in studies})


def initial_file(schedule: Schedule) -> Path | None:
    """The file from elsewhere that a training starts from, whether it is there or not; None if it needs none."""
    return {"published": schedule.checkpoint, "scratch": schedule.branches or schedule.backbone}.get(schedule.init)


def _plain(settings: Settings) -> Settings:
    """As it comes back from JSON, so that it can be compared with what a record has."""
    return json.loads(canonical_json(settings))


def _model_settings(tier: Tier, model: str) -> Settings:
    """A model by name; for a custom config also what is in its files, which no hash of the package covers."""
    hashes = source_hashes(model)
    named = {"model": model_file(model).name, "sources": hashes} if hashes else {"model": model}
    return {**named, **({"tf32": True} if tier.tf32 else {})}


def _variant_settings(tier: Tier, schedule: Schedule) -> Settings:
    return {**_model_settings(tier, schedule.model or tier.model), "config": schedule.config}


def _schedule_settings(tier: Tier, schedule: Schedule) -> Settings:
    """How long a training takes and what it starts from; a published file that comes is another start.

    A training that ran out of a memory limit is to run again with another limit.
    """
    file, limit = initial_file(schedule), schedule.memory_limit_mb
    return {
        "iterations": schedule.iterations,
        "init": schedule.init,
        **_launcher_settings(launcher_of(tier, schedule)),
        **({"epochs": schedule.epochs} if schedule.epochs else {}),
        **({"file": [file.name, file.stat().st_size if file.is_file() else None]} if file else {}),
        **({} if limit is None else {"memory_limit_mb": limit}),
    }


def _launcher_settings(launcher: Launcher) -> Settings:
    """Processes split the batch, and what is normalised per batch with it: another number, another training."""
    return {} if launcher.processes == 1 else {"launcher": vars(launcher)}
