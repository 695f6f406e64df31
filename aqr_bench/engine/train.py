"""Train one model and write its record: aqr-bench train --tier T --infos DIR --seed N --out REC --work DIR.

With --study and --variant it trains that variant, with --pretrain one branch of the model alone, without them the base
model. --base and --features are the train records to start from, where tier or study say so. Killed at any moment, the
same command goes on from the last checkpoint in --work. Started by torchrun, its processes train one model together.
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aqr_bench.compat import with_pickle_name
from aqr_bench.console import seed
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.adapt_config import inner_dataset
from aqr_bench.engine.config import build_config, files_of, hashable
from aqr_bench.engine.distributed import Failure, Team, leave_now, share_of, world_size
from aqr_bench.engine.initial_weights import read_start, start_file
from aqr_bench.engine.job import (
    cost_since,
    failure_status,
    of_all,
    start_afresh_unless_same,
    work_folder,
)
from aqr_bench.engine.memory_limit import memory_limit
from aqr_bench.engine.resume import naming_resumed, whole_checkpoint
from aqr_bench.engine.weights import (
    final_weights,
    inner_model,
    load_weights,
    merged_weights,
    trained_checkpoint,
    write_weights,
)
from aqr_bench.errors import UserError, raise_if_disk_error, run_main
from aqr_bench.records.cache import find_cached, reuse_file, save_cache_entry
from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.records.provenance import config_hash, provenance, sha256_file, utc_now
from aqr_bench.records.record import Record, write_records
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.model_files import own_sources
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Tier

# Not every process sees every sensor in every batch; runtime.prepare makes activation checkpointing compatible with
# that. Batch statistics are each process' own, those of the first are kept, as in mmdet3d.
MODEL_WRAPPER = dict(
    type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False, find_unused_parameters=True
)


def main(argv: list[str] | None = None) -> int:
    """Train and write the record. 0 also when the training failed: the record says so."""
    args = _arguments(argv)
    tier = load_tier(args.tier)
    study = load_study(args.study) if args.study else None
    if (args.study is None) != (args.variant is None):
        raise UserError("--study and --variant go together")
    if args.pretrain and (args.study or args.base or args.features):
        raise UserError("--pretrain trains a branch from scratch: it goes without --study, --base and --features")
    data = load_data(args.infos)
    work = work_folder(args.work, args.study and study.name, args.variant, args.seed, args.pretrain)
    config = build_config(tier, data, args.seed, work, study, args.variant, args.pretrain)
    schedule = tier.base if study is None else variant_schedule(tier, study, args.variant)
    start = "scratch" if args.pretrain else schedule.init
    given = {"base": [args.base] if args.base else [], "features": args.features}
    if start in given and not given[start]:
        what = "the base model" if start == "base" else "the pretrained branches"
        raise UserError(f"this training starts from {what} (tier '{tier.name}'): give --{start} TRAIN_RECORD")
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    team, limit = Team(), None if args.pretrain else schedule.memory_limit_mb
    loader = config.train_dataloader
    loader.batch_size = share_of(tier.launcher.total_batch(loader.batch_size), team.size, str(tier.path))
    if not team.leads:
        return follow(team, config, tier, limit, clock)
    hashed = {**hashable(config), **({"processes": team.size} if team.size > 1 else {})}
    sources = own_sources(schedule.model or tier.model)
    known: dict[str, Any] = dict(config=hashed, step="train", sources=sources, seed=args.seed, started=started)
    known |= dict(files=files_of(tier, study), loader_workers=loader.num_workers)
    extra = {"pretrain": args.pretrain} if args.pretrain else {}

    def put_down(status: str, reason: str | None, cost: dict, curve: Sequence = (), **where: Any) -> None:
        record = Record(
            kind="train",
            status=status,
            reason=reason,
            tier=tier.name,
            study=study.name if study else None,
            variant=args.variant,
            seed=args.seed,
            cost=cost,
            provenance=provenance(**known, data_sha256=data.sha256, **where),
            curve=list(curve),
            extra=extra,
        )
        write_records(args.out, [record])
        print(f"{status}: {args.out}" + (f" ({reason})" if reason else ""))

    def write_failure_record(failure: Failure) -> None:
        reason = f"rank {failure.rank}: {failure.reason}" if failure.rank else failure.reason
        put_down(failure.status, reason, cost_since(clock))

    team.watch(write_failure_record)
    try:
        init = [trained_checkpoint(path) for path in given.get(start, [])]
        file = None if args.pretrain else start_file(tier, schedule)
        starts = [*init, file] if file else init
        known["files"] |= {f"start {n}": path for n, path in enumerate(starts, 1)}
        code = code_hash_for("train", sources)
        identity = [config_hash(known["config"]), code, data.sha256, *map(sha256_file, starts)]
        start_afresh_unless_same(work, identity)
        if file is not None:
            found, extra["start"] = read_start(file, schedule, schedule.model or tier.model, work)
            init, extra["trained"] = [found], schedule.iterations != 0
        cached = find_cached(Path(args.work), work, "train", identity)
        if cached is not None:
            checkpoint, done = reuse_file(cached[0] / "final.pth", work / "final.pth"), cached[1]
            # The cost is that of the run which did the work.
            facts, curve, extra["same_as"] = done["cost"], done["curve"], done["run"]
            team.share(None)
        elif args.pretrain is None and schedule.iterations == 0:
            checkpoint, facts, curve = reuse_base_weights(config, init[0])
            team.share(None)
        else:
            parts = tier.pretrain[args.pretrain].parts if args.pretrain else None
            whole = start in ("base", "published")
            if init:
                init = [merged_weights(init, work / "init.pth")]
            job = team.share(dict(init=init, whole=whole, parts=parts))
            with memory_limit(limit):
                checkpoint, facts, curve = run_training(config, tier, **job)
            facts |= of_all(team.gather(cost_since(clock)))
        cost = {**cost_since(clock), **facts}
        run = "/".join([*([study.name, args.variant] if study else ["base"]), f"seed{args.seed}"])
        if args.pretrain is None:
            found = {"run": extra.get("same_as", run), "cost": cost, "curve": curve}
            save_cache_entry(work, "train", identity, found, ["final.pth"])
        # Relative to the record, so that a results folder can be moved.
        where = dict(
            checkpoint=os.path.relpath(checkpoint, Path(args.out).parent), checkpoint_sha256=sha256_file(checkpoint)
        )
    except UserError:
        raise
    except Exception as error:
        raise_if_disk_error(error, work)
        traceback.print_exc()
        write_failure_record(team.settle(error, *failure_status(error, limit)))
    else:
        put_down("ok", None, cost, curve, **where)
    if team.size > 1:
        leave_now(0)
    return 0


def follow(team: Team, config: Any, tier: Tier, limit: int | None, clock: tuple[float, float]) -> int:
    """Train along with rank 0, if it trains at all. 0 also when the training failed: rank 0 leaves the record."""
    team.watch()
    try:
        job = team.share()
        if job is not None:
            with memory_limit(limit):
                run_training(config, tier, **job)
            team.gather(cost_since(clock))
    except Exception as error:
        traceback.print_exc()
        team.settle(error, *failure_status(error, limit))
    leave_now(0)


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
    parser.add_argument("--features", nargs="+", default=[], help="train records of the pretrained branches")
    return parser.parse_args(argv)


def run_training(
    config: Any, tier: Tier, init: Sequence[Path] = (), whole: bool = True, parts: Sequence[str] | None = None
) -> tuple[Path, dict, list]:
    """Train with mmengine's Runner. Returns the final checkpoint, cost facts and the loss curve.

    Args:
        init: checkpoints to start from, later ones first in force.
        whole: they make up the model (only AQR's own parameters may be missing); else whatever they hold is taken.
        parts: prefixes of the parameters that the final checkpoint keeps; None: all.
    """
    from aqr_bench import compat

    compat.prepare()
    threads = compat.use_threads(tier.threads)
    compat.use_tf32(tier.tf32)
    from mmengine.runner import Runner

    from aqr_bench.engine.hooks import LossCurve

    work = Path(config.work_dir)
    last, said = whole_checkpoint(work)
    if world_size() == 1 or os.environ.get("RANK") == "0":
        for line in said:
            print(f"warning: {line}", flush=True)
    config.resume, config.load_from = last is not None, None if last is None else str(last)
    config.launcher = "none" if world_size() == 1 else "pytorch"
    config.model_wrapper_cfg = dict(MODEL_WRAPPER)
    # Evaluation is a job of its own; the Runner asks for a test loop where it sees a test loader.
    runner = Runner.from_cfg(_without_test(config))
    if init and not config.resume:
        merged = merged_weights(init, work / "init.pth")
        load_weights(inner_model(runner), merged, whole)  # says what does not fit, where mmengine would only warn
        # train() initialises the weights afresh and makes the averaged copy; what it loads comes after both.
        runner._load_from = str(merged)
    with with_pickle_name(f"info file {inner_dataset(config.train_dataloader.dataset).ann_file}"), naming_resumed(last):
        runner.train()
    path = work / "final.pth"
    curve = next(h for h in runner.hooks if isinstance(h, LossCurve)).points
    if runner.rank:
        return path, {}, curve
    weights = final_weights(runner)
    if parts is not None:
        weights = {name: value for name, value in weights.items() if name.startswith(tuple(parts))}
        for part in parts:
            if not any(name.startswith(part) for name in weights):
                raise RuntimeError(f"the model has no parameters '{part}': see parts of pretrain in {tier.path}")
    write_weights(path, weights, iterations=runner.iter)
    parameters = sum(p.numel() for p in runner.model.parameters())
    return path, {"parameters": parameters, "iterations": runner.iter, "threads": threads}, curve


def reuse_base_weights(config: Any, base: Path) -> tuple[Path, dict, list]:
    """The base's weights as those of a variant that differs at test time only; what only the variant has is initial."""
    from aqr_bench import compat

    compat.prepare()
    from mmdet3d.registry import MODELS

    from aqr_bench.engine.seeding import seed_all

    seed_all(config.randomness.seed)
    model = MODELS.build(config.model)
    load_weights(model, base)
    path = write_weights(Path(config.work_dir) / "final.pth", dict(model.state_dict()), iterations=0)
    return path, {"parameters": sum(p.numel() for p in model.parameters()), "iterations": 0}, []


def _without_test(config: Any) -> Any:
    import copy

    config = copy.deepcopy(config)
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    return config


if __name__ == "__main__":
    run_main(main)
