"""Where a tier's trainings and evaluations store the features of frozen branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aqr_bench.records.code_dependencies import code_hash
from aqr_bench.records.provenance import machine, packages
from aqr_bench.study.hashes import canonical_json
from aqr_bench.study.layout import FEATURES
from aqr_bench.study.model_files import source_hashes
from aqr_bench.study.requirements import FEATURES_BYTES
from aqr_bench.study.spec import Tier


def use_feature_cache(model: Any, tier: Tier, model_name: str, work_root: Path | None) -> None:
    """Have a detector of ours store features below the tier's work folder, if the tier has ``cache_features``.

    Args:
        model_name: name or file of its config, whose sources may define parts of the branches.
        work_root: None: nothing is stored.
    """
    if not tier.cache_features or work_root is None or not hasattr(model, "feature_cache"):
        return
    from aqr_bench.cmt.feature_cache import FeatureCache

    code = {"package": code_hash(["cmt"]), "sources": source_hashes(model_name)}
    context = canonical_json({**code, "packages": packages(), "cpu": machine()["cpu"]})
    model.feature_cache = FeatureCache(work_root / FEATURES, context, FEATURES_BYTES)
