"""Damage to the tables of a copied world, and what `data check` says of it."""

from __future__ import annotations

import json
from pathlib import Path

from aqr_bench.data.check.check import check_root

VERSION = "v1.0-mini"


def errors(root: Path, **options) -> list[str]:
    return [finding.line() for finding in check_root(root, **options).findings if not finding.warning]


def edit(root: Path, table: str, change) -> None:
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
