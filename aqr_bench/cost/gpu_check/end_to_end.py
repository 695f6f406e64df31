"""A tier from world to report by the commands that the workflow calls, without Snakemake."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.cost.gpu_check.settings import Emit, Settings
from aqr_bench.records.record import read_run
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.runs import base_runs, limit_seeds, matrix, pretrain_runs
from aqr_bench.study.spec import Run, Study, Tier

LOG = 6000  # characters of a command's output that go into the log
STUDIES = {"smoke": "smoke", "quick": "bias_site"}  # which study of a tier is run, with one seed


@dataclass(frozen=True)
class Command:
    """One call of ``python -m aqr_bench STEP``; ``output``: the file that it writes, in the working folder."""

    step: str
    run: str
    arguments: tuple[str, ...]
    output: str


def tier_rows(settings: Settings, name: str, emit: Emit) -> None:
    """One row per command: seconds, facts of its record. The commands of a stage run in parallel."""
    tier = load_tier(name)
    study = limit_seeds(load_study(STUDIES[name]), tier, 1)
    # Hides the GPU where the CPU is requested; many processes run at once, so one thread each.
    hidden = {} if settings.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **hidden}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for stage in stages(tier, study):
            complete = True
            for row in pool.map(lambda command: _run(command, Path(folder), environment, settings.device), stage):
                emit(row)
                complete &= row["exit"] == 0
            if not complete:
                return  # later stages lack an input (a failed training has a record, and exit code 0)


def stages(tier: Tier, study: Study) -> Iterator[list[Command]]:
    """The workflow's jobs of one study; a stage depends on earlier stages only."""
    layout = RunLayout(tier.name)
    root = layout.root.as_posix()
    inputs = ("--tier", str(tier.path), "--infos", f"{root}/infos")
    work = ("--work", f"{root}/work")
    of_study = ("--study", str(study.path))
    arguments = ("--tier", str(tier.path), "--out", f"{root}/world", "--quiet")
    yield [Command("world", "", arguments, f"{root}/world/world.json")]
    arguments = ("--tier", str(tier.path), "--root", f"{root}/world", "--out", f"{root}/infos")
    yield [Command("data", "", arguments, f"{root}/infos/data.json")]

    def train(run: Run, *options: str) -> Command:
        out = layout.train(run).as_posix()
        arguments = (*inputs, *work, "--seed", str(run.seed), "--out", out, *options)
        return Command("train", run.folder, arguments, out)

    def evaluate(run: Run) -> Command:
        out = layout.evaluate(run, study.suite.name).as_posix()
        options = of_study if run.study else ()
        trained = ("--train", layout.train(run).as_posix(), "--suite", str(study.suite.path))
        return Command("evaluate", run.folder, (*inputs, *work, *trained, *options, "--out", out), out)

    branches = pretrain_runs(tier)
    if branches:
        yield [train(run, "--pretrain", run.pretrain) for run in branches]
    features = [layout.train(run).as_posix() for run in branches]
    start, variants = ["--features", *features] if features else [], matrix(tier, [study])
    base = next(iter(base_runs(tier, [study])), None)  # None where the variants start from the branches
    if base is not None:
        yield [train(base, *start)]
        start = ["--base", layout.train(base).as_posix()]
    trainings = [train(v, *of_study, "--variant", v.variant, *start) for v in variants]
    yield [*([] if base is None else [evaluate(base)]), *trainings]
    yield [evaluate(variant) for variant in variants]
    shown = base or next(v for v in variants if v.variant == study.baseline)
    scores, trained = layout.evaluate(shown, study.suite.name).as_posix(), layout.train(shown).as_posix()
    drawn = ("--suite", str(study.suite.path), "--train", trained, "--evaluation", scores)
    arguments = (*inputs, *work, *drawn, *(of_study if shown.study else ()), "--out", f"{root}/pictures")
    pictures = Command("pictures", shown.folder, arguments, f"{root}/pictures/pictures.json")
    yield [pictures, *(_measure(tier, study, inputs, variant) for variant in study.variants)]
    arguments = ("--tier", str(tier.path), *of_study, "--records", "results", "--seeds", "1", "--out", f"{root}/report")
    yield [Command("report", "", arguments, f"{root}/report/index.html")]


def _measure(tier: Tier, study: Study, inputs: tuple[str, ...], variant: str) -> Command:
    out = RunLayout(tier.name).measure(study.name, variant).as_posix()
    arguments = (*inputs, "--study", str(study.path), "--variant", variant, "--out", out)
    return Command("measure", f"{study.name}/{variant}", arguments, out)


def _run(command: Command, folder: Path, environment: dict[str, str], device: str) -> dict[str, Any]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "aqr_bench", command.step, *command.arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace",
    )  # fmt: skip
    row = {"step": command.step, "run": command.run, "seconds": round(time.monotonic() - start, 1)}
    print(f"--- {command.step} {command.run}\n{done.stdout[-LOG:]}", flush=True)
    output, code = folder / command.output, done.returncode
    if code or not output.is_file():
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        return {**row, "exit": code or 1, "failed": f"exit code {code}, {command.output}: {last}"}
    return {**row, "exit": 0, **(record_facts(output, device) if output.suffix == ".jsonl" else {})}


def record_facts(file: Path, device: str) -> dict[str, Any]:
    """How many records are ok, scores and times of the first; ``failed`` where a record, or a part of one, has.

    On ``device`` cuda, a record of a machine without a GPU has failed, too.
    """
    records = read_run(file)
    reasons = [str(record.reason) for record in records if record.failed]
    for record in records:  # parts of a measurement
        reasons += [f"{part}: {why['reason']}" for part, why in record.cost.get("failed_parts", {}).items()]
    first = records[0]
    facts: dict[str, Any] = {"records": f"{sum(record.ok for record in records)} of {len(records)} ok"}
    facts |= {key: first.scores[key] for key in ("mAP", "NDS") if key in first.scores}
    facts |= {key: first.cost[key] for key in ("latency_ms",) if key in first.cost}
    facts["gpu"] = first.provenance.get("machine", {}).get("gpu")
    if device == "cuda" and facts["gpu"] is None:
        reasons.append("the record names no GPU: a CPU did the work")
    return {**facts, **({"failed": f"{len(reasons)}, the first: {reasons[0]}"} if reasons else {})}
