"""The info files of a data set, as the other packages use them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqr_bench.data.digests import file_digests, infos_digest, table_digests, tables_digest
from aqr_bench.errors import UserError, quoted, reading, require_file
from aqr_bench.study.spec import SPLITS
from aqr_bench.study.vocabulary import Vocabulary


@dataclass(frozen=True)
class DataSet:
    """Info files of a nuScenes root. ``root`` holds v1.0-*/, samples/ and sweeps/.

    ``sha256``: of the tables. ``infos_sha256``: of the info files, which also depend on how they were made.
    ``vocabulary``: that the tables are to be opened with. ``max_sweeps``: LiDAR sweeps of a keyframe that the info
    files have at most, None where that is not known.
    """

    infos: Path
    root: Path
    version: str
    sha256: str
    infos_sha256: str = ""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    max_sweeps: int | None = None


def load_data(infos: str | Path) -> DataSet:
    """Read the ``data.json`` that ``aqr-bench data`` left in a folder, and compare it with what is there now.

    Raises:
        UserError: info files are damaged or not those that were written; the tables were edited since.
    """
    folder = Path(infos)
    path = require_file(folder / "data.json", "info summary", "Run: aqr-bench data --out " + str(folder))
    again = "Delete it and run aqr-bench data again."
    with reading(path, "info summary", again):
        summary = json.loads(path.read_text(encoding="utf-8"))
        root, version, sha256 = (summary[key] for key in ("root", "version", "data_sha256"))
        max_sweeps = summary.get("max_sweeps")
        if version not in SPLITS or not isinstance(sha256, str) or not isinstance(max_sweeps, int | None):
            found = f"version {quoted(version)}, data_sha256 {quoted(sha256)}, max_sweeps {quoted(max_sweeps)}"
            raise ValueError(found)
        hashes = summary.get("sha256", {"infos": {}, "tables": {}})  # summaries of earlier versions have none
        infos, tables = dict(**hashes["infos"]), dict(**hashes["tables"])
        vocabulary = Vocabulary(**summary.get("vocabulary", {}))
        root = (folder / root).resolve()
        has_tables = any((root / version).glob("*.json"))
    files = [require_file(folder / name, "info file", "Run aqr-bench data again.") for name in infos]
    for name, digest in file_digests(files, folder).items():
        if infos.get(name) != digest:
            raise UserError(
                f"{folder / name} is not the file that {path} describes: it is damaged, or was replaced. Delete {path} "
                "and run aqr-bench data again."
            )
    now = table_digests(root, version, folder) if has_tables else {}  # a training reads none, so none is no mistake
    if has_tables and tables_digest(now) != sha256:
        name = next((name for name in {**tables, **now} if tables.get(name) != now.get(name)), "")
        raise UserError(
            f"{root / version / name} is not what {path} describes: it is damaged, or was edited after the info files "
            "were made. Run aqr-bench data again."
        )
    return DataSet(
        folder.resolve(), root, version, sha256, infos_digest(folder), vocabulary=vocabulary, max_sweeps=max_sweeps
    )


def keyframe_data(folder: str | Path) -> tuple[DataSet, str]:
    """A folder with one mmdet3d info file (.pkl, one or more samples) and the files that it names, side by side."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"keyframe folder not found: {folder}", "Give a folder with an info file (.pkl) and its files.")
    infos = sorted(folder.glob("*.pkl"))
    if len(infos) != 1:
        raise UserError(f"{folder} must hold exactly one info file (*.pkl), it holds {len(infos)}")
    return DataSet(folder.resolve(), folder.resolve(), "v1.0-mini", ""), infos[0].name


def point_at_keyframe(dataset: Any, folder: str | Path) -> None:
    """Let a data set's config read the samples of a keyframe folder, where all files lie side by side."""
    data, ann_file = keyframe_data(folder)
    dataset.data_root, dataset.ann_file = str(data.root), str(data.infos / ann_file)
    dataset.data_prefix = dict.fromkeys(dataset.data_prefix, "")
