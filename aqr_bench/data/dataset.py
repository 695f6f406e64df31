"""The info files of a data set, as the other packages use them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqr_bench.data.digests import INFO_FILES, file_digests, infos_digest, table_digests, tables_digest
from aqr_bench.data.infos import INFO_CLASSES
from aqr_bench.errors import READ_ERRORS, UserError, is_file, quoted, reading, require_file, short
from aqr_bench.metrics.splits import OFFICIAL, TEST, VERSIONS
from aqr_bench.study.layout import relative_path
from aqr_bench.study.vocabulary import Vocabulary

INFO_FILE_REMEDY = "Make it again: aqr-bench data."


@dataclass(frozen=True)
class DataSet:
    """Info files of a nuScenes root. ``root`` holds v1.0-*/, samples/ and sweeps/.

    ``sha256``: of the tables. ``infos_sha256``: of the info files, which also depend on how they were made.
    ``skipped_scenes``: names of those that were left out for want of files. ``train_samples``: None where not known.
    ``vocabulary``: that the tables are to be opened with. ``max_sweeps``: LiDAR sweeps of a keyframe that the info
    files have at most, None where that is not known.
    """

    infos: Path
    root: Path
    version: str
    sha256: str
    infos_sha256: str = ""
    skipped_scenes: tuple[str, ...] = ()
    train_samples: int | None = None
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    max_sweeps: int | None = None

    @property
    def annotated(self) -> bool:
        """False for nuScenes' test split: there is nothing to score detections with."""
        return self.version != TEST


def load_data(infos: str | Path) -> DataSet:
    """Read the ``data.json`` that ``aqr-bench data`` left in a folder, and compare it with what is there now.

    Raises:
        UserError: info files are damaged or not those that were written; the tables were edited since.
    """
    folder = Path(infos)
    _raise_if_foreign(folder)
    path = require_file(
        folder / "data.json", "info summary", f"Run: aqr-bench data --version v1.0-trainval --root ROOT --out {folder}"
    )
    again = "Delete it and run aqr-bench data again."
    with reading(path, "info summary", again):
        summary = json.loads(path.read_text(encoding="utf-8"))
        root, version, sha256 = (summary[key] for key in ("root", "version", "data_sha256"))
        max_sweeps = summary.get("max_sweeps")
        if version not in VERSIONS or not isinstance(sha256, str) or not isinstance(max_sweeps, int | None):
            values = f"version {quoted(version)}, data_sha256 {quoted(sha256)}, max_sweeps {quoted(max_sweeps)}"
            raise ValueError(values)
        hashes = summary.get("sha256", {"infos": {}, "tables": {}})  # summaries of earlier versions have none
        infos, tables = dict(**hashes["infos"]), dict(**hashes["tables"])
        skipped = tuple(summary.get("skipped_scenes", ()))
        train = summary.get("splits", {}).get("train", {}).get("samples")
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
        folder.resolve(), root, version, sha256, infos_digest(folder), skipped, train, vocabulary, max_sweeps
    )


def _raise_if_foreign(infos: Path) -> None:
    """UserError for an info file of mmdet3d, or its folder, in the place of a folder that ``aqr-bench data`` wrote."""
    if infos.suffix == ".pkl":
        files = [infos]
    elif is_file(infos / "data.json"):
        return
    else:
        files = sorted(file for file in infos.glob("*infos_val*.pkl") if file.name not in INFO_FILES)
    if files and is_file(files[0]):
        what = f"--infos {infos}: no data.json of aqr-bench data is there, but an info file from elsewhere, {files[0]}"
        command = data_command(files[0].parent, None)
        raise UserError(what, f"Type: {command} (evaluate also takes a val file as it is: --infos {files[0]})")


def data_command(root: Path, version: str | None) -> str:
    """The command that makes the info files of a root, in full; None: of the version whose tables are there."""
    version = version or next((name for name in OFFICIAL if (root / name).is_dir()), "v1.0-trainval")
    return f"aqr-bench data --version {version} --root {root} --out results/{version}/infos"


