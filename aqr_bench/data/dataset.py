"""The info files of a data set as the other rooms see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.errors import UserError, quoted, reading, require_file
from aqr_bench.study.spec import SPLITS


@dataclass(frozen=True)
class DataSet:
    """Info files of a nuScenes root. ``root`` holds v1.0-*/, samples/ and sweeps/."""

    infos: Path
    root: Path
    version: str
    sha256: str


def load_data(infos: str | Path) -> DataSet:
    """Read the ``data.json`` that ``python -m aqr_bench.data`` left in a folder."""
    folder = Path(infos)
    path = require_file(folder / "data.json", "info summary", "Run: python -m aqr_bench.data --out " + str(folder))
    again = "Delete it and run python -m aqr_bench.data again."
    with reading(path, "info summary", again):
        summary = json.loads(path.read_text(encoding="utf-8"))
        root, version, sha256 = (summary[key] for key in ("root", "version", "data_sha256"))
        if version not in SPLITS or not isinstance(sha256, str):
            raise ValueError(f"version {quoted(version)}, data_sha256 {quoted(sha256)}")
        sizes = dict(summary.get("bytes", {}))
        found = DataSet(folder.resolve(), (folder / root).resolve(), version, sha256)
    for name, size in sizes.items():
        there = require_file(folder / name, "info file", "Run python -m aqr_bench.data again.").stat().st_size
        if there != size:
            raise UserError(
                f"{folder / name} has {there} bytes, {quoted(size)} were written: it is damaged. Delete {path} and run "
                "python -m aqr_bench.data again."
            )
    return found
