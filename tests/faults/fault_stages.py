"""The stages of a run as commands of their own, a finished run to start each of them from, and what must come out."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fault_processes import REPOSITORY, run

from aqr_bench.records.record import read_run

TIER, RESULTS = "faults", Path("results/faults")
# What a clock, a machine's load or a folder's name decides, and the variables that Snakemake sets for its jobs and a
# forked stage has not; nothing else.
UNSTEADY = {"wall_s", "started", "finished", "utc", "time", "date", "path", "log", "cost", "command", "environment"}
GIT = {"git_commit", "git_dirty"}  # someone may commit while the campaign runs


# In the notes of every table; someone may commit while the campaign runs.
_COMMIT = rb"\w+(?: with changes)?"
_UNSTEADY_NOTES = re.compile(
    rb"Run between: \S+ and \S+|Git commit of (?:the runs|this page): " + _COMMIT + rb"(?:; " + _COMMIT + rb")*"
)


@dataclass(frozen=True)
class Stage:
    """One step: its command, what of a finished run it needs and makes, and the files that say that it is done.

    Paths are relative to the results of the tier. ``compared``: globs of what has to be the same after a disturbance.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    done: str
    compared: tuple[str, ...] = ()


def _at(path: str) -> str:
    return (RESULTS / path).as_posix()


_TIER, _INFOS, _WORK = ("--tier", f"{TIER}.yaml"), ("--infos", _at("infos")), ("--work", _at("work"))
_TRAIN = ("aqr_bench.engine.train", *_TIER, *_INFOS, "--seed", "0", *_WORK)
_BRANCHES = ("pretrain/lidar/train.jsonl", "pretrain/cameras/train.jsonl")
_CROSS, _BASE = "smoke/cross/seed0", "base/seed0"
_SUITE = "evaluate.missing_sensors.jsonl"


def _trainings(name: str, where: str, more: Sequence[str], needs: Sequence[str]) -> Stage:
    out, work = f"{where}/train.jsonl", f"work/{where}"
    return Stage(name, (*_TRAIN, *more, "--out", _at(out)), ("world", "infos", *needs), (out, work), out,
                 (f"{work}/final.pth",))  # fmt: skip


STAGES = {
    stage.name: stage
    for stage in (
        Stage("world", ("aqr_bench.world", *_TIER, "--out", _at("world"), "--workers", "2", "--quiet"),
              (), ("world",), "world/world.json", ("world/**/*",)),
        Stage("infos", ("aqr_bench.data", *_TIER, "--root", _at("world"), "--out", _at("infos")),
              ("world",), ("infos",), "infos/data.json", ("infos/*",)),
        _trainings("pretrain", "pretrain/cameras", ("--pretrain", "cameras"), ()),
        _trainings("base", _BASE, ("--features", *map(_at, _BRANCHES)), ("pretrain", "work/pretrain")),
        _trainings("variant", _CROSS, ("--study", "smoke", "--variant", "cross", "--base", _at(f"{_BASE}/train.jsonl")),
                   ("base", "work/base")),
        Stage("evaluate", ("aqr_bench.cli.evaluate", *_TIER, *_INFOS, "--suite", "missing_sensors", "--train",
                           _at(f"{_CROSS}/train.jsonl"), "--study", "smoke", *_WORK, "--out",
                           _at(f"{_CROSS}/{_SUITE}")),
              ("world", "infos", f"{_CROSS}/train.jsonl", f"work/{_CROSS}/final.pth"), (f"{_CROSS}/{_SUITE}",),
              f"{_CROSS}/{_SUITE}", (f"work/{_CROSS}/detections/**/*",)),
        Stage("measure", ("aqr_bench.cost.measure", *_TIER, *_INFOS, "--study", "smoke", "--variant", "cross", "--out",
                          _at("smoke/cross/measure.jsonl")),
              ("world", "infos"), ("smoke/cross/measure.jsonl",), "smoke/cross/measure.jsonl"),
        Stage("report", ("aqr_bench.report", *_TIER, "--study", "smoke", "--records", "results",
                         "--out", _at("report")),
              ("infos", "base", "smoke", "pretrain", "pictures", "work"), ("report",), "report/index.html",
              ("report/tables/*.csv", "report/tables/*.md", "report/tables/*.tex")),
    )
}  # fmt: skip
# The training that faults are tried on which concern any: the shortest.
TRAINING, TRAINING_WORK = "pretrain", "work/pretrain/cameras"
RUN = ("aqr_bench.cli.main", "run", *_TIER, "--study", "smoke", "--cores", "2")


def tier() -> dict[str, Any]:
    """The smoke tier with pretrained branches, a checkpoint every other iteration, and the shortest measurement.

    Its world is so small that every training goes over it more than once: three batches a pass.
    """
    smoke = yaml.safe_load((REPOSITORY / "ablations/tiers/smoke.yaml").read_text())
    quick = yaml.safe_load((REPOSITORY / "ablations/tiers/quick.yaml").read_text())
    often = {"default_hooks.checkpoint.interval": 2}
    pretrain = {
        name: {**entry, "iterations": 5, "config": {**entry["config"], "train_dataloader.batch_size": 2, **often}}
        for name, entry in quick["pretrain"].items()
    }
    return {
        **smoke,
        "name": TIER,
        "world": {**smoke["world"], "train_scenes": 2},
        "pretrain": pretrain,
        "base": {"iterations": 9, "config": often},
        "variant": {"iterations": 5, "init": "base", "config": often},
        "measure": {"batch_size": 1, "warmup": 1, "rounds": 2, "batch_sizes": [1], "train_rounds": 1},
    }


@dataclass
class Place:
    """A folder with one undisturbed run, whose pieces the tries start from."""

    root: Path
    cpu_s: dict[str, float] = field(default_factory=dict)  # of each stage, undisturbed
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def whole(self) -> Path:
        return self.root / "whole"

    def empty(self, name: str) -> Path:
        """A folder with the tier file and nothing else."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(self.root / f"{TIER}.yaml", folder)
        return folder

    def before(self, stage: Stage, name: str, results: Path | None = None) -> Path:
        """A folder in which all is done that ``stage`` needs; ``results``: where a link at its results leads to."""
        folder = self.empty(name)
        if results is not None:
            (folder / "results").symlink_to(results)
        (folder / RESULTS).mkdir(parents=True)
        for piece in stage.needs:
            self.bring(piece, folder)
        for piece in stage.makes:
            remove(folder / RESULTS / piece)
        return folder

    def nearly_done(self, name: str, missing: Sequence[str]) -> Path:
        """A copy of the undisturbed run, without what some stages made."""
        folder = self.empty(name)
        shutil.copytree(self.whole, folder, dirs_exist_ok=True)
        for stage in missing:
            for piece in STAGES[stage].makes:
                remove(folder / RESULTS / piece)
        return folder

    def bring(self, piece: str, folder: Path, copied: bool = False) -> None:
        """Put a piece of the undisturbed run into a folder; the world, which is only read, as a link to it."""
        source, target = self.whole / RESULTS / piece, folder / RESULTS / piece
        target.parent.mkdir(parents=True, exist_ok=True)
        if piece == "world" and not copied:
            target.symlink_to(source)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- what came out


def steady(value: Any) -> Any:
    """Nested values without what a clock or a folder's name decides."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in UNSTEADY | GIT}
    return [steady(item) for item in value] if isinstance(value, list) else value


def records(file: Path) -> list[dict]:
    """The records of a file without times and costs, but for the number of parameters."""
    found = [record.to_dict() for record in read_run(file)]
    return [{**steady(record), "parameters": (record.get("cost") or {}).get("parameters")} for record in found]


def content(file: Path) -> Any:
    """What has to be the same in a file: of a record or a table all but times, of the page only that it is whole."""
    if file.suffix == ".jsonl":
        return records(file)
    if file.name == "index.html":
        return file.read_text().rstrip().endswith("</html>")
    data = file.read_bytes()
    return hashlib.sha256(_UNSTEADY_NOTES.sub(b"", data) if file.parent.name == "tables" else data).hexdigest()


def outcome(folder: Path, stage: Stage) -> dict[str, Any]:
    """Content of everything that a stage has made, by path."""
    results = folder / RESULTS
    files = [results / stage.done, *(file for glob in stage.compared for file in sorted(results.glob(glob)))]
    # A table of costs has the seconds that trainings took.
    files = [file for file in files if file.is_file() and "_cost." not in file.name]
    return {file.relative_to(results).as_posix(): content(file) for file in files}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Where two outcomes differ, in words; None if they are the same."""
    if found == expected:
        return None
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return f"{len(names)} files are not the same: {', '.join(names[:3])}"


def half_written(folder: Path, stage: Stage, expected: dict[str, Any]) -> str | None:
    """That a file which says 'done' is there and not what it has to be; None if all is well."""
    file = folder / RESULTS / stage.done
    if not file.is_file() or content(file) == expected[stage.done]:
        return None
    return f"{stage.done} was there and not whole"


def prepare(root: Path, say: Callable[[str], None]) -> Place:
    """The undisturbed run of ``root``, made where it is missing, and each stage once more by itself, for its time."""
    place = Place(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{TIER}.yaml").write_text(yaml.safe_dump(tier(), sort_keys=False))
    known = root / "cpu_s.json"
    spent = json.loads(known.read_text()) if known.is_file() else {}
    if "run" not in spent:
        say("the undisturbed run")
        done = run(place.empty("whole"), RUN)
        if done.code:
            raise RuntimeError(f"the undisturbed run failed:\n{done.text}")
        spent["run"] = done.cpu_s
        known.write_text(json.dumps(spent, indent=1))
    for name, stage in STAGES.items():
        if name in spent:
            continue
        say(f"undisturbed: {name}")
        folder = place.before(stage, f"alone_{name}")
        done = run(folder, stage.command)
        problem = difference(outcome(folder, stage), outcome(place.whole, stage))
        if done.code or problem:
            raise RuntimeError(f"stage {name} by itself: exit code {done.code}, {problem}\n{done.text}")
        spent[name] = done.cpu_s
        known.write_text(json.dumps(spent, indent=1))
        shutil.rmtree(folder)
    place.cpu_s = spent
    place.expected = {name: outcome(place.whole, stage) for name, stage in STAGES.items()}
    for name, found in place.expected.items():
        if len(found) < 1 + bool(STAGES[name].compared):
            raise RuntimeError(f"stage {name} left nothing to compare: {found}")
    return place
