"""Run a record again and say whether it came out the same: aqr-bench rerun RECORD [--condition NAME] [--keep DIR].

RECORD is a train, evaluate or measure file of a results folder. The command in its provenance is run again into a
temporary folder, with the code that is here now; the original is never touched. Results are compared bit for bit:
scores, loss curve, hashes of inputs, predictions, checkpoint. Of a measurement, times are told as a ratio.

Exit code: 0 if it came out the same, 1 if not, 2 if it cannot be run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from aqr_bench.console import duration
from aqr_bench.data.dataset import load_data
from aqr_bench.errors import UserError, nearest, run_main
from aqr_bench.records.diff import Comparison, compare, cost_ratios, in_words
from aqr_bench.records.provenance import ENVIRONMENT, file_facts
from aqr_bench.records.record import Record, describe, read_records
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.schema import read_yaml

KINDS = ("train", "evaluate", "measure")
FILES = ("tier", "study", "suite")  # names of shipped YAML files, or paths
RECORDS = ("base", "features", "train")  # train records that a step starts from
REPLACED = ("out", "work")
ELSEWHERE = "<elsewhere>"
LOG = "rerun.log"


@dataclass(frozen=True)
class Command:
    """A step of the benchmark with its options, as ``{name without dashes: values}``."""

    step: str
    options: dict[str, tuple[str, ...]]

    def words(self) -> list[str]:
        return [word for name, values in self.options.items() for word in (f"--{name}", *values)]

    def value(self, name: str) -> str | None:
        values = self.options.get(name, ())
        return values[0] if values else None


def main(argv: list[str] | None = None) -> int:
    """0 if every chosen record came out the same, 1 if not. UserError for what cannot be run again."""
    args = _arguments(argv)
    given = {name: getattr(args, name) for name in ("infos", *FILES, *RECORDS)}
    given = {name: tuple(v) if isinstance(v, list) else (v,) for name, v in given.items() if v}
    chosen = choose(args.record, args.line, args.condition)
    with folder_for(args.keep) as folder:
        found = []
        for number, records in enumerate(by_command(chosen)):
            place = folder / str(number) if number else folder
            found += run_again(args.record, records, given, place)
    different = [name for name, comparison in found if not comparison.same]
    if len(found) > 1:
        print(f"{len(found) - len(different)} of {len(found)} records came out the same")
    if args.keep:
        print(f"new records, checkpoints and log: {args.keep}")
    return 1 if different else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench rerun", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="record file (.jsonl)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--line", type=int, metavar="N", help="only the record in this line, from 1 (default: all)")
    which.add_argument("--condition", metavar="NAME", help="only the record of this condition")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what the run writes, in this new folder")
    where = parser.add_argument_group("where things are now, if the record's command no longer finds them")
    where.add_argument("--infos", help="folder that `aqr-bench data` wrote")
    for name in FILES:
        where.add_argument(f"--{name}", help=f"{name} file or name")
    for name in RECORDS:
        where.add_argument(f"--{name}", nargs="+" if name == "features" else None, help="train record to start from")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- which records, and how they came to be


def choose(path: Path, line: int | None, condition: str | None) -> list[Record]:
    """The records of a file that are to be run again. UserError for a damaged one or one that is not there."""
    records = read_records(path)
    if line is not None:
        if not 1 <= line <= len(records):
            raise UserError(f"{path}: --line {line}: the file has {len(records)} lines")
        records = [records[line - 1]]
    if condition is not None:
        names = [record.condition for record in records if record.condition]
        if condition not in names:
            hint = nearest(condition, names) if names else "; the file holds no evaluation"
            raise UserError(f"{path}: --condition: no record of '{condition}'{hint}")
        records = [record for record in records if record.condition == condition]
    for record in records:
        if record.extra.get("damaged"):
            raise UserError(f"{record.reason}. A damaged record cannot be run again; --line N chooses another one")
    return records


def by_command(records: Sequence[Record]) -> list[list[Record]]:
    """Records that one command wrote, together."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record.provenance.get("command")), []).append(record)
    return list(groups.values())


def command_of(record: Record, path: Path) -> Command:
    """The step and its options in a record's provenance. UserError if no step of the benchmark wrote it."""
    text = record.provenance.get("command")
    try:
        words = shlex.split(text or "")
    except ValueError:
        words = []
    step = None
    for at, word in enumerate(words):
        if word.startswith("aqr_bench.") and word.partition(".")[2] in KINDS:  # python -m aqr_bench.train, earlier
            step, rest = word.partition(".")[2], words[at + 1 :]
            break
        # aqr-bench train ..., .venv/bin/aqr-bench train ..., python -m aqr_bench train ...; earlier: -m aqr_bench.cli
        if (word in ("aqr_bench", "aqr_bench.cli") or Path(word).name == "aqr-bench") and words[at + 1 : at + 2]:
            step, rest = words[at + 1], words[at + 2 :]
            break
    if step != record.kind:
        raise UserError(
            f"{path} cannot be run again: provenance.command: '{text}' is not the command of a {record.kind} step"
        )
    options: dict[str, tuple[str, ...]] = {}
    name = None
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options[name] = (value,) if equals else ()
        elif name is not None:
            options[name] += (word,)
    return Command(step, options)


