"""Studies and records made up for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from aqr_bench.metrics.matches import ClassMatches, Matches
from aqr_bench.records.record import Record, plain_json, write_records
from aqr_bench.records.request import evaluation_requests, measurement_request, training_request
from aqr_bench.study.layout import detections_folder
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.runs import base_runs, matrix

EFFECT = {"none": 0.0, "cross": 0.05}


def make_study(folder: Path, variants=("none", "cross"), seeds=(0, 1), **changes) -> Path:
    data = {
        "name": "made_up",
        "question": "Is <b>this</b> escaped?",
        "baseline": "none",
        "seeds": list(seeds),
        "conditions": "missing_sensors",
        "metric": "mAP",
        "variants": {v: {"summary": f"{v} & <i>more</i>", "config": {"a": v}} for v in variants},
    }
    path = folder / f"{changes.get('name', 'made_up')}.yaml"
    path.write_text(yaml.safe_dump({**data, **changes}, sort_keys=False))
    return path


def router_extra(k: int) -> dict:
    """What an evaluation under the k-th condition says about its router."""
    weights = {"mean": 0.5 - 0.4 * k, "sd": 0.11, "p5": 0.3 - 0.4 * k, "p50": 0.5 - 0.4 * k, "p95": 0.7 - 0.4 * k}
    group = {"queries": 40, "lidar": weights, "camera": {**weights, "mean": 0.25}}
    return {"file": "router.npz", "all": group, "confident": {"queries": 0}}


def made_up_matches(effect: float, seed: int, scenes: int = 12) -> Matches:
    """Matches of a model that finds ``effect`` more of the same objects: 10 boxes and 10 objects in every scene."""
    rng = np.random.default_rng(0)
    share, ease = 0.5 + effect + 0.01 * seed, np.repeat(rng.uniform(-0.2, 0.2, scenes), 10)
    tp = rng.uniform(size=10 * scenes) < share + ease
    score = np.sort(rng.uniform(size=10 * scenes))[::-1]
    scene = rng.permutation(np.repeat(np.arange(scenes), 10))
    car = ClassMatches(score, scene, np.repeat(tp[:, None], 4, 1), np.full(scenes, 10))
    return Matches(tuple(f"scene-{i:04d}" for i in range(scenes)), (0.5, 1.0, 2.0, 4.0), 0.1, 0.1, {"car": car})


def with_properties(matches: Matches) -> Matches:
    """Made-up matches with what slices need: in every scene (one sample) half of the objects and detections is near."""
    car, scenes = matches.classes["car"], len(matches.scenes)
    matched = np.full(car.tp.shape, -1)
    for scene in range(scenes):
        rows = np.flatnonzero((car.scene == scene) & car.tp[:, 0])
        matched[rows] = 10 * scene + np.arange(len(rows))[:, None]
    near = np.where(np.arange(10 * scenes) % 2, 10.0, 40.0)
    objects = np.stack([near, np.zeros_like(near), np.full_like(near, 4), np.full_like(near, 9), near * np.nan], 1)
    sample = np.repeat(np.arange(scenes), 10)
    sliced = replace(car, matched=matched, object_sample=sample, object_properties=objects, properties=objects[:, :3])
    words = tuple("Night" if scene % 2 else "" for scene in range(scenes))
    samples = dict(samples=matches.scenes, scene_of_sample=np.arange(scenes), descriptions=words)
    return replace(matches, classes={"car": sliced}, **samples)


def fill(
    results: Path, study_path: Path, fail=(), skip=(), spread: float = 0.001, effects=EFFECT, scenes: int = 0
) -> None:
    """Records of every run; ``fail`` and ``skip`` hold (variant, seed). Scores: 0.4 + effect + a little per seed.

    With ``scenes`` every evaluation leaves matches of so many scenes instead, and scores what they do. All are of what
    the study asks for.
    """
    tier, study = load_tier("smoke"), load_study(study_path)
    for run in base_runs(tier, [study]) + matrix(tier, [study]):
        key = (run.variant, run.seed)
        if key in skip:
            continue
        name = {"tier": tier.name, "study": run.study, "variant": run.variant, "seed": run.seed}
        bad = "loss is <not> finite" if key in fail else None
        status = "diverged" if bad else "ok"
        cost = {"wall_s": 120.0, "parameters": 1000}
        curve = [[i, 5.0 / i] for i in range(1, 6)]
        start = (None,) if run.study else ()
        request = training_request(tier, study if run.study else None, run.variant, None, "", start).to_dict()
        facts = {"code_sha256": "c", "request": request}
        train = Record("train", status, **name, reason=bad, cost=cost, curve=curve, provenance=facts)
        write_records(results / run.folder / "train.jsonl", [train])
        requests = evaluation_requests(tier, study.suite, study if run.study else None, run.variant, "", None)
        rows = []
        for k, condition in enumerate(study.suite.conditions):
            score = 0.4 / (k + 1) + effects.get(run.variant, 0) + spread * run.seed * (1 + k + len(run.variant or ""))
            extra = {"router": router_extra(k)} if run.variant == "cross" else {}
            if scenes and not bad:
                matches = made_up_matches(effects.get(run.variant, 0) / (k + 1), run.seed, scenes)
                work = results / tier.name / "work" / Path(run.folder).relative_to(tier.name)
                matches.save(detections_folder(work, study.suite.name, condition.name) / "matches.npz")
                score, extra = float(matches.map()[0]), {**extra, "matches": {"file": "matches.npz"}}
            scores = {} if bad else {"mAP": score, "NDS": score, "classes": {"car": {"AP": score}, "bus": {"AP": None}}}
            state = {"condition": condition.name, "suite": study.suite.name, "scores": scores}
            reason = f"training failed: {bad}" if bad else None
            proof = {"input_sha256": condition.name, "request": requests[condition.name].to_dict()}
            more = {"reason": reason, "provenance": proof, "extra": extra}
            rows.append(Record("evaluate", "failed" if bad else "ok", **name, **state, **more))
        write_records(results / run.folder / f"evaluate.{study.suite.name}.jsonl", rows)
    for i, variant in enumerate(study.variants):
        cost = {
            "latency_ms": {"median": 10.0 + i, "p95": 12.0, "values": []},
            "throughput_per_s": 100,
            "peak_rss_mb": 5,
        }
        facts = {"request": measurement_request(tier, study, variant, "").to_dict()}
        measured = Record("measure", "ok", tier.name, study.name, variant, cost=cost, provenance=facts)
        write_records(results / tier.name / study.name / variant / "measure.jsonl", [measured])


def write_scored(
    folder: Path, model: str, effect: float, suite: str = "submissions", conditions: Sequence[str] = ("clean",)
) -> Path:
    """A record file as ``aqr-bench score`` writes it, with matches beside it; each condition is a little worse."""
    records = []
    for k, condition in enumerate(conditions):
        matches = with_properties(made_up_matches(effect - 0.02 * k, 0, scenes=20))
        matches.save(folder / model / condition / "matches.npz")
        score = float(matches.map()[0])
        state = {"condition": condition, "suite": suite, "extra": {"matches": {"file": "matches.npz"}}}
        facts = {"data_sha256": "d" * 64, "infos_sha256": None, "command": f"aqr-bench score {model}"}
        scores = {"mAP": score, "NDS": score}
        records.append(Record("evaluate", "ok", model, **state, scores=scores, provenance=facts))
    return write_records(folder / f"{model}.jsonl", records)


SUITES = ("nuscenes_c", "multicorrupt", "nuscenes_r", "msc_bench")  # together more than 237 conditions
# Reports with a long tail, as groups of (studies, variants, conditions); three conditions are those of missing sensors.
WIDE = {"studies": ((20, 4, 3),), "conditions": ((1, 4, 237),), "variants": ((1, 16, 3),)}
MIXED = ((15, 4, 3), (4, 16, 3), (1, 4, 237))


def wide_studies(folder: Path, groups: Sequence[tuple[int, int, int]]) -> list[Path]:
    """Studies of such groups (``WIDE``), with records of three seeds below ``folder/results``."""
    files: list[Path] = []
    for studies, variants, conditions in groups:
        suite = "missing_sensors" if conditions == 3 else str(_wide_suite(folder, conditions))
        names = ["none", *(f"variant_{i:02d}" for i in range(1, variants))]
        effects = {name: 0.01 * i for i, name in enumerate(names)}
        for _ in range(studies):
            path = make_study(folder, names, (0, 1, 2), name=f"study_{len(files):02d}", conditions=suite)
            fill(folder / "results", path, effects=effects)
            files.append(path)
    return files


def _wide_suite(folder: Path, count: int) -> Path:
    """A suite of so many conditions: the corruptions of several suites."""
    conditions = [(name, condition) for name in SUITES for condition in load_suite(name).conditions[1:]]
    settings = [{**c.settings, "name": f"{name}_{c.name}"} for name, c in conditions]
    # An option that a condition does not have is not written.
    entries = [{"name": "clean"}, *({k: v for k, v in entry.items() if v not in (None, {})} for entry in settings)]
    path = folder / "wide.yaml"
    path.write_text(yaml.safe_dump({"name": "wide", "summary": "Many.", "conditions": plain_json(entries[:count])}))
    return path
