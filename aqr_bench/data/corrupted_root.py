"""Conditions of a suite as nuScenes roots, one folder each: for detectors that run elsewhere. Resumable.

A folder is finished when it has its manifest, which is written last. Until then ``.samples.jsonl`` has a line for each
finished sample, and the next call goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench import compat
from aqr_bench.atomic import write_text
from aqr_bench.console import print_line, print_progress, steps
from aqr_bench.corruptions import FrameError
from aqr_bench.data.complete_scenes import CHANNELS
from aqr_bench.data.corrupted_sample import NotWritableError, SampleWriter, not_writable_reason
from aqr_bench.data.corrupted_tables import corrupted_tables
from aqr_bench.data.digests import table_digests, tables_digest
from aqr_bench.data.infos import build_infos, open_nuscenes, write_infos
from aqr_bench.data.manifest import MANIFEST, Manifest, read_manifest
from aqr_bench.data.raw_frames import BadFrameError
from aqr_bench.errors import UserError, require_disk
from aqr_bench.metrics.splits import read_splits
from aqr_bench.study.spec import Condition

SEED = 0  # of the benchmark: that of every config
JOURNAL = ".samples.jsonl"
SOURCE = ".source"  # folder of the source's info file, below that of all conditions
OTHER_TABLES = ("attribute", "category", "log", "map", "sensor", "splits", "visibility")
MARGIN = 1.1  # of the estimated size: the first sample is not the largest


@dataclass(frozen=True)
class Source:
    """The data set that conditions are applied to: the tables, the scenes of a split, and its info file."""

    nusc: Any
    root: Path
    version: str
    split: str
    scenes: tuple[str, ...]
    tokens: tuple[str, ...]
    infos: Path
    sha256: str


def open_source(root: Path, version: str, split: str, sweeps: int, out: Path) -> Source:
    """Read the tables and write the info file of a split, with so many sweeps; UserError where they do not fit."""
    nusc = open_nuscenes(root, version)
    splits = read_splits(root, version)
    role = next((role for role, known in splits.items() if split in (role, known.name)), None)
    if role is None:
        raise UserError(f"--split: '{split}' is not one of {', '.join(known.name for known in splits.values())}")
    entries = build_infos(nusc, sweeps)[role]
    if not entries:
        raise UserError(f"{root} ({version}) has no sample of split '{splits[role].name}'")
    infos = write_infos({role: entries}, out / SOURCE, version)[role].resolve()  # mmengine joins others with data_root
    tokens, sha256 = tuple(entry["token"] for entry in entries), tables_digest(table_digests(root, version))
    return Source(nusc, root.resolve(), version, splits[role].name, splits[role].scenes, tokens, infos, sha256)


@dataclass(frozen=True)
class ConditionWriter:
    """One condition of a suite, to be written to ``folder``."""

    condition: Condition
    suite: str
    source: Source
    folder: Path
    sweeps: int

    @property
    def sample_writer(self) -> SampleWriter:
        return SampleWriter(
            self.condition.transform_arguments, self.source.infos, self.source.root, self.folder, self.sweeps, SEED
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides about the content of the folder; part of its manifest."""
        names = {"condition": self.condition.name, "suite": self.suite, "settings": dict(self.condition.settings)}
        place = {"version": self.source.version, "split": self.source.split, "source_sha256": self.source.sha256}
        return {**names, **place, "sweeps": self.sweeps, "seed": SEED}

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    def is_finished(self) -> bool:
        """Whether the manifest is there; UserError for one of anything else."""
        if not (self.folder / MANIFEST).is_file():
            return False
        manifest, _ = read_manifest(self.folder)
        self._require_same({key: getattr(manifest, key) for key in self.identity})
        return True

    def finished_samples(self) -> dict[str, dict]:
        """What an earlier call wrote, by sample token; UserError for a folder that holds anything else."""
        if not self.journal.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise UserError(f"{self.folder} holds other files; nothing was changed", "Choose another --out.")
            return {}
        complete = [line for line in self.journal.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]
        if not complete:
            return {}
        self._require_same(json.loads(complete[0]))
        write_text(self.journal, "".join(complete))  # without half a line, which a kill may leave
        return {sample["token"]: sample for sample in map(json.loads, complete[1:])}

    def _require_same(self, identity: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(self.identity))
        other = [key for key in ours if identity.get(key) != ours[key]]
        if other:
            raise UserError(
                f"{self.folder} was written with another {', '.join(other)}", "Delete it, or choose another --out."
            )

    def write(self, pool: ProcessPoolExecutor | None) -> None:
        """Write what is missing, and the manifest in the end.

        Raises:
            NotWritableError: the condition cannot be held by files; nothing of it is left then.
        """
        written = self.finished_samples()
        if not written:
            for folder in (f"{kind}/{channel}" for kind in ("samples", "sweeps") for channel in CHANNELS):
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
            write_text(self.journal, json.dumps(self.identity) + "\n")
        missing = [index for index, token in enumerate(self.source.tokens) if token not in written]
        apply = self.sample_writer
        results = map(apply, missing) if pool is None else pool.map(apply, missing)
        try:
            with self.journal.open("a", encoding="utf-8") as journal:
                for _, sample in zip(steps(missing, self.condition.name), results, strict=False):
                    written[sample["token"]] = sample
                    journal.write(json.dumps(sample) + "\n")
                    journal.flush()
        except NotWritableError:
            shutil.rmtree(self.folder)
            raise
        self._finish(written)

    def _finish(self, written: Mapping[str, dict]) -> None:
        source, tables = self.source, self.folder / self.source.version
        tables.mkdir(exist_ok=True)
        for name, rows in corrupted_tables(source.nusc, source.scenes, written).items():
            write_text(tables / f"{name}.json", json.dumps(rows))
        _link(self.folder / "maps", source.root / "maps")
        for name in OTHER_TABLES:
            _link(tables / f"{name}.json", source.root / source.version / f"{name}.json")
        self._link_other_sensors()
        samples = {token: written[token]["fingerprint"] for token in source.tokens}
        files = {name: digest for token in source.tokens for name, digest in written[token]["files"].items()}
        data_sha256 = tables_digest(table_digests(self.folder, source.version))
        Manifest(**self.identity, data_sha256=data_sha256, samples=samples, files=files).write(self.folder)
        self.journal.unlink()

    def _link_other_sensors(self) -> None:
        """Folders of sensors that no condition concerns, such as radars."""
        rows = (row for row in self.source.nusc.sample_data if row["channel"] not in CHANNELS)
        for folder in sorted({row["filename"].rpartition("/")[0] for row in rows}):
            if folder and not (self.folder / folder).exists():
                (self.folder / folder).parent.mkdir(parents=True, exist_ok=True)
                _link(self.folder / folder, self.source.root / folder)


