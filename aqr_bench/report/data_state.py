"""Whether world, info files and database are those that a tier asks for: what every verdict on records starts from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from aqr_bench.data.digests import known_infos_digest, noted_digest, read_json, table_digests, tables_digest
from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.records.freshness import DataState
from aqr_bench.records.request import code_changed
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.spec import Tier
from aqr_bench.world.spec import read_tier


def data_reasons(tier: Tier, layout: RunLayout) -> dict[Path, str]:
    """Why world, info files or the database of objects are to be made again; nothing where they are missing."""
    reasons = {}
    if tier.kind == "synthetic":
        world = read_json(layout.world_marker)
        if world is not None and world.get("sha256") != read_tier(tier.path).sha256:
            reasons[layout.world_marker] = "world changed"
    summary = read_json(layout.info_summary)
    if summary is None:
        return reasons
    root = tier.data_root or layout.world
    tables = table_digests(root, tier.version, layout.infos)
    if reasons:
        reasons[layout.info_summary] = "world changed"
    elif tables and summary.get("data_sha256") != tables_digest(tables):
        reasons[layout.info_summary] = "tables of the data set changed"
    elif summary.get("skipped_scenes") and not tier.skip_missing:
        reasons[layout.info_summary] = "scenes that lack files are no longer left out"
    elif summary.get("vocabulary", {}) != tier.vocabulary.as_dict():
        reasons[layout.info_summary] = "data.categories or data.attributes of the tier changed"
    elif summary.get("code", prepare_code()) != prepare_code():
        reasons[layout.info_summary] = code_changed(["data"])
    # Info files of earlier versions do not say whether the database was made from them.
    if layout.database.is_file() and (reasons or ("code" in summary and "database" not in summary)):
        reasons[layout.database] = "info files rebuilt"
    return reasons


def data_state(layout: RunLayout, reasons: Mapping[Path, str]) -> DataState:
    """The info files as they are; ``reasons`` of ``data_reasons``."""
    rebuilt = next((f"info files rebuilt ({why})" for path, why in reasons.items() if path != layout.database), None)
    return DataState(known_infos_digest(layout.infos), rebuilt, functools.partial(noted_digest, infos=layout.infos))


def prepare_code() -> str:
    """Hash of the code that makes info files."""
    return code_hash_for("prepare")
