"""Train one model and leave a record: python -m aqr_bench.train --tier T --infos DIR --seed N --out REC --work DIR.

With --study and --variant it trains that variant, with --pretrain one branch of the model alone, without them the base
model. --base and --features are the train records to start from, where tier or study say so. Killed at any moment, the
same command goes on from the last checkpoint in --work. Started by torchrun, its processes train one model together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aqr_bench.arguments import seed
from aqr_bench.data.plain_pickle import naming
from aqr_bench.errors import UserError, refuse_disk_fault, run_main, short
from aqr_bench.experiment import build_config, files_of, hashable, inner_dataset, load_data
from aqr_bench.limits import memory_limit
from aqr_bench.models import own_sources
from aqr_bench.ranks import Failure, Team, leave_now, share_of, world_size
from aqr_bench.record import (
    ROOMS,
    Record,
    code_hash,
    config_hash,
    provenance,
    read_records,
    sha256_file,
    status_of,
    utc_now,
    write_records,
)
from aqr_bench.resume import naming_resumed, whole_checkpoint
from aqr_bench.reuse import find_twin, leave, take_over
from aqr_bench.schedule import variant_schedule
from aqr_bench.starts import read_start, start_file
from aqr_bench.study import Tier, load_study, load_tier
from aqr_bench.whole import write_text, write_weights

NEW_PARAMETERS = ("pts_bbox_head.aqr.",)  # what a variant may have that its base has not
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
    known: dict[str, Any] = dict(config=hashed, rooms=ROOMS["train"], sources=sources, seed=args.seed, started=started)
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

    def put_down_failure(failure: Failure) -> None:
        reason = f"rank {failure.rank}: {failure.reason}" if failure.rank else failure.reason
        put_down(failure.status, reason, cost_since(clock))

    team.watch(put_down_failure)
    try:
        init = [trained_checkpoint(path) for path in given.get(start, [])]
        file = None if args.pretrain else start_file(tier, schedule)
        starts = [*init, file] if file else init
        known["files"] |= {f"start {n}": path for n, path in enumerate(starts, 1)}
        code = code_hash(ROOMS["train"], sources)
        identity = [config_hash(known["config"]), code, data.sha256, *map(sha256_file, starts)]
        start_afresh_unless_same(work, identity)
        if file is not None:
            found, extra["start"] = read_start(file, schedule, schedule.model or tier.model, work)
            init, extra["trained"] = [found], schedule.iterations != 0
        twin = find_twin(Path(args.work), work, "train", identity)
        if twin is not None:
            checkpoint, done = take_over(twin[0] / "final.pth", work / "final.pth"), twin[1]
            # The cost is that of the run which did the work.
            facts, curve, extra["same_as"] = done["cost"], done["curve"], done["run"]
            team.share(None)
        elif args.pretrain is None and schedule.iterations == 0:
            checkpoint, facts, curve = keep_base(config, init[0])
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
            leave(work, "train", identity, found, ["final.pth"])
        # Relative to the record, so that a results folder can be moved.
        where = dict(
            checkpoint=os.path.relpath(checkpoint, Path(args.out).parent), checkpoint_sha256=sha256_file(checkpoint)
        )
    except UserError:
        raise
    except Exception as error:
        refuse_disk_fault(error, work)
        traceback.print_exc()
        put_down_failure(team.settle(error, *what_failed(error, limit)))
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
        team.settle(error, *what_failed(error, limit))
    leave_now(0)


def what_failed(error: Exception, limit: int | None) -> tuple[str, str]:
    """Status and reason for a record."""
    status, reason = status_of(error), one_line(error)
    if status == "oom" and limit:
        reason = f"{reason.rstrip(': ')} (memory limit {limit} MB)"
    return status, reason


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.train", description=__doc__)
    parser.add_argument("--tier", required=True, help="tier file or name")
    parser.add_argument("--infos", required=True, help="folder that python -m aqr_bench.data wrote")
    parser.add_argument("--seed", type=seed, required=True)
    parser.add_argument("--out", required=True, help="record file (.jsonl)")
    parser.add_argument("--work", required=True, help="folder for checkpoints and logs")
    parser.add_argument("--study", help="study file or name")
    parser.add_argument("--variant", help="variant of the study")
    parser.add_argument("--pretrain", help="train this branch of the tier's 'pretrain' alone")
    parser.add_argument("--base", help="train record of the base model to start from")
    parser.add_argument("--features", nargs="+", default=[], help="train records of the pretrained branches")
    return parser.parse_args(argv)


def work_folder(
    root: str | Path, study: str | None, variant: str | None, seed: int, pretrain: str | None = None
) -> Path:
    """Folder of one run's checkpoints and detections below the work folder of a tier."""
    if pretrain is not None:
        return Path(root) / "pretrain" / pretrain
    return Path(root) / ("base" if study is None else f"{study}/{variant}") / f"seed{seed}"


def start_afresh_unless_same(work: Path, identity: list) -> None:
    """Empty a work folder whose checkpoints come from another config, code, data set or base model.

    Going on from them would mix two experiments into one record.
    """
    marker = work / "identity.json"
    try:
        if json.loads(marker.read_text(encoding="utf-8")) == identity:
            return
    except (FileNotFoundError, ValueError):
        pass  # a new folder, or a marker that is damaged: whatever is in there, nothing says whose it is
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_text(marker, json.dumps(identity))


