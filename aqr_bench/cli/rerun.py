"""Run a record again and compare the results: aqr-bench rerun RECORD [--condition NAME] [--keep DIR].

RECORD is a train, evaluate or measure file of a results folder. The command in its provenance is run again into a
temporary folder, with the code that is here now; the original is never touched. Results are compared bit for bit:
scores, loss curve, hashes of inputs, predictions, checkpoint. Times of a measurement are reported as a ratio.

Exit code: 0 if all results are identical, 1 if not, 2 if the record cannot be run again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from aqr_bench.cli.records import stale_lines
from aqr_bench.console import add_json_option, duration, print_json
from aqr_bench.data.dataset import load_data
from aqr_bench.errors import UserError, nearest, run_main
from aqr_bench.folders import shipped_folder
from aqr_bench.records.diff import Comparison, compare, cost_ratios, summary_lines
from aqr_bench.records.provenance import ENVIRONMENT, file_facts
from aqr_bench.records.record import Record, describe, read_records
from aqr_bench.study.load import load_suite
from aqr_bench.study.schema import read_yaml

YAML_FILES = ("tier", "study", "suite")  # options that name a shipped file or a path
TRAIN_RECORDS = ("base", "features", "train")  # options that name train records to start from
ELSEWHERE = "<elsewhere>"
LOG = "rerun.log"

Options = dict[str, tuple[str, ...]]  # of a step's command line, names without dashes


def main(argv: list[str] | None = None) -> int:
    """0 if all chosen records give identical results, 1 if not. UserError for what cannot be run again."""
    args = _arguments(argv)
    given = {name: getattr(args, name) for name in ("infos", *YAML_FILES, *TRAIN_RECORDS)}
    given = {name: tuple(v) if isinstance(v, list) else (v,) for name, v in given.items() if v}
    records = choose(args.record, args.line, args.condition)
    stale = stale_lines({args.record: records})
    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        for line in stale:
            print(f"stale: {line}")
        with folder_for(args.keep) as folder:
            repeated = run_again(args.record, records, given, folder)
        if len(records) > 1:
            print(f"{sum(r.comparison.same for r in repeated)} of {len(records)} records have identical results")
        if args.keep:
            print(f"new records, checkpoints and log: {args.keep}")
    identical = all(r.comparison.same for r in repeated)
    if args.json:
        facts = {"identical": identical, "record": args.record, "stale": stale, "keep": args.keep}
        print_json({**facts, "records": [r.facts for r in repeated]})
    return 0 if identical else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench rerun", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="record file (.jsonl)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--line", type=int, metavar="N", help="only the record in this line, from 1 (default: all)")
    which.add_argument("--condition", metavar="NAME", help="only the record of this condition")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what the run writes, in this new folder")
    add_json_option(parser)
    where = parser.add_argument_group("where things are now, if they are no longer where the record's command had them")
    where.add_argument("--infos", help="folder that `aqr-bench data` wrote")
    for name in YAML_FILES:
        where.add_argument(f"--{name}", help=f"{name} file or name")
    for name in TRAIN_RECORDS:
        several = {"nargs": "+", "action": "extend"} if name == "features" else {}
        where.add_argument(f"--{name}", **several, help="train record to start from")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- which records, and the command that wrote them


def choose(path: Path, line: int | None, condition: str | None) -> list[Record]:
    """The records of a file that are to be run again. UserError for a damaged one or one that does not exist."""
    records = read_records(path)
    if line is not None:
        if not 1 <= line <= len(records):
            raise UserError(f"{path}: --line {line}: the file has {len(records)} lines")
        records = [records[line - 1]]
    if condition is not None:
        names = [record.condition for record in records if record.condition]
        if condition not in names:
            hint = nearest(condition, names) if names else "; the file has no evaluation"
            raise UserError(f"{path}: --condition: no record of '{condition}'{hint}")
        records = [record for record in records if record.condition == condition]
    for record in records:
        if record.extra.get("damaged"):
            raise UserError(f"{record.reason}. A damaged record cannot be run again; --line N chooses another one")
    if len({record.provenance.get("command") for record in records}) > 1:
        raise UserError(f"{path}: several commands wrote these records; choose one record with --line N")
    return records


def parse_command(record: Record, path: Path) -> Options:
    """The options of the command in a record's provenance. UserError if it is not the command of a step."""
    text = record.provenance.get("command")
    try:
        words = shlex.split(str(text or ""))
    except ValueError:
        words = []
    step, rest = None, []
    for at, word in enumerate(words):
        name = Path(word).name
        # aqr-bench train ..., .venv/bin/aqr-bench train ..., python -m aqr_bench train ...; earlier: -m aqr_bench.cli
        if name in ("aqr-bench", "aqr_bench", "aqr_bench.cli", "aqr_bench.cli.main"):
            step, rest = next(iter(words[at + 1 :]), None), words[at + 2 :]
            break
        if name.startswith("aqr_bench."):  # earlier: python -m aqr_bench.train ...
            step, rest = name.rpartition(".")[2], words[at + 1 :]
            break
    if step != record.kind:
        raise UserError(
            f"{path} cannot be run again: provenance.command: '{text}' is not the command of a {record.kind} step"
        )
    options: Options = {}
    name = None
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options[name] = (value,) if equals else ()
        elif name is not None:
            options[name] += (word,)
    return options