# ---------------------------------------------------------------- where things are


def moved(record: Path, out: str) -> tuple[Path, Path]:
    """The folder of the results as the command named it, and where it is now.

    ``results/quick/base/seed0/train.jsonl`` that lies at ``kept/base/seed0/train.jsonl``: ``results/quick``, ``kept``.
    """
    old, new = Path(os.path.normpath(out)), record.absolute()
    while old.name == new.name and old.name:
        old, new = old.parent, new.parent
    return old, new


def located(text: str, what: str, record: Path, out: str) -> Path:
    """A path of the command where it is now: in the results folder of the record, then from the working folder.

    What was elsewhere (its folder is not in the record) is looked for beside the record and above it.
    """
    old, new = moved(record, out)
    path = Path(os.path.normpath(text))
    tried = []
    if path.parts[:1] == (ELSEWHERE,):
        rest = path.relative_to(ELSEWHERE)
        tried = [folder / rest for folder in record.absolute().parents if folder / rest != record.absolute()]
    else:
        if path.is_relative_to(old):
            tried.append(new / path.relative_to(old))
        tried.append(Path.cwd() / path)
    there = [place for place in tried if place.exists()]
    if there:
        # Records are often kept without their checkpoints, which may still be where the command had them.
        return next((place for place in there if what in RECORDS and has_checkpoint(place)), there[0])
    raise UserError(f"{record} cannot be run again: {what} is not there: {text}. Give its place with --{what}")


def has_checkpoint(path: Path) -> bool:
    """Whether the checkpoint that a train record names is there; also False for a training that failed."""
    name = read_records(path)[0].provenance.get("checkpoint")
    return name is not None and (path.parent / name).is_file()


def prepared(record: Record, path: Path, given: dict[str, tuple[str, ...]]) -> Command:
    """The record's command with everything where it is now. UserError names what is missing and the way out."""
    command = command_of(record, path)
    options, out = dict(command.options), command.value("out") or path.name
    for name in REPLACED:
        options.pop(name, None)
    for name, values in given.items():
        if name in options:
            options[name] = values
        elif name in ("suite", "infos", "train") and command.step == "train":
            raise UserError(f"--{name}: a training has no such thing")
    if command.step == "measure" and "infos" not in options:
        options["infos"] = (f"results/{record.tier}/infos",)
    for name in ("infos", *FILES, *RECORDS):
        if name in options and name not in given and not (name in FILES and _is_name(options[name][0])):
            options[name] = tuple(str(located(text, name, path, out)) for text in options[name])
    require_all(record, path, options)
    return Command(command.step, options)


def _is_name(text: str) -> bool:
    return "/" not in text and not text.endswith((".yaml", ".yml"))


def require_all(record: Record, path: Path, options: dict[str, tuple[str, ...]]) -> None:
    """Everything that can be known to be missing before the step runs: UserError names it."""
    for name, load in zip(FILES, (load_tier, load_study, load_suite), strict=True):
        if name in options:
            load(options[name][0])
    data = load_data(options["infos"][0])
    if not (data.root / data.version).is_dir():
        raise UserError(f"{path} cannot be run again: data set not found: {data.root / data.version}")
    for start in (Path(text) for name in RECORDS for text in options.get(name, ())):
        first = read_records(start)[0]
        # A start that failed is part of the story: what came of it fails again.
        if first.ok and not has_checkpoint(start):
            raise UserError(
                f"{path} cannot be run again: {start} names a checkpoint that is not there: "
                f"{first.provenance.get('checkpoint')}. Train it again (aqr-bench rerun {start} --keep DIR) and name "
                f"the new record with --{next(option for option in RECORDS if option in options)}"
            )


# ---------------------------------------------------------------- running again


@contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """The folder to run in: ``keep``, which must be new or empty, or a temporary one."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="aqr-bench-rerun-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UserError(f"--keep {keep} is there and not empty; name a new folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


def run_again(
    path: Path, records: Sequence[Record], given: dict[str, tuple[str, ...]], folder: Path
) -> list[tuple[str, Comparison]]:
    """Run the command of some records of one file again and print how each compares. UserError if it cannot be run."""
    first = records[0]
    command = prepared(first, path, given)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / path.name
    options = dict(command.options)
    suite = load_suite(options["suite"][0]).path if command.step == "evaluate" else None
    if suite is not None:
        options["suite"] = (str(only_conditions(suite, records, folder)),)
    options["out"] = (str(out),)
    if command.step != "measure":
        options["work"] = (str(folder / "work"),)
    command = replace(command, options=options)
    print(f"{len(records)} of {path}" if len(records) > 1 else f"{describe(first)}: {path}")
    took = sum(record.cost.get("wall_s") or 0.0 for record in records)
    print(f"running again{f' (it took {duration(took)} then)' if took else ''}, log: {folder / LOG}", flush=True)
    run_step(command, first, folder / LOG)
    again = {record.condition: record for record in read_records(out)}
    found = []
    for record in records:
        if record.condition not in again:
            raise UserError(f"{path}: the run wrote no record of condition '{record.condition}'")
        now = again[record.condition]
        if suite is not None and "suite" in now.provenance["files"]:
            files = {**now.provenance["files"], "suite": file_facts(suite)}  # not the excerpt that was run
            now = replace(now, provenance={**now.provenance, "files": files})
        comparison = compare(record, now)
        name = describe(record)
        lines = in_words(comparison)
        lines += [f"  {line}" for line in more(record, now, path, out, comparison)]
        if record.condition:
            lines[0] = f"{record.condition}: {lines[0]}"
        print("\n".join(lines), flush=True)
        found.append((name, comparison))
    return found


def more(then: Record, now: Record, path: Path, out: Path, found: Comparison) -> list[str]:
    """What goes beyond the comparison of values: how far checkpoints are apart, how costs compare."""
    if then.kind == "measure":
        return [*cost_ratios(then.cost, now.cost), "times and memory are measured anew and never equal"]
    if "provenance.checkpoint_sha256" not in [d.name for d in found.different]:
        return []
    files = [p.parent / str(r.provenance.get("checkpoint")) for p, r in ((path, then), (out, now))]
    return [weights_apart(*files)] if all(file.is_file() for file in files) else []


def only_conditions(suite: Path, records: Sequence[Record], folder: Path) -> Path:
    """The suite file with the conditions of the chosen records alone, written into ``folder`` under its own name."""
    data = read_yaml(suite)
    wanted = {record.condition for record in records}
    there = [entry["name"] for entry in data["conditions"]]
    gone = [name for name in wanted if name not in there]
    if gone:
        raise UserError(f"{suite}: conditions: the suite no longer has '{gone[0]}'{nearest(str(gone[0]), there)}")
    if any(record.failed for record in records):
        wanted.add(there[0])  # the reference: a condition that leaves inputs equal to its own is recorded as failed
    data["conditions"] = [entry for entry in data["conditions"] if entry["name"] in wanted]
    target = folder / suite.name
    target.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return target


def run_step(command: Command, record: Record, log: Path) -> None:
    """Run a step in a process of its own, with the threads of the record. UserError if it ends without a record."""
    processes = int(record.cost.get("processes", 1))
    start = ["-m"]
    if processes > 1:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    threads = (record.provenance.get("machine") or {}).get("torch_threads") or 1
    known = record.provenance.get("environment", {"OMP_NUM_THREADS": str(threads)})
    # Which GPU is used is this machine's affair.
    own = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT or name.startswith("CUDA")}
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, *start, "aqr_bench", command.step, *command.words()],
            env={**own, **{name: value for name, value in known.items() if not name.startswith("CUDA")}},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        text = log.read_text(encoding="utf-8", errors="replace")
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
        raise UserError(f"the {command.step} step ended with {done.returncode}: {last.removeprefix('error: ')}")


if __name__ == "__main__":
    run_main(main)


def weights_apart(then: Path, now: Path) -> str:
    """How far two checkpoints are apart: the parameter with the largest difference."""
    from aqr_bench.engine.weights import weights_of

    try:
        old, new = (weights_of(file) for file in (then, now))
    except RuntimeError as error:
        return f"one of the checkpoints cannot be read: {error}"
    if old.keys() != new.keys():
        return f"the checkpoints hold other parameters: {sorted(old.keys() ^ new.keys())[:3]}"
    if [n for n in old if old[n].shape != new[n].shape]:
        return "the checkpoints hold parameters of other shapes"
    apart = {n: float((old[n].double() - new[n].double()).abs().max()) for n in old if old[n].numel()}
    name = max(apart, key=lambda n: apart[n])
    changed = sum(value > 0 for value in apart.values())
    if not changed:
        return "the weights in the checkpoints are equal, only the files differ"
    return f"{changed} of {len(apart)} parameters differ, the most in {name}: by {apart[name]:.3g}"
