"""Write a world as a nuScenes root: scene by scene in worker processes, atomically; resumable.

Everything is written to ``ROOT.partial`` and moved to ``ROOT`` in the end, when ``world.json`` is in it. Finished
scenes leave a file in ``ROOT.partial/_scenes``; an interrupted run resumes from these.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from aqr_bench import compat
from aqr_bench.atomic import exclusive_folder, write_text
from aqr_bench.errors import UserError, require_disk
from aqr_bench.world import write_scene
from aqr_bench.world.scene import MAP_SIZE_M
from aqr_bench.world.spec import GENERATOR_VERSION, WorldSpec, official_scenes
from aqr_bench.world.tables import CHANNELS, MAP_FILE, TABLES, world_tables

MARKER = ".aqr_world"  # marks the folder of a synthetic world, even where world.json was removed
WORLD_JSON = "world.json"
_SCENES = "_scenes"


def write_world(spec: WorldSpec, root: str | Path, workers: int = 1, quiet: bool = True) -> dict:
    """Write the world to ``root`` unless it is there already; return the content of its world.json.

    A synthetic world of another spec in ``root`` is replaced. Raises UserError if ``root`` holds anything else, if the
    disk is too small, if another process is writing there, or if the objects asked for do not fit.
    """
    root = Path(root).resolve()
    _raise_if_foreign(root)
    partial = root.with_name(root.name + ".partial")
    _raise_if_foreign(partial)
    content = read_world_json(root)
    if content is not None and content["sha256"] == spec.sha256:
        _report(quiet, f"{root} already holds this world ({content['sha256'][:12]}); nothing to do")
        return content
    if content is not None:
        _report(quiet, f"{root} holds another world ({content['sha256'][:12]}); it will be replaced")
    require_disk(root, estimate_bytes(spec), "a world of this size")
    with _locked(partial):
        if (partial / MARKER).read_text(encoding="utf-8").strip() != spec.sha256:
            _start_over(partial, spec)
        if read_world_json(partial) is None:
            jobs = _scene_jobs(spec)
            _write_scenes(spec, partial, jobs, workers, quiet)
            _finish(spec, partial, [name for _, _, name in jobs])
        content = read_world_json(partial)
        _move(partial, root)
    counts = content["counts"]
    _report(quiet, f"{root}: {counts['scene']} scenes, {counts['sample']} keyframes, {content['bytes'] / 1e6:.0f} MB")
    return content


def read_world_json(root: Path) -> dict | None:
    """Return the content of ``root``'s world.json, or None if there is no finished world."""
    try:
        content = json.loads((root / WORLD_JSON).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise UserError(f"{root / WORLD_JSON} is damaged; delete {root} and write the world again") from None
    if not isinstance(content, dict) or "sha256" not in content:
        raise UserError(f"{root / WORLD_JSON} does not describe a world; choose another --out")
    return content


def estimate_bytes(spec: WorldSpec) -> int:
    """Return an upper estimate of the size of a world on disk."""
    width, height = spec.image_size
    cloud = (spec.lidar_sweeps + 1) * spec.beams * spec.azimuths * 20
    pictures = (spec.camera_sweeps + 1) * 6 * (width * height * 0.8 + 4096)
    return int(spec.keyframes * (cloud + pictures + 60_000) + 1e6)


def _raise_if_foreign(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; choose another --out")
    if any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(
            f"{folder} holds files that are no synthetic world; nothing was changed", "Choose another --out."
        )


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Hold the work folder alone; create it where needed."""
    with exclusive_folder(partial) as descriptor:
        if not partial.is_dir() or partial.stat().st_ino != os.fstat(descriptor).st_ino:
            raise UserError(f"another process has just finished {partial}; run the same command again")
        if not (partial / MARKER).is_file():
            (partial / MARKER).write_text("unfinished\n", encoding="utf-8")
        yield


def _start_over(partial: Path, spec: WorldSpec) -> None:
    for entry in partial.iterdir():
        if entry.name != MARKER:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    folders = [f"{kind}/{channel}" for kind in ("samples", "sweeps") for channel in CHANNELS]
    for folder in (*folders, "maps", spec.version, _SCENES):
        (partial / folder).mkdir(parents=True)
    write_text(partial / MARKER, spec.sha256 + "\n")


def _scene_jobs(spec: WorldSpec) -> list[tuple[int, int, str]]:
    train, val = official_scenes(spec.version)
    return [(0, i, train[i]) for i in range(spec.train_scenes)] + [(1, i, val[i]) for i in range(spec.val_scenes)]


def _write_scenes(spec: WorldSpec, partial: Path, jobs: list[tuple[int, int, str]], workers: int, quiet: bool) -> None:
    todo = [job for job in jobs if not _result(partial, job[2]).is_file()]
    if len(todo) < len(jobs):
        _report(quiet, f"resuming an interrupted run: {len(jobs) - len(todo)} of {len(jobs)} scenes are there")
    bar = tqdm(
        total=len(jobs),
        initial=len(jobs) - len(todo),
        desc="world",
        unit="scene",
        disable=quiet or not sys.stderr.isatty(),
    )
    calls = [(spec, *job, str(partial), str(_result(partial, job[2]))) for job in todo]
    with bar:
        if min(workers, len(todo)) <= 1:
            for call in calls:
                write_scene.run(*call)
                bar.update()
            return
        with compat.spawn_pool(min(workers, len(todo)), note="; finished scenes are kept") as pool:
            for future in concurrent.futures.as_completed([pool.submit(write_scene.run, *call) for call in calls]):
                future.result()
                bar.update()


def _result(partial: Path, name: str) -> Path:
    return partial / _SCENES / f"{name}.json"


def _finish(spec: WorldSpec, partial: Path, names: list[str]) -> None:
    """Merge the scenes into the tables and write world.json."""
    tables: dict[str, list] = {table: [] for table in TABLES}
    files, totals = hashlib.sha256(), Counter()
    for name in names:
        outcome = json.loads(_result(partial, name).read_text(encoding="utf-8"))
        for table, rows in outcome["records"].items():
            tables[table].extend(rows)
        files.update(f"{name} {outcome['files_sha256']}\n".encode())
        totals.update({"files": outcome["files"], "bytes": outcome["bytes"], **outcome["labels"]})
    tables |= world_tables(spec, tables["log"])
    (partial / MAP_FILE).write_bytes(_map_mask())
    digest = hashlib.sha256()
    for table in TABLES:
        text = json.dumps(tables[table], separators=(",", ":"))
        digest.update(f"{table}\0{text}\0".encode())
        (partial / spec.version / f"{table}.json").write_text(text, encoding="utf-8")
    content = {
        "generator": GENERATOR_VERSION,
        "sha256": spec.sha256,
        "spec": spec.as_dict(),
        "counts": {table: len(tables[table]) for table in TABLES}
        | {key: totals[key] for key in ("objects", "distractors", "scenery")},
        "tables_sha256": digest.hexdigest(),
        "files_sha256": files.hexdigest(),
        "files": totals["files"],
        "bytes": totals["bytes"],
    }
    write_text(partial / WORLD_JSON, json.dumps(content, indent=1) + "\n")


def _map_mask() -> bytes:
    """Return the map mask as PNG, 0.1 m a pixel, drivable everywhere."""
    side = round(MAP_SIZE_M * 10)
    return cv2.imencode(".png", np.full((side, side), 255, np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()


def _move(partial: Path, root: Path) -> None:
    """Put the finished world in place. After a kill in between, the next call takes it from ``partial``."""
    old = root.with_name(root.name + ".old")
    _raise_if_foreign(old)
    if (partial / _SCENES).exists():
        shutil.rmtree(partial / _SCENES)
    if old.exists():
        shutil.rmtree(old)
    if root.exists() and any(root.iterdir()):
        os.rename(root, old)
    os.rename(partial, root)
    if old.exists():
        shutil.rmtree(old)


def _report(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, flush=True)
