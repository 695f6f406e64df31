"""Evaluate a model that was trained elsewhere: an mmdet3d config and its checkpoint, without a tier or a study.

aqr-bench evaluate --config FILE --checkpoint FILE --infos DIR --suite SUITE --out RECORDS.jsonl --work DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aqr_bench.data.dataset import DataSet, load_data
from aqr_bench.engine.condition_cache import ConditionCache
from aqr_bench.engine.config import base_config, require_sweeps
from aqr_bench.engine.config_facts import detection_classes
from aqr_bench.engine.evaluate import Evaluator, evaluation_job
from aqr_bench.engine.evaluate_suite import IN_THIS_PROCESS, Workers, evaluate_conditions, write_suite_records
from aqr_bench.engine.evaluate_workers import ModelEvaluation
from aqr_bench.engine.third_party import building_model
from aqr_bench.engine.weights import write_weights
from aqr_bench.errors import EXIT_FAILED_RECORDS, UserError, require_file
from aqr_bench.records.job import Job
from aqr_bench.records.record import Record
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_suite
from aqr_bench.study.model_files import model_file, model_slug, named_beside
from aqr_bench.study.spec import MeasureSettings, Schedule, Tier


def evaluate_config(args: argparse.Namespace, workers: Workers = IN_THIS_PROCESS) -> int:
    """One record per condition of the suite, as for a model of a tier. 0 if all are ok, 3 if one failed."""
    missing = [n for n in ("checkpoint", "infos", "suite", "work") if not getattr(args, n)]
    unrelated = [n for n in ("tier", "train", "study", "keyframe") if getattr(args, n)]
    if missing or unrelated:
        wrong = [f"--{n} is missing" for n in missing] + [f"--{n} belongs to models of a tier" for n in unrelated]
        raise UserError(f"evaluate --config needs --checkpoint, --infos, --suite, --out and --work: {wrong[0]}")
    data, suite = load_data(args.infos), load_suite(args.suite)
    tier = replace(adhoc_tier(args.config, data, args.batch_size), metrics=tuple(args.metrics))
    if tier.metrics:
        from aqr_bench.metrics.custom import check_metric  # nuscenes-devkit, seconds

        for name in tier.metrics:
            check_metric(name)
    checkpoint = require_file(args.checkpoint, "checkpoint", "Give the file that the training wrote (.pth).")
    config = base_config(tier, data)
    require_sweeps(config, data, ["test_dataloader"])
    work = Path(args.work)
    source = dict(checkpoint=checkpoint.name, checkpoint_sha256=sha256_file(checkpoint))
    model = Record("train", "ok", tier.name, provenance=source)
    job = evaluation_job(config, tier, data, suite, tier.model, source["checkpoint_sha256"])
    # Also where other processes evaluate: what does not fit is a mistake, and no failure of every condition.
    evaluator: Evaluator | None = checkpoint_evaluator(config, tier, data, checkpoint, work, job)
    weights = evaluator.checkpoint
    if workers.count > 1:
        evaluator = None  # frees the memory: each process loads one
    evaluation = ModelEvaluation(config, tier, data, weights, work, job, suite.path, model)
    cache = ConditionCache(work, suite, job)
    records = evaluate_conditions(evaluation, suite, cache, workers, evaluator)
    records = write_suite_records(records, suite, args.out, cache)
    return EXIT_FAILED_RECORDS if any(record.failed for record in records) else 0


def checkpoint_evaluator(
    config: Any, tier: Tier, data: DataSet, checkpoint: Path, work: Path, job: Job | None = None
) -> Evaluator:
    """The model of a config with the weights of a checkpoint, which are also written to ``work``.

    Raises:
        UserError: the model cannot be built; the checkpoint cannot be read or does not fit.
    """
    work.mkdir(parents=True, exist_ok=True)
    weights = strip_to_state_dict(checkpoint, work / "weights.pth", detection_classes(config))
    with building_model(tier.model):
        evaluator = Evaluator(config, tier, data, None, work, job)
    try:
        evaluator.load(weights)
    except RuntimeError as error:  # names of parameters that are missing or left over
        raise UserError(f"{checkpoint} does not fit {tier.model}: {error}") from error
    return evaluator


def adhoc_tier(model: str, data: DataSet, batch_size: int = 1, threads: int = 1) -> Tier:
    """What an evaluation has to know of a tier, for a model that belongs to none; named after the config's file."""
    return Tier(
        name=model_slug(Path(model.rpartition("::")[2]).stem),
        summary=f"{model} as it is",
        kind="nuscenes",
        version=data.version,
        model=named_beside(model, Path("tier.yaml")) or model,
        base=Schedule(0),
        variant=Schedule(0),
        pretrain={},
        world={},
        data_root=data.root,
        seeds=None,
        threads=threads,
        evaluate_batch_size=batch_size,
        measure=MeasureSettings(),
        path=model_file(model),
    )


def strip_to_state_dict(checkpoint: Path, out: Path, classes: Sequence[str]) -> Path:
    """The weights of any checkpoint of mmcv or mmengine, read without running anything in it, as one of ours.

    Raises:
        UserError: see :func:`aqr_bench.engine.checkpoint.read_checkpoint`; it was trained on other ``classes``.
    """
    from aqr_bench import compat

    compat.prepare()
    from aqr_bench.engine.checkpoint import check_trained_classes, read_checkpoint, usable_weights

    content = read_checkpoint(checkpoint)
    check_trained_classes(content, classes)
    return write_weights(out, {name: tensor.clone() for name, tensor in usable_weights(content).items()})