# ---------------------------------------------------------------- where things are


def moved(record: Path, out: str) -> tuple[Path, Path]:
    """The results folder as the command named it, and where it is now.

    ``results/quick/base/seed0/train.jsonl`` that is now ``copy/base/seed0/train.jsonl``: ``results/quick``, ``copy``.
    """
    old, new = Path(os.path.normpath(out)), record.absolute()
    while old.name == new.name and old.name:
        old, new = old.parent, new.parent
    return old, new


def located(text: str, option: str, record: Path, out: str) -> Path:
    """A path of the command where it is now: in the results folder of the record, the working folder, or what ships.

    What was elsewhere (its folder is not in the record) is searched for beside the record and above it.
    """
    old, new = moved(record, out)
    path = Path(os.path.normpath(text))
    if path.parts[:1] == (ELSEWHERE,):
        rest = path.relative_to(ELSEWHERE)
        candidates = [folder / rest for folder in record.absolute().parents if folder / rest != record.absolute()]
    else:
        candidates = [new / path.relative_to(old)] if path.is_relative_to(old) else []
        candidates += [Path.cwd() / path, shipped_folder() / path]
    existing = [candidate for candidate in candidates if candidate.exists()]
    if not existing:
        raise UserError(f"{record} cannot be run again: {option} not found: {text}. Name its path with --{option}")
    # Records are often copied without their checkpoints, which may still be where the command had them.
    return next((path for path in existing if option in TRAIN_RECORDS and has_checkpoint(path)), existing[0])


def has_checkpoint(path: Path) -> bool:
    """Whether the checkpoint that a train record names exists; also False for a training that failed."""
    name = read_records(path)[0].provenance.get("checkpoint")
    return name is not None and (path.parent / name).is_file()


def prepared_options(record: Record, path: Path, given: Options) -> Options:
    """The options of the record's command with every path as it is now. UserError names what is missing."""
    options = parse_command(record, path)
    out = next(iter(options.pop("out", ())), path.name)
    options.pop("work", None)
    for name, values in given.items():
        if name in options:
            options[name] = values
        elif name in ("suite", "infos", "train") and record.kind == "train":
            raise UserError(f"--{name}: a training has no such option")
    if record.kind == "measure":
        options.setdefault("infos", (f"results/{record.tier}/infos",))
    for name in ("infos", *YAML_FILES, *TRAIN_RECORDS):
        if name in options and name not in given and not (name in YAML_FILES and _is_name(options[name][0])):
            options[name] = tuple(str(located(text, name, path, out)) for text in options[name])
    require_inputs(path, options)
    return options


def _is_name(text: str) -> bool:
    return "/" not in text and not text.endswith((".yaml", ".yml"))


