"""Train one model and leave a record: python -m aqr_bench.train --tier T --infos DIR --seed N --out REC --work DIR.

With --study and --variant it trains that variant (from the base model of --base where the tier says so), without
them the base model. Killed at any moment, the same command goes on from the last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, run_main
from aqr_bench.experiment import build_config, inner_dataset, load_data
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
from aqr_bench.study import Tier, load_study, load_tier

NEW_PARAMETERS = ("pts_bbox_head.aqr.",)  # what a variant may have that its base has not


def main(argv: list[str] | None = None) -> int:
    """Train and write the record. 0 also when the training failed: the record says so."""
    args = _arguments(argv)
    tier = load_tier(args.tier)
    study = load_study(args.study) if args.study else None
    if (args.study is None) != (args.variant is None):
        raise UserError("--study and --variant go together")
    data = load_data(args.infos)
    needs_base = study is not None and tier.variant.init == "base"
    if needs_base and not args.base:
        raise UserError(f"tier '{tier.name}' starts its variants from the base model: give --base TRAIN_RECORD")
    work = work_folder(args.work, args.study and study.name, args.variant, args.seed)
    config = build_config(tier, data, args.seed, work, study, args.variant)
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    known: dict[str, Any] = dict(config=hashable(config), rooms=ROOMS["train"], seed=args.seed, started=started)
    try:
        init = base_checkpoint(args.base) if needs_base else None
        start_afresh_unless_same(work, [config_hash(known["config"]), code_hash(ROOMS["train"]), data.sha256, init])
        checkpoint, facts, curve = run_training(config, tier, init)
        status, reason = "ok", None
        # Relative to the record, so that a results folder can be moved.
        where = dict(
            checkpoint=os.path.relpath(checkpoint, Path(args.out).parent), checkpoint_sha256=sha256_file(checkpoint)
        )
    except UserError:
        raise
    except Exception as error:
        traceback.print_exc()
        status, reason, where = status_of(error), one_line(error), {}
        facts, curve = {}, []
    record = Record(
        kind="train",
        status=status,
        reason=reason,
        tier=tier.name,
        study=study.name if study else None,
        variant=args.variant,
        seed=args.seed,
        cost={**cost_since(clock), **facts},
        provenance=provenance(**known, data_sha256=data.sha256, **where),
        curve=curve,
    )
    write_records(args.out, [record])
    print(f"{status}: {args.out}" + (f" ({reason})" if reason else ""))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.train", description=__doc__)
    parser.add_argument("--tier", required=True, help="tier file or name")
    parser.add_argument("--infos", required=True, help="folder that python -m aqr_bench.data wrote")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="record file (.jsonl)")
    parser.add_argument("--work", required=True, help="folder for checkpoints and logs")
    parser.add_argument("--study", help="study file or name")
    parser.add_argument("--variant", help="variant of the study")
    parser.add_argument("--base", help="train record of the base model to start from")
    return parser.parse_args(argv)


def work_folder(root: str | Path, study: str | None, variant: str | None, seed: int) -> Path:
    """Folder of one run's checkpoints and detections below the work folder of a tier."""
    return Path(root) / ("base" if study is None else f"{study}/{variant}") / f"seed{seed}"


def start_afresh_unless_same(work: Path, identity: list) -> None:
    """Empty a work folder whose checkpoints come from another config, code, data set or base model.

    Going on from them would mix two experiments into one record.
    """
    identity = [sha256_file(part) if isinstance(part, Path) else part for part in identity]
    marker = work / "identity.json"
    if marker.is_file() and json.loads(marker.read_text()) == identity:
        return
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    marker.write_text(json.dumps(identity))


def base_checkpoint(record_path: str | Path) -> Path:
    """Checkpoint of the base model that a train record names; RuntimeError if that training failed or changed."""
    record = read_records(record_path)[0]
    if not record.ok:
        raise RuntimeError(f"base training failed: {record.reason}")
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


def run_training(config: Any, tier: Tier, init: Path | None) -> tuple[Path, dict, list]:
    """Train with mmengine's Runner. Returns the final checkpoint, cost facts and the loss curve."""
    from aqr_bench import runtime

    runtime.prepare()
    threads = runtime.use_threads(tier.threads)
    import torch
    from mmengine.runner import Runner

    from aqr_bench.hooks import LossCurve

    work = Path(config.work_dir)
    config.resume = _has_checkpoint(work)
    config.launcher = "none"
    # Evaluation is a job of its own; the Runner asks for a test loop where it sees a test loader.
    runner = Runner.from_cfg(_without_test(config))
    if init is not None and not config.resume:
        load_weights(runner.model, init)  # says what does not fit, where mmengine would only warn
        # train() initialises the weights afresh and makes the averaged copy; what it loads comes after both.
        runner._load_from = str(init)
    runner.train()
    curve = next(h for h in runner.hooks if isinstance(h, LossCurve)).points
    weights = final_weights(runner)
    path = work / "final.pth"
    temporary = path.with_suffix(".tmp")
    torch.save({"state_dict": weights, "meta": {"iterations": runner.iter}}, temporary)
    os.replace(temporary, path)
    parameters = sum(p.numel() for p in runner.model.parameters())
    return path, {"parameters": parameters, "iterations": runner.iter, "threads": threads}, curve


def _without_test(config: Any) -> Any:
    import copy

    config = copy.deepcopy(config)
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    return config


def final_weights(runner: Any) -> dict:
    """The averaged weights if the run kept an exponential moving average, else the model's own."""
    from mmengine.hooks import EMAHook

    averaged = [h for h in runner.hooks if isinstance(h, EMAHook)]
    model = averaged[0].ema_model.module if averaged else runner.model
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def load_weights(model: Any, checkpoint: Path) -> None:
    """Load a checkpoint weights-only; only AQR's own parameters may be missing, nothing may be left over."""
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    result = model.load_state_dict(state, strict=False)
    missing = [k for k in result.missing_keys if not k.startswith(NEW_PARAMETERS)]
    unexpected = [k for k in result.unexpected_keys if not k.startswith(NEW_PARAMETERS)]
    if missing or unexpected:
        raise RuntimeError(f"{checkpoint} does not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _has_checkpoint(work: Path) -> bool:
    pointer = work / "last_checkpoint"
    return pointer.is_file() and Path(pointer.read_text().strip()).is_file()


def one_line(error: BaseException) -> str:
    """What went wrong, in at most 300 characters on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def cost_since(clock: tuple[float, float]) -> dict[str, float]:
    return {
        "wall_s": round(time.perf_counter() - clock[0], 2),
        "cpu_s": round(time.process_time() - clock[1], 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def hashable(config: Any) -> dict:
    """The config without what does not change its result: where files lie."""
    plain = config.to_dict()
    plain.pop("work_dir", None)
    for loader in ("train_dataloader", "test_dataloader"):
        dataset = inner_dataset(plain[loader]["dataset"])
        dataset["data_root"], dataset["ann_file"] = None, Path(dataset["ann_file"]).name
        for step in dataset["pipeline"]:
            if "db_sampler" in step:
                step["db_sampler"]["info_path"] = Path(step["db_sampler"]["info_path"]).name
    plain.pop("test_evaluator", None)  # evaluation goes its own way; this one serves mmengine's own test command
    return plain


if __name__ == "__main__":
    run_main(main)
