"""Records of just what a selection asks for, in files of a few kilobytes: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aqr_bench.records.freshness import DataState, Verdict, asked_files, judge
from aqr_bench.records.record import Record, write_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.plan import Selection
from aqr_bench.study.spec import Study, Tier

INFOS = "i" * 64


def selected(tier: Tier | None = None, study: Study | None = None, **more) -> Selection:
    """The smoke study on the smoke tier, or others, without any file but theirs being read."""
    tier, study = tier or load_tier("smoke"), study or load_study("smoke")
    return Selection(tier, (study,), {study.name: study}, **more)


def with_config(study: Study, variant: str, config: dict) -> Study:
    """The study with another config of one variant."""
    return replace(study, variants={**study.variants, variant: replace(study.variants[variant], config=config)})


def with_base(tier: Tier, **changes) -> Tier:
    """The tier with another schedule of its base model."""
    return replace(tier, base=replace(tier.base, **changes))


def states(selection: Selection, results: Path, infos: str | None = INFOS) -> dict[str, tuple[str, tuple[str, ...]]]:
    """State and reasons of each record file that is asked for, by ``train base seed 0`` and the like."""
    verdicts = judge(asked_files(selection, results), selection.tier, DataState(infos)).values()
    return {verdict.asked.label: (verdict.state, verdict.reasons) for verdict in verdicts}


def write_asked(results: Path, selection: Selection, status: Callable[[Verdict], str] = lambda verdict: "ok") -> None:
    """The records of all that is asked for; a training that is ok has a checkpoint, below ``work``."""
    files = asked_files(selection, results)
    for file in files:
        verdict = judge(files, selection.tier, DataState(INFOS))[file.path]
        run, outcome = file.run, status(verdict)
        rows = []
        for condition, request in verdict.requests.items():
            facts = {"request": request.to_dict(), "checkpoint_sha256": None}
            if file.kind == "train" and outcome == "ok":
                checkpoint = file.path.parents[len(Path(run.subfolder).parts)] / "work" / run.subfolder / "final.pth"
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.write_text(f"{request.identity} {run.seed}")
                (checkpoint.parent / "identity.json").write_text(json.dumps([request.identity, run.seed]))
                relative = Path("../" * len(Path(run.subfolder).parts)) / "work" / run.subfolder / "final.pth"
                facts |= {"checkpoint": relative.as_posix(), "checkpoint_sha256": sha256_file(checkpoint)}
            rows.append(
                Record(
                    file.kind,
                    outcome,
                    run.tier,
                    run.study,
                    run.variant,
                    None if file.kind == "measure" else run.seed,
                    condition,
                    file.suite.name if file.suite else None,
                    None if outcome == "ok" else "ValueError: no",
                    {"mAP": 0.5, "NDS": 0.5} if file.kind == "evaluate" and outcome == "ok" else {},
                    provenance=facts,
                )
            )
        write_records(file.path, rows)