def write_conditions(
    suite: str, conditions: Sequence[Condition], source: Source, out: Path, sweeps: int, workers: int
) -> list[str]:
    """Write conditions to folders below ``out``; what is there already stays.

    Returns:
        Names of those that cannot be written; the reason of each is printed.
    Raises:
        UserError: the disk is too small, a folder holds something else, a file of the source cannot be read.
    """
    writers = [ConditionWriter(c, suite, source, out / c.name, sweeps) for c in conditions]
    todo, refused, size = [], [], 0
    for writer in writers:
        if writer.is_finished():
            print_progress(f"{writer.folder}: already written")
            continue
        reason = not_writable_reason(writer.condition.corruption)
        if reason is None:
            left = len(source.tokens) - len(writer.finished_samples())
            size += int(left * MARGIN * _reported(writer, lambda writer=writer: writer.sample_writer.size_bytes(0)))
            todo.append(writer)
        else:
            refused.append(_refuse(writer, reason))
    if todo:
        count = f"{len(todo)} condition{'s' * (len(todo) > 1)} of {len(source.tokens)} samples"
        print_progress(f"{count} will take about {size / 1e9:.2f} GB under {out}")
        require_disk(out, size, "what is to be written")
    parallel = compat.spawn_pool(workers, compat.use_one_thread) if workers > 1 and todo else nullcontext()
    with parallel as pool:
        for number, writer in enumerate(todo, 1):
            try:
                _reported(writer, lambda writer=writer: writer.write(pool))
            except NotWritableError as error:
                refused.append(_refuse(writer, str(error)))
            else:
                print_progress(f"{writer.folder}: {len(source.tokens)} samples ({number} of {len(todo)})")
    return refused


def _refuse(writer: ConditionWriter, reason: str) -> str:
    print_line(f"not written: {writer.condition.name}: {reason}")
    return writer.condition.name


def _reported(writer: ConditionWriter, action: Any) -> Any:
    """The result of an action; UserError for a sample that cannot be read or corrupted."""
    try:
        return action()
    except (BadFrameError, FrameError) as error:
        raise UserError(f"condition '{writer.condition.name}': {error}") from error


def _link(path: Path, target: Path) -> None:
    if target.exists() and not os.path.lexists(path):
        path.symlink_to(target.resolve())