def trained_checkpoint(record_path: str | Path) -> Path:
    """Checkpoint that a train record names; RuntimeError if that training failed or its checkpoint changed."""
    record = read_records(record_path)[0]
    if not record.ok:
        name = record.extra.get("pretrain")
        raise RuntimeError(f"{f'pretraining {name}' if name else 'base training'} failed: {record.reason}")
    return verified_checkpoint(record, record_path)


def verified_checkpoint(record: Record, record_path: str | Path) -> Path:
    """The checkpoint file of a train record, if it is there and still the one that was written."""
    name = record.provenance.get("checkpoint")
    path = Path(record_path).parent / name if name else None
    if path is None or not path.is_file():
        raise RuntimeError(f"checkpoint is missing: {name}")
    if sha256_file(path) != record.provenance.get("checkpoint_sha256"):
        raise RuntimeError(f"checkpoint {name} is not the one that its record describes (SHA-256 differs)")
    return path


def run_training(
    config: Any, tier: Tier, init: Sequence[Path] = (), whole: bool = True, parts: Sequence[str] | None = None
) -> tuple[Path, dict, list]:
    """Train with mmengine's Runner. Returns the final checkpoint, cost facts and the loss curve.

    Args:
        init: checkpoints to start from, later ones first in force.
        whole: they make up the model (only AQR's own parameters may be missing); else whatever they hold is taken.
        parts: prefixes of the parameters that the final checkpoint keeps; None: all.
    """
    from aqr_bench import runtime

    runtime.prepare()
    threads = runtime.use_threads(tier.threads)
    runtime.use_tf32(tier.tf32)
    from mmengine.runner import Runner

    from aqr_bench.hooks import LossCurve

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
    with naming(f"info file {inner_dataset(config.train_dataloader.dataset).ann_file}"), naming_resumed(last):
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


def keep_base(config: Any, base: Path) -> tuple[Path, dict, list]:
    """The base's weights as those of a variant that differs at test time only; what only the variant has is initial."""
    from aqr_bench import runtime

    runtime.prepare()
    from mmdet3d.registry import MODELS

    from aqr_bench.hooks import seed_all

    seed_all(config.randomness.seed)
    model = MODELS.build(config.model)
    load_weights(model, base)
    path = write_weights(Path(config.work_dir) / "final.pth", dict(model.state_dict()), iterations=0)
    return path, {"parameters": sum(p.numel() for p in model.parameters()), "iterations": 0}, []


def merged_weights(checkpoints: Sequence[Path], out: Path) -> Path:
    """One checkpoint of several, as it is if there is but one."""
    if len(checkpoints) == 1:
        return checkpoints[0]
    weights: dict = {}
    for checkpoint in checkpoints:
        weights.update(weights_of(checkpoint))
    return write_weights(out, weights, iterations=0)


def weights_of(checkpoint: Path) -> dict[str, Any]:
    """The weights in a checkpoint of ours; RuntimeError names the file if it holds none, or more than data."""
    import torch

    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # a damaged file makes torch raise nearly anything
        reason = str(error).rpartition("Trying to load")[2].partition(".\n")[0].strip() or type(error).__name__
        raise RuntimeError(f"{checkpoint} cannot be read as a checkpoint ({short(reason, 160)})") from error


def _without_test(config: Any) -> Any:
    import copy

    config = copy.deepcopy(config)
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    return config


def final_weights(runner: Any) -> dict:
    """The averaged weights if the run kept an exponential moving average, else the model's own."""
    from mmengine.hooks import EMAHook

    averaged = [h for h in runner.hooks if isinstance(h, EMAHook)]
    model = averaged[0].ema_model.module if averaged else inner_model(runner)
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def inner_model(runner: Any) -> Any:
    """The model itself, which is wrapped where several processes train."""
    from mmengine.model import is_model_wrapper

    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def load_weights(model: Any, checkpoint: Path, whole: bool = True) -> None:
    """Load a checkpoint weights-only; nothing may be left over; of a ``whole`` one only AQR's parameters be missing."""
    state = weights_of(checkpoint)
    result = model.load_state_dict(state, strict=False)
    missing = [k for k in result.missing_keys if whole and not k.startswith(NEW_PARAMETERS)]
    unexpected = [k for k in result.unexpected_keys if not k.startswith(NEW_PARAMETERS)]
    if missing or unexpected:
        raise RuntimeError(f"{checkpoint} does not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def one_line(error: BaseException) -> str:
    """What went wrong, in at most 300 characters on one line, and the notes that were added to the error."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return " ".join([text, *getattr(error, "__notes__", [])])


def cost_since(clock: tuple[float, float]) -> dict[str, float]:
    return {
        "wall_s": round(time.perf_counter() - clock[0], 2),
        "cpu_s": round(time.process_time() - clock[1], 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def of_all(costs: list[dict[str, float]]) -> dict[str, float]:
    """Processor time and memory of all processes together; nothing to say for one."""
    if len(costs) == 1:
        return {}
    return {"processes": len(costs), **{k: round(sum(c[k] for c in costs), 2) for k in ("cpu_s", "peak_rss_mb")}}


if __name__ == "__main__":
    run_main(main)