def require_inputs(path: Path, options: Options) -> None:
    """UserError for a data set or a checkpoint that is missing, which the step would record as a failure."""
    data = load_data(options["infos"][0])
    if not (data.root / data.version).is_dir():
        raise UserError(f"{path} cannot be run again: data set not found: {data.root / data.version}")
    for option in TRAIN_RECORDS:
        for start in map(Path, options.get(option, ())):
            trained = read_records(start)[0]
            if trained.ok and not has_checkpoint(start):  # after a failed training the step fails again, as it should
                raise UserError(
                    f"{path} cannot be run again: the checkpoint that {start} names does not exist: "
                    f"{trained.provenance.get('checkpoint')}. Train it again (aqr-bench rerun {start} --keep DIR) and "
                    f"name the new record with --{option}"
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
        raise UserError(f"--keep {keep}: exists and is not empty; name a new folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


@dataclass(frozen=True)
class RepeatedRecord:
    """A record, how its repetition compares, and what goes beyond the comparison of values."""

    record: Record
    comparison: Comparison
    notes: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        return {"condition": self.record.condition, **self.comparison.facts, "notes": self.notes}


def run_again(path: Path, records: Sequence[Record], given: Options, folder: Path) -> list[RepeatedRecord]:
    """Run the command of records of one file again and print how each compares. UserError if it cannot be run."""
    first, out = records[0], folder / path.name
    options = prepared_options(first, path, given) | {"out": (str(out),)}
    suite = load_suite(options["suite"][0]).path if first.kind == "evaluate" else None
    if suite is not None:
        options["suite"] = (str(only_conditions(suite, records, folder)),)
    if first.kind != "measure":
        options["work"] = (str(folder / "work"),)
    print(f"{len(records)} of {path}" if len(records) > 1 else f"{describe(first)}: {path}")
    took = sum(record.cost.get("wall_s") or 0.0 for record in records)
    print(f"running again{f' (it took {duration(took)} then)' if took else ''}, log: {folder / LOG}", flush=True)
    run_step(options, first, folder / LOG)
    again = {record.condition: record for record in read_records(out)}
    repeated = []
    for then in records:
        if then.condition not in again:
            raise UserError(f"{path}: the run wrote no record of condition '{then.condition}'")
        now = again[then.condition]
        if suite is not None and "suite" in now.provenance["files"]:
            files = {**now.provenance["files"], "suite": file_facts(suite)}  # not the excerpt that was run
            now = replace(now, provenance={**now.provenance, "files": files})
        comparison = compare(then, now)
        head, *lines = summary_lines(comparison)
        head = f"{then.condition}: {head}" if then.condition else head
        notes = tuple(further_lines(then, now, path, out, comparison))
        print("\n".join([head, *lines, *(f"  {note}" for note in notes)]), flush=True)
        repeated.append(RepeatedRecord(then, comparison, notes))
    return repeated


def further_lines(then: Record, now: Record, path: Path, out: Path, comparison: Comparison) -> list[str]:
    """What goes beyond the comparison of values: how far checkpoints are apart, how costs compare."""
    if then.kind == "measure":
        return [*cost_ratios(then.cost, now.cost), "times and memory are measured anew and never equal"]
    if "provenance.checkpoint_sha256" not in [d.name for d in comparison.different]:
        return []
    files = [p.parent / str(r.provenance.get("checkpoint")) for p, r in ((path, then), (out, now))]
    return [weight_difference(*files)] if all(file.is_file() for file in files) else []


def weight_difference(then: Path, now: Path) -> str:
    """How far two checkpoints are apart: the parameter with the largest difference."""
    from aqr_bench.engine.weights import weights_of

    try:
        old, new = (weights_of(file) for file in (then, now))
    except RuntimeError as error:
        return f"one of the checkpoints cannot be read: {error}"
    if old.keys() != new.keys():
        return f"the checkpoints have other parameters: {sorted(old.keys() ^ new.keys())[:3]}"
    if any(old[n].shape != new[n].shape for n in old):
        return "the checkpoints have parameters of other shapes"
    largest = {n: float((old[n].double() - new[n].double()).abs().max()) for n in old if old[n].numel()}
    changed = sum(value > 0 for value in largest.values())
    if not changed:
        return "the weights in the checkpoints are equal, only the files differ"
    name = max(largest, key=lambda n: largest[n])
    return f"{changed} of {len(largest)} parameters differ, the most in {name}: by {largest[name]:.3g}"


def only_conditions(suite: Path, records: Sequence[Record], folder: Path) -> Path:
    """The suite file with the conditions of the chosen records alone, written into ``folder`` under its own name."""
    data = read_yaml(suite)
    wanted = {record.condition for record in records}
    names = [entry["name"] for entry in data["conditions"]]
    missing = [name for name in wanted if name not in names]
    if missing:
        hint = nearest(str(missing[0]), names)
        raise UserError(f"{suite}: conditions: the suite no longer has '{missing[0]}'{hint}")
    if any(record.failed for record in records):
        wanted.add(names[0])  # the reference: a condition that leaves inputs equal to its own is recorded as failed
    data["conditions"] = [entry for entry in data["conditions"] if entry["name"] in wanted]
    target = folder / suite.name
    target.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return target


def run_step(options: Options, record: Record, log: Path) -> None:
    """Run the step in a separate process, with the threads of the record. UserError if it ends without a record."""
    processes = int(record.cost.get("processes", 1))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    threads = (record.provenance.get("machine") or {}).get("torch_threads") or 1
    recorded = record.provenance.get("environment", {"OMP_NUM_THREADS": str(threads)})
    # Which GPU is used is this machine's affair.
    here = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT or name.startswith("CUDA")}
    words = [word for name, values in options.items() for word in (f"--{name}", *values)]
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "aqr_bench", record.kind, *words],
            env={**here, **{name: value for name, value in recorded.items() if not name.startswith("CUDA")}},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        text = log.read_text(encoding="utf-8", errors="replace")
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "the log is empty")
        raise UserError(f"the {record.kind} step ended with {done.returncode}: {last.removeprefix('error: ')}")


if __name__ == "__main__":
    run_main(main)
