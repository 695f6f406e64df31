"""What a record is asked to be: settings, code, info files and starting weights. Each record keeps its own request.

The workflow computes the same from tier, study and suite alone, without building a model, and compares the two.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aqr_bench.records.code_dependencies import code_parts
from aqr_bench.records.record import Record
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.schedule import model_of
from aqr_bench.study.settings import condition_settings, measure_settings, training_settings
from aqr_bench.study.spec import Study, Suite, Tier

FIELDS = ("settings", "code", "infos_sha256", "starts")


@dataclass(frozen=True)
class Request:
    """One training, evaluation under one condition, or measurement.

    Args:
        settings: of ``study.settings``, plain JSON values.
        code: hash of each file of the package that it depends on.
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
        request = provenance.get("request")
        if not isinstance(request, Mapping) or set(request) != set(FIELDS):
            return None
        if not all(isinstance(request[key], Mapping) for key in ("settings", "code")):
            return None
        if not isinstance(request["starts"], list | tuple):
            return None
        return cls(request["settings"], request["code"], request["infos_sha256"], tuple(request["starts"]))


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
    model = tier.model if pretrain is not None else model_of(tier, study, variant)
    return Request(settings, code_parts("train", model, settings), infos_sha256, tuple(starts))


def evaluation_requests(
    tier: Tier, suite: Suite, study: Study | None, variant: str | None, infos_sha256: str, checkpoint: str | None
) -> dict[str, Request]:
    """Of the evaluation of a checkpoint (its SHA-256) under each condition of a suite, by the condition's name."""
    model, requests = model_of(tier, study, variant), {}
    for condition in suite.conditions:
        settings = condition_settings(tier, condition, study, variant)
        code = code_parts("evaluate", model, settings)
        requests[condition.name] = Request(settings, code, infos_sha256, (checkpoint,))
    return requests


def with_requests(records: Iterable[Record], requests: Mapping[str, Request]) -> list[Record]:
    """Evaluations with the request of each one's condition in its provenance, also those that are reused or failed."""
    return [
        replace(record, provenance={**record.provenance, "request": requests[str(record.condition)].to_dict()})
        for record in records
    ]


def measurement_request(tier: Tier, study: Study, variant: str, infos_sha256: str) -> Request:
    """Of the measurement of a variant."""
    settings = measure_settings(tier, study, variant)
    return Request(settings, code_parts("measure", model_of(tier, study, variant), settings), infos_sha256)


# ---------------------------------------------------------------- differences in words


def differences(asked: Request, has: Request, start: str = "starting weights") -> list[str]:
    """What sets a record apart from what is asked for, for people; ``start``: what it starts from."""
    return [
        *settings_differences(has.settings, asked.settings),
        *code_differences(has.code, asked.code, same_settings=has.settings == asked.settings),
        *(["info files rebuilt"] if has.infos_sha256 != asked.infos_sha256 else []),
        *([f"{start} changed"] if has.starts != asked.starts else []),
    ]


def code_differences(then: Mapping[str, str], now: Mapping[str, str], same_settings: bool = True) -> list[str]:
    """One line that names the files of the package that changed.

    Under other settings (``same_settings``) others are used: those that only one side has are no change of the code.
    """
    files = {**then, **now} if same_settings else [file for file in then if file in now]
    changed = [file for file in files if then.get(file) != now.get(file)]
    return [code_changed(changed)] if changed else []


CODE = "code: "
MAX_FILES = 4  # named in one reason


def code_changed(names: Sequence[str]) -> str:
    """``code: bias/router.py, bias/windows.py changed``"""
    return f"{CODE}{listed(names)} changed"


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - MAX_FILES
    return ", ".join(names[:MAX_FILES]) + (f" and {more} more" if more > 0 else "")


def code_versions(provenances: Iterable[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """How many versions of the code some records come from, and the files that differ.

    Jobs use different files, so versions are told apart by the files that records have in common; records of earlier
    versions by the one hash that they have.
    """
    hashes: dict[str, set[str]] = {}
    earlier = set()
    for provenance in provenances:
        request = Request.from_provenance(provenance)
        if request is None:
            earlier |= {provenance.get("code_sha256")} - {None}
            continue
        sources = request.settings.get("sources")
        own = sources.items() if isinstance(sources, Mapping) else ()
        custom = {f"{file} of {request.settings.get('model')}": value for file, value in own}
        for file, value in {**request.code, **custom}.items():
            hashes.setdefault(file, set()).add(value)
    files = sorted(file for file, values in hashes.items() if len(values) > 1)
    return len(earlier) + max(map(len, hashes.values()), default=0), files


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
            condition = now.get("condition") or then["condition"]
            short = f"condition {condition.get('name')}: {key.removeprefix('condition.')}"
        kind, _, file = key.partition(".")
        lines.append(
            f"{file or 'files of the custom detector'} changed" if kind == "sources" else f"{short} {old} -> {new}"
        )
    return lines


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat
