"""The stages of a run as single commands, an undisturbed run to start each of them from, and what must come out."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fault_processes import REPOSITORY, Done, Meanwhile, run
from fault_table import NO, YES, Row

from aqr_bench.data import digests
from aqr_bench.records.record import Record, read_run

TIER, RESULTS = "faults", Path("results/faults")
# What a clock, a machine's load or a folder's name decides, and nothing else.
CLOCK = {"wall_s", "started", "finished", "utc", "time", "date", "path", "log", "cost"}
# And the variables that Snakemake sets for its jobs and a forked stage has not; and git's state, since someone may
# commit while the campaign runs.
UNSTEADY = CLOCK | {"command", "environment", "git_commit", "git_dirty"}
# In the notes of every table.
_COMMITS = rb"\w+(?: with changes)?(?:; \w+(?: with changes)?)*"
_UNSTEADY_NOTES = re.compile(rb"Run between: \S+ and \S+|Git commit of (?:the runs|this page): " + _COMMITS)


@dataclass(frozen=True)
class Stage:
    """One step: its command, what of a finished run it needs and makes, and the file that shows that it is done.

    Paths are relative to the results of the tier. ``compared``: globs of what has to be the same after a disturbance.
    """

    command: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    done: str
    compared: tuple[str, ...] = ()


def _stage(command: str, needs: str, makes: str, done: str, compared: str = "") -> Stage:
    """``@path`` in a command lies below the results of the tier."""
    step, *options = command.replace("@", f"{RESULTS}/").split()
    words = ("aqr_bench", step, "--tier", f"{TIER}.yaml", *options)
    return Stage(words, tuple(needs.split()), tuple(makes.split()), done, tuple(compared.split()))


def _training(folder: str, options: str, needs: str = "") -> Stage:
    command = f"train --infos @infos --seed 0 --work @work {options} --out @{folder}/train.jsonl"
    out, work = f"{folder}/train.jsonl", f"work/{folder}"
    return _stage(command, f"world infos {needs}", f"{out} {work}", out, f"{work}/final.pth")


_CROSS, _SUITE = "smoke/cross/seed0", "smoke/cross/seed0/evaluate.missing_sensors.jsonl"
_MEASURE = "smoke/cross/measure.jsonl"
STAGES = {
    "world": _stage("world --out @world --workers 2 --quiet", "", "world", "world/world.json", "world/**/*"),
    "infos": _stage("data --root @world --out @infos", "world", "infos", "infos/data.json", "infos/*"),
    "pretrain": _training("pretrain/cameras", "--pretrain cameras"),
    "base": _training(
        "base/seed0", "--features @pretrain/lidar/train.jsonl @pretrain/cameras/train.jsonl", "pretrain work/pretrain"
    ),
    "variant": _training(_CROSS, "--study smoke --variant cross --base @base/seed0/train.jsonl", "base work/base"),
    "evaluate": _stage(
        f"evaluate --infos @infos --suite missing_sensors --train @{_CROSS}/train.jsonl --study smoke --work @work "
        f"--out @{_SUITE} --allow-failures",
        f"world infos {_CROSS}/train.jsonl work/{_CROSS}/final.pth", _SUITE, _SUITE, f"work/{_CROSS}/detections/**/*",
    ),
    "measure": _stage(
        f"measure --infos @infos --study smoke --variant cross --out @{_MEASURE}", "world infos", _MEASURE, _MEASURE
    ),
    "report": _stage(
        "report --study smoke --records results --out @report", "infos base smoke pretrain pictures work", "report",
        "report/index.html", "report/tables/*.csv report/tables/*.md report/tables/*.tex",
    ),
}  # fmt: skip
# The training that faults are tried on which concern any: the shortest.
TRAINING, TRAINING_WORK = "pretrain", "work/pretrain/cameras"
RUN = ("aqr_bench", "run", "--tier", f"{TIER}.yaml", "--study", "smoke", "--cores", "2")


def tier() -> dict[str, Any]:
    """The smoke tier with pretrained branches, a checkpoint every other iteration, and the shortest measurement.

    Its world is so small that every training goes over it more than once: three batches a pass.
    """
    smoke, quick = (yaml.safe_load((REPOSITORY / f"ablations/tiers/{n}.yaml").read_text()) for n in ("smoke", "quick"))
    often = {"default_hooks.checkpoint.interval": 2}
    pretrain = {
        name: {**entry, "iterations": 5, "config": {**entry["config"], "train_dataloader.batch_size": 2, **often}}
        for name, entry in quick["pretrain"].items()
    }
    return smoke | {
        "name": TIER,
        "world": {**smoke["world"], "train_scenes": 2},
        "pretrain": pretrain,
        "base": {"iterations": 9, "config": often},
        "variant": {"iterations": 5, "init": "base", "config": often},
        "measure": {"batch_size": 1, "warmup": 1, "rounds": 2, "batch_sizes": [1], "train_rounds": 1},
    }


@dataclass(frozen=True)
class Reference:
    """A folder with an undisturbed run, whose pieces the tries start from; ``case`` names the folder of a try."""

    root: Path
    cpu_s: dict[str, float] = field(default_factory=dict)  # processor time of each stage by itself
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)  # outputs of each stage
    case: str = "try"

    @property
    def folder(self) -> Path:
        return self.root / "whole"

    def empty(self, name: str) -> Path:
        """A folder with the tier file and nothing else."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(self.root / f"{TIER}.yaml", folder)
        return folder

    def before(self, name: str) -> Trial:
        """A try of a stage: all is done that it needs."""
        trial = Trial(self, self.empty(self.case), name)
        trial.path().mkdir(parents=True)
        for piece in STAGES[name].needs:
            self.bring(piece, trial.folder)
        trial.remove(*STAGES[name].makes)
        return trial

    def nearly_done(self, *missing: str) -> Trial:
        """A try of the workflow: all is done but some stages."""
        trial = Trial(self, self.empty(self.case))
        shutil.copytree(self.folder, trial.folder, dirs_exist_ok=True)
        trial.remove(*(piece for stage in missing for piece in STAGES[stage].makes))
        return trial

    def bring(self, piece: str, folder: Path, copied: bool = False) -> None:
        """Put a piece of the undisturbed run into a folder; the world, which is only read, as a link to it."""
        source, target = self.folder / RESULTS / piece, folder / RESULTS / piece
        target.parent.mkdir(parents=True, exist_ok=True)
        if piece == "world" and not copied:
            target.symlink_to(source)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


class Trial:
    """A folder in which a fault is tried on a stage (None: on the whole workflow), and the problems that came up."""

    def __init__(self, reference: Reference, folder: Path, stage: str | None = None) -> None:
        self.reference, self.folder, self.stage = reference, folder, stage
        self.problems: list[str] = []
        self.command = STAGES[stage].command if stage else RUN

    def run(self, meanwhile: Meanwhile | None = None, *built_in: str, **environment: str) -> Done:
        """Run the command to its end; ``built_in``: a script and its options that come before the command."""
        return run(self.folder, (*built_in, *self.command), meanwhile, **environment)

    def path(self, piece: str = "") -> Path:
        return self.folder / RESULTS / piece

    @property
    def done_file(self) -> Path:
        return self.path(STAGES[self.stage].done)

    def records(self) -> list[Record]:
        return read_run(self.done_file) if self.done_file.is_file() else []

    def reason(self) -> str:
        """Why the first record of the stage failed."""
        return next((record.reason or "" for record in self.records()), "")

    def remove(self, *pieces: str) -> None:
        """Remove files or folders, where they are there."""
        for path in map(self.path, pieces):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def change_tier(self, change: Callable[[dict], None]) -> None:
        file = self.folder / f"{TIER}.yaml"
        changed = yaml.safe_load(file.read_text())
        change(changed)
        file.write_text(yaml.safe_dump(changed, sort_keys=False))

    def note(self, *problems: str | None) -> None:
        self.problems += filter(None, problems)

    def expect(self, fine: object, problem: str) -> None:
        self.note(None if fine else problem)

    def expect_same(self) -> None:
        """What the stage, or every stage of the workflow, makes is what the undisturbed run made."""
        for name in [self.stage] if self.stage else STAGES:
            self.note(difference(outputs(self.folder, STAGES[name]), self.reference.expected[name]))

    def expect_nothing_half_written(self) -> None:
        for name in [self.stage] if self.stage else STAGES:
            self.note(half_written(self.folder, STAGES[name], self.reference.expected[name]))

    def resumes(self) -> Done:
        """The same command again comes to its end, with the result of the undisturbed run."""
        done = self.run()
        self.note((wrong := done.not_ended_with(0)) and f"the next call: {wrong}")
        self.expect_same()
        return done

    def row(self, fault: str, promise: str, fine: str, **counts: int) -> Row:
        """The row of the table: the problems, or else ``fine``; without the names of the campaign's folders."""
        seen = "; ".join(dict.fromkeys(self.problems)) or fine
        for root in (self.folder, self.reference.folder):
            seen = seen.replace(f"{root}/", "")
        return Row(fault, self.stage or "aqr-bench run", promise, seen, NO if self.problems else YES, **counts)


def without(value: Any, keys: set[str]) -> Any:
    """Nested values without some keys."""
    if isinstance(value, dict):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    return [without(item, keys) for item in value] if isinstance(value, list) else value


def steady_records(file: Path, unsteady: set[str] = UNSTEADY) -> list[dict]:
    """The records of a file without times and costs, but for the number of parameters."""
    records = [record.to_dict() for record in read_run(file)]
    return [without(r, unsteady) | {"parameters": (r.get("cost") or {}).get("parameters")} for r in records]


def content(file: Path) -> Any:
    """What has to be the same in a file: of a record or a table all but times, of the page only that it is complete."""
    if file.suffix == ".jsonl":
        return steady_records(file)
    if file.name == "index.html":
        return file.read_text().rstrip().endswith("</html>")
    data = file.read_bytes()
    return hashlib.sha256(_UNSTEADY_NOTES.sub(b"", data) if file.parent.name == "tables" else data).hexdigest()


def outputs(folder: Path, stage: Stage) -> dict[str, Any]:
    """Content of everything that a stage has made, by path."""
    results = folder / RESULTS
    files: Iterable[Path] = [results / stage.done, *(f for glob in stage.compared for f in sorted(results.glob(glob)))]
    # A table of costs has the seconds that trainings took, digests are noted with the times of the files.
    files = [file for file in files if file.is_file() and "_cost." not in file.name and file.name != digests.NOTES]
    return {file.relative_to(results).as_posix(): content(file) for file in files}


def difference(made: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Where two outputs differ, in words; None if they are the same."""
    names: Sequence[str] = sorted(name for name in {*made, *expected} if made.get(name) != expected.get(name))
    return f"{len(names)} files are not the same: {', '.join(names[:3])}" if names else None


def half_written(folder: Path, stage: Stage, expected: dict[str, Any]) -> str | None:
    """That a file which shows 'done' is there and not what it has to be; None if all is well."""
    file = folder / RESULTS / stage.done
    if not file.is_file() or content(file) == expected[stage.done]:
        return None
    return f"{stage.done} was there and not whole"


def prepare(root: Path, say: Callable[[str], None]) -> Reference:
    """The undisturbed run of ``root``, made where it is missing, and each stage once more by itself, for its time."""
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{TIER}.yaml").write_text(yaml.safe_dump(tier(), sort_keys=False))
    reference, times = Reference(root), root / "cpu_s.json"
    spent = json.loads(times.read_text()) if times.is_file() else {}
    for name in ("run", *STAGES):
        if name in spent:
            continue
        say(f"undisturbed: {name}")
        trial = Trial(reference, reference.empty("whole")) if name == "run" else reference.before(name)
        done = trial.run()
        made = {} if name == "run" else outputs(trial.folder, STAGES[name])
        problem = None if name == "run" else difference(made, outputs(reference.folder, STAGES[name]))
        if done.code or problem or (name != "run" and len(made) < 1 + bool(STAGES[name].compared)):
            raise RuntimeError(f"undisturbed {name}: exit code {done.code}, {problem}, made {[*made]}\n{done.text}")
        spent[name] = done.cpu_s
        times.write_text(json.dumps(spent, indent=1))
    return Reference(root, spent, {name: outputs(reference.folder, stage) for name, stage in STAGES.items()})