def data_summary(
    root: str | Path,
    version: str,
    out: str | Path,
    infos: Mapping[str, Sequence[Mapping[str, Any]]],
    paths: Mapping[str, Path],
    max_sweeps: int,
    **further: Any,
) -> dict[str, Any]:
    """What ``data.json`` holds of the info files in ``out``, for :func:`load_data`.

    Args:
        infos, paths: entries and file of each split.
        further: entries that not every data set has.
    """
    tables = table_digests(root, version, out)
    return {
        "root": relative_path(root, out),
        "version": version,
        "data_sha256": tables_digest(tables),
        "max_sweeps": max_sweeps,
        **further,
        "splits": {split: _counts(entries) for split, entries in infos.items()},
        "files": {split: path.name for split, path in paths.items()},
        "sha256": {"infos": file_digests(paths.values(), out), "tables": tables},
    }


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labels = Counter(i["bbox_label_3d"] for entry in entries for i in entry.get("instances", ()))
    return {"samples": len(entries), "boxes": {name: labels[i] for i, name in enumerate(INFO_CLASSES)}}


def require_train_split(data: DataSet) -> None:
    """UserError for a data set of val scenes alone, which nothing can be trained on."""
    if data.train_samples == 0:
        raise UserError(
            f"{data.infos} has no sample of the train split: it can only be evaluated on",
            "Add scenes of the train split to the data set, and run aqr-bench data again.",
        )


def keyframe_data(folder: str | Path) -> tuple[DataSet, str]:
    """A folder with one mmdet3d info file (.pkl, one or more samples) and the files that it names, side by side."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"keyframe folder not found: {folder}", "Give a folder with an info file (.pkl) and its files.")
    infos = sorted(folder.glob("*.pkl"))
    if len(infos) != 1:
        raise UserError(f"{folder} must hold exactly one info file (*.pkl), it holds {len(infos)}")
    check_info_file(infos[0])
    return DataSet(folder.resolve(), folder.resolve(), "v1.0-mini", ""), infos[0].name


@contextmanager
def reading_samples(info_file: str | Path) -> Iterator[None]:
    """UserError for whatever mmdet3d's data set and the transforms raise where an info file or its files do not fit.

    The file may come from anywhere: keys may be missing, and files that it names be gone.
    """
    from aqr_bench.data.raw_frames import BadFrameError  # OpenCV

    try:
        yield
    except UserError:
        raise
    except BadFrameError as error:
        remedy = "Put the files that it names beside it, or make it again: aqr-bench data."
        raise UserError(f"{info_file}: {error}", remedy) from error
    except READ_ERRORS as error:
        reason = f"{type(error).__name__}: {short(' '.join(str(error).split()), 160)}"
        raise UserError(f"info file cannot be used: {info_file} ({reason})", INFO_FILE_REMEDY) from error


def check_info_file(path: str | Path) -> None:
    """UserError unless a file has the outer form of an info file of mmdet3d 1.x, with at least one sample."""
    from aqr_bench.data.raw_frames import read_info_file  # late: OpenCV

    content = read_info_file(path, "Give an info file of mmdet3d 1.x.")
    for key, kind in (("metainfo", Mapping), ("data_list", list)):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), kind):
            raise UserError(f"{path} is no info file of mmdet3d 1.x: it has no '{key}'", INFO_FILE_REMEDY)
    if not content["data_list"]:
        raise UserError(f"{path} has no samples (data_list is empty)", INFO_FILE_REMEDY)


def point_at_keyframe(dataset: Any, folder: str | Path) -> None:
    """Let a data set's config read the samples of a keyframe folder, where all files lie side by side."""
    data, ann_file = keyframe_data(folder)
    dataset.data_root, dataset.ann_file = str(data.root), str(data.infos / ann_file)
    dataset.data_prefix = dict.fromkeys(dataset.data_prefix, "")
