"""Train one model and write its record: aqr-bench train --tier T --infos DIR --seed N --out REC --work DIR.

With --study and --variant it trains that variant, with --pretrain one branch of the model alone, without them the base
model. --base and --features are the train records to start from, where tier or study say so. Killed at any moment, the
same command goes on from the last checkpoint in --work. Started by torchrun, its processes train one model together.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aqr_bench.compat import with_pickle_name
from aqr_bench.console import add_quiet_option, hide_progress, print_warning, seed
from aqr_bench.engine.adapt_config import inner_dataset
from aqr_bench.engine.config import files_of
from aqr_bench.engine.distributed import ProcessGroup, RankFailure, exit_now, split_batch, world_size
from aqr_bench.engine.features import use_feature_cache
from aqr_bench.engine.job import cost_since, failure_status, summed_costs
from aqr_bench.engine.memory_limit import memory_limit
from aqr_bench.engine.resume import latest_valid_checkpoint, name_resumed_checkpoint
from aqr_bench.engine.third_party import build_model
from aqr_bench.engine.tracking import chosen_trackers, with_trackers
from aqr_bench.engine.training_plan import (
    Start,
    TrainingPlan,
    job_of,
    plan_training,
    request_of,
    resolve_start,
    with_config,
)
from aqr_bench.engine.weights import (
    final_weights,
    inner_model,
    load_weights,
    merged_weights,
    start_failure,
    write_weights,
)
from aqr_bench.errors import UserError, raise_if_disk_error, run_main
from aqr_bench.records.cache import find_cached, reuse_file, save_cache_entry
from aqr_bench.records.provenance import provenance, utc_now
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.layout import relative_path
from aqr_bench.study.spec import Tier

# Not every process sees every sensor in every batch; runtime.prepare makes activation checkpointing compatible with
# that. Batch statistics are each process' own, those of the first are kept, as in mmdet3d.
MODEL_WRAPPER = dict(
    type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False, find_unused_parameters=True
)


@dataclass(frozen=True)
class Trained:
    """What came of a training. ``reused_from``: the run of the same job whose result this is."""

    checkpoint: Path
    cost: Mapping[str, Any]
    curve: Sequence[Sequence[float]]
    reused_from: str | None = None


def main(argv: list[str] | None = None) -> int:
    """Train and write the record. 0 also when the training failed, or one that it starts from: the record says so."""
    args = _arguments(argv)
    plan = plan_training(args)
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    failures = [failure for path in plan.start_records if (failure := start_failure(read_records(path)[0]))]
    if failures:  # before anything that imports mmdet3d
        if os.environ.get("RANK", "0") == "0":
            start = Start(job_of(plan, world_size()), files_of(plan.tier, plan.study))
            write_record(args.out, plan, started, start, "failed", failures[0], cost_since(clock))
        return 0
    plan = with_config(plan)
    group = ProcessGroup()
    loader = plan.config.train_dataloader
    loader.batch_size = split_batch(plan.tier.launcher.total_batch(loader.batch_size), group.size, str(plan.tier.path))
    if not group.is_main:
        return train_along(group, plan, clock)
    start = Start(job_of(plan, group.size), files_of(plan.tier, plan.study))
    write = functools.partial(write_record, args.out, plan, started)
    group.on_failure(lambda failure: write(start, failure.status, _reason(failure), cost_since(clock)))
    try:
        start = resolve_start(plan, start)
        with hide_progress(args.quiet):
            result = train(plan, start, group, clock)
        checkpoint_sha256 = sha256_file(result.checkpoint)
    except UserError:
        raise
    except Exception as error:
        raise_if_disk_error(error, plan.work)
        traceback.print_exc()
        failure = group.report_failure(error, *failure_status(error, plan.schedule.memory_limit_mb))
        write(start, failure.status, _reason(failure), cost_since(clock))
    else:
        write(start, "ok", None, result.cost, result, checkpoint_sha256)
    if group.size > 1:
        exit_now(0)
    return 0


# ---------------------------------------------------------------- the work


def train(plan: TrainingPlan, start: Start, group: ProcessGroup, clock: tuple[float, float]) -> Trained:
    """Train, or take the result from where it is already, and note it for other runs of the same job."""
    cached = find_cached(plan.work_root, plan.work, "train", start.job.identity)
    if cached is not None:
        folder, entry = cached
        checkpoint = reuse_file(folder / "final.pth", plan.work / "final.pth")
        # The cost is that of the run which did the work.
        result = Trained(checkpoint, entry["cost"], entry["curve"], entry["run"])
        group.broadcast(None)
    elif plan.only_takes_weights:
        result = reuse_base_weights(plan.config, start.checkpoints[0])
        group.broadcast(None)
    else:
        checkpoints = start.checkpoints
        if checkpoints:
            checkpoints = (merged_weights(checkpoints, plan.work / "init.pth"),)
        complete = plan.schedule.init in ("base", "published")
        parts = plan.tier.pretrain[plan.run.pretrain].parts if plan.run.pretrain else None
        options = group.broadcast(
            dict(init=checkpoints, complete=complete, parts=parts, model=plan.model, work_root=plan.work_root)
        )
        with memory_limit(plan.schedule.memory_limit_mb):
            result = run_training(plan.config, plan.tier, **options)
        result = replace(result, cost={**result.cost, **summed_costs(group.gather(cost_since(clock)))})
    result = replace(result, cost={**cost_since(clock), **result.cost})
    if plan.run.pretrain is None:
        entry = {"run": result.reused_from or plan.run.subfolder, "cost": result.cost, "curve": result.curve}
        save_cache_entry(plan.work, "train", start.job.identity, entry, ["final.pth"])
    return result


def train_along(group: ProcessGroup, plan: TrainingPlan, clock: tuple[float, float]) -> int:
    """Train along with rank 0, if it trains at all. 0 also when the training failed: rank 0 leaves the record."""
    limit = plan.schedule.memory_limit_mb
    group.on_failure()
    try:
        options = group.broadcast()
        if options is not None:
            with memory_limit(limit):
                run_training(plan.config, plan.tier, **options)
            group.gather(cost_since(clock))
    except Exception as error:
        traceback.print_exc()
        group.report_failure(error, *failure_status(error, limit))
    exit_now(0)


# ---------------------------------------------------------------- after: the record


def write_record(
    out: str | Path,
    plan: TrainingPlan,
    started: str,
    start: Start,
    status: str,
    reason: str | None,
    cost: Mapping[str, Any],
    result: Trained | None = None,
    checkpoint_sha256: str | None = None,
) -> None:
    """Write the record of a training that ended, and print how. ``result``: of one that is ok."""
    extra = {"pretrain": plan.run.pretrain} if plan.run.pretrain else {}
    if result is not None and result.reused_from:
        extra["same_as"] = result.reused_from
    # Relative to the record, so that a results folder can be moved.
    checkpoint = None if result is None else relative_path(result.checkpoint, Path(out).parent)
    facts = provenance(
        start.job,
        request=request_of(plan),
        seed=plan.run.seed,
        started=started,
        files=start.files,
        loader_workers=None if plan.config is None else plan.config.train_dataloader.num_workers,
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        reason=reason,
    )
    record = Record(
        kind="train",
        status=status,
        reason=reason,
        tier=plan.run.tier,
        study=plan.run.study,
        variant=plan.run.variant,
        seed=plan.run.seed,
        cost=cost,
        provenance=facts,
        curve=[] if result is None else list(result.curve),
        extra={**extra, **start.facts},
    )
    write_records(out, [record])
    print(f"{status}: {out}" + (f" ({reason})" if reason else ""))


def _reason(failure: RankFailure) -> str:
    return f"rank {failure.rank}: {failure.reason}" if failure.rank else failure.reason


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aqr-bench train", description=__doc__)
    parser.add_argument("--tier", required=True, help="tier file or name")
    parser.add_argument("--infos", required=True, help="folder that aqr-bench data wrote")
    parser.add_argument("--seed", type=seed, required=True)
    parser.add_argument("--out", required=True, help="record file (.jsonl)")
    parser.add_argument("--work", required=True, help="folder for checkpoints and logs")
    parser.add_argument("--study", help="study file or name")
    parser.add_argument("--variant", help="variant of the study")
    parser.add_argument("--pretrain", help="train this branch of the tier's 'pretrain' alone")
    parser.add_argument("--base", help="train record of the base model to start from")
    parser.add_argument(
        "--features", nargs="+", action="extend", default=[], help="train records of the pretrained branches"
    )
    add_quiet_option(parser)
    return parser.parse_args(argv)


def run_training(
    config: Any,
    tier: Tier,
    init: Sequence[Path] = (),
    complete: bool = True,
    parts: Sequence[str] | None = None,
    model: str | None = None,
    work_root: Path | None = None,
) -> Trained:
    """Train with mmengine's Runner.

    Args:
        init: checkpoints to start from, later ones first in force.
        complete: they make up the model (only AQR's parameters may be missing); else whatever they hold is taken.
        parts: prefixes of the parameters that the final checkpoint keeps; None: all.
        model: name or file of the model's config; None: the tier's.
        work_root: work folder of the tier, where features of frozen branches may be stored; None: they are not.

    Trackers that the environment names get its losses (:mod:`aqr_bench.engine.tracking`).
    """
    from aqr_bench import compat

    compat.prepare()
    threads = compat.use_threads(tier.threads)
    compat.use_tf32(tier.tf32)
    from mmengine.runner import Runner

    from aqr_bench.engine.hooks import LossCurve

    work = Path(config.work_dir)
    last, warnings = latest_valid_checkpoint(work)
    if world_size() == 1 or os.environ.get("RANK") == "0":
        for line in warnings:
            print_warning(line)
    config.resume, config.load_from = last is not None, None if last is None else str(last)
    config.launcher = "none" if world_size() == 1 else "pytorch"
    config.model_wrapper_cfg = dict(MODEL_WRAPPER)
    # Evaluation is a separate job; the Runner asks for a test loop where it sees a test loader.
    run_name = work.name if work_root is None else work.relative_to(work_root).as_posix()
    tracked = with_trackers(config, chosen_trackers(), "aqr-bench", f"{tier.name}/{run_name}")
    runner = Runner.from_cfg(_without_test(tracked))
    use_feature_cache(inner_model(runner), tier, model or tier.model, work_root)
    if init and not config.resume:
        merged = merged_weights(init, work / "init.pth")
        # Raises for what does not fit, where mmengine would only warn.
        load_weights(inner_model(runner), merged, complete)
        # train() initialises the weights afresh and makes the averaged copy; what it loads comes after both.
        runner._load_from = str(merged)
    info_file = inner_dataset(config.train_dataloader.dataset).ann_file
    with with_pickle_name(f"info file {info_file}"), name_resumed_checkpoint(last):
        runner.train()
    path = work / "final.pth"
    curve = next(h for h in runner.hooks if isinstance(h, LossCurve)).points
    if runner.rank:
        return Trained(path, {}, curve)
    weights = final_weights(runner)
    if parts is not None:
        weights = {name: value for name, value in weights.items() if name.startswith(tuple(parts))}
        for part in parts:
            if not any(name.startswith(part) for name in weights):
                raise RuntimeError(f"the model has no parameters '{part}': see parts of pretrain in {tier.path}")
    write_weights(path, weights, iterations=runner.iter)
    parameters = sum(p.numel() for p in runner.model.parameters())
    return Trained(path, {"parameters": parameters, "iterations": runner.iter, "threads": threads}, curve)


def reuse_base_weights(config: Any, base: Path) -> Trained:
    """The base's weights as those of a variant that differs at test time only; what only the variant has is initial."""
    from aqr_bench import compat

    compat.prepare()
    from aqr_bench.engine.seeding import seed_all

    seed_all(config.randomness.seed)
    model = build_model(config)
    load_weights(model, base)
    path = write_weights(Path(config.work_dir) / "final.pth", dict(model.state_dict()), iterations=0)
    return Trained(path, {"parameters": sum(p.numel() for p in model.parameters()), "iterations": 0}, [])


def _without_test(config: Any) -> Any:
    import copy

    config = copy.deepcopy(config)
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    return config


if __name__ == "__main__":
    run_main(main)
