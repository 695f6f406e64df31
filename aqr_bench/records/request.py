"""What a record is asked to be: settings, code, info files and starting weights. Each record keeps its own request.

The workflow computes the same from tier, study and suite alone, without building a model, and compares the two.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aqr_bench.records.code_dependencies import CODE_DEPENDENCIES, code_hash
from aqr_bench.records.record import Record
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.settings import condition_settings, measure_settings, training_settings
from aqr_bench.study.spec import Study, Suite, Tier

FIELDS = ("settings", "code", "infos_sha256", "starts")
SHORT = 12  # hexadecimal digits of a hash that is only compared with its like


@dataclass(frozen=True)
class Request:
    """One training, evaluation under one condition, or measurement.

    Args:
        settings: of ``study.settings``, plain JSON values.
        code: hash of each part of the package that the step depends on.
        infos_sha256: of the info files.
        starts: SHA-256 of the checkpoints to start from or to evaluate; None for one that is not there.
    """

    settings: Mapping[str, Any]
    code: Mapping[str, str]
    infos_sha256: str
    starts: tuple[str | None, ...] = ()

    @functools.cached_property
    def identity(self) -> str:
        """Records of the same identity are of the same work."""
        return config_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "starts": list(self.starts)}

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> Request | None:
        """The request that a record keeps; None for records of earlier versions, which keep none, and damaged ones."""
        kept = provenance.get("request")
        if not isinstance(kept, Mapping) or set(kept) != set(FIELDS):
            return None
        if not all(isinstance(kept[key], Mapping) for key in ("settings", "code")):
            return None
        if not isinstance(kept["starts"], list | tuple):
            return None
        return cls(kept["settings"], kept["code"], kept["infos_sha256"], tuple(kept["starts"]))


@functools.cache
def code_parts(step: str) -> dict[str, str]:
    """Hash of each folder or file of the package that a step depends on."""
    return {part: code_hash([part])[:SHORT] for part in CODE_DEPENDENCIES[step]}


def training_request(
    tier: Tier,
    study: Study | None,
    variant: str | None,
    pretrain: str | None,
    infos_sha256: str,
    starts: Sequence[str | None] = (),
) -> Request:
    """Of the training of a variant, of a branch alone, or of a base model."""
    settings = training_settings(tier, study, variant, pretrain)
    return Request(settings, code_parts("train"), infos_sha256, tuple(starts))


def evaluation_requests(
    tier: Tier, suite: Suite, study: Study | None, variant: str | None, infos_sha256: str, checkpoint: str | None
) -> dict[str, Request]:
    """Of the evaluation of a checkpoint (its SHA-256) under each condition of a suite, by the condition's name."""
    code = code_parts("evaluate")
    return {
        condition.name: Request(condition_settings(tier, condition, study, variant), code, infos_sha256, (checkpoint,))
        for condition in suite.conditions
    }


def with_requests(records: Iterable[Record], requests: Mapping[str, Request]) -> list[Record]:
    """Evaluations with the request of each one's condition in its provenance, also those that are reused or failed."""
    return [
        replace(record, provenance={**record.provenance, "request": requests[str(record.condition)].to_dict()})
        for record in records
    ]


def measurement_request(tier: Tier, study: Study, variant: str, infos_sha256: str) -> Request:
    """Of the measurement of a variant."""
    return Request(measure_settings(tier, study, variant), code_parts("measure"), infos_sha256)


# ---------------------------------------------------------------- differences in words


def differences(asked: Request, has: Request, start: str = "starting weights") -> list[str]:
    """What sets a record apart from what is asked for, for people; ``start``: what it starts from."""
    return [
        *settings_differences(has.settings, asked.settings),
        *code_differences(has.code, asked.code),
        *(["info files rebuilt"] if has.infos_sha256 != asked.infos_sha256 else []),
        *([f"{start} changed"] if has.starts != asked.starts else []),
    ]


def code_differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line that names the parts of the package that changed."""
    parts = [part for part in {**then, **now} if then.get(part) != now.get(part)]
    return [f"{CODE_CHANGED}{', '.join(parts)}"] if parts else []


CODE_CHANGED = "code changed: "
_SHORTENED = ("config.model.pts_bbox_head.", "config.")


def settings_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``aqr.bev_window 5 -> 3`` for each setting that differs."""
    before, after = _flat(then), _flat(now)
    lines = []
    for key in {**before, **after}:
        old, new = before.get(key, "unset"), after.get(key, "unset")
        if old == new:
            continue
        short = next((key.removeprefix(prefix) for prefix in _SHORTENED if key.startswith(prefix)), key)
        if key.startswith("condition."):
            short = f"condition {now.get('condition', then['condition']).get('name')}: {key.removeprefix('condition.')}"
        lines.append("files of the custom detector changed" if key == "sources" else f"{short} {old} -> {new}")
    return lines


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat
