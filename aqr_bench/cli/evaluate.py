"""Evaluate a trained model under every condition of a suite, the checkpoint of any mmdet3d config, or a keyframe."""

from __future__ import annotations

import argparse

from aqr_bench.cli.gpu_devices import visible_gpus
from aqr_bench.console import positive_int
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.evaluate_suite import Workers, evaluate_suite
from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_study, load_suite, load_tier


def main(argv: list[str] | None = None) -> int:
    """Write one record per condition of the suite. 0 also where an evaluation failed, since its record has the reason.

    With --config: 3 where one failed; the workflow, for which a record of a failure is a result, has no such job.
    """
    args = _arguments(argv)
    if args.keyframe and (args.out or not args.pictures):
        raise UserError(
            "evaluate --keyframe writes pictures and no records: give their folder with --pictures, not --out"
        )
    if not args.keyframe and (args.pictures or not args.out):
        raise UserError("evaluate needs --out, the record file to write (--pictures belongs to --keyframe)")
    if args.config:
        from aqr_bench.engine.evaluate_checkpoint import evaluate_config

        return evaluate_config(args, _workers(args.workers))
    if not (args.tier and args.train):
        raise UserError("evaluate needs --tier and --train (or --config and --checkpoint)")
    if args.keyframe:
        from aqr_bench.cli.pictures import evaluate_keyframe

        for picture in evaluate_keyframe(load_tier(args.tier), args.train, args.keyframe, args.pictures, args.study):
            print(picture)
        return 0
    if not (args.infos and args.suite and args.work):
        raise UserError("evaluate needs --infos, --suite and --work (or --keyframe)")
    tier, suite, data = load_tier(args.tier), load_suite(args.suite), load_data(args.infos)
    trained = read_records(args.train)[0]
    study = load_study(args.study or trained.study) if trained.study else None
    evaluate_suite(tier, suite, data, study, args.train, args.work, args.out, _workers(args.workers))
    return 0


def _workers(count: int) -> Workers:
    """So many processes, on all visible GPUs; one process leaves to torch on which GPU it works."""
    return Workers(count, tuple(gpu.entry for gpu in visible_gpus()) if count > 1 else ())


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aqr-bench evaluate", description=__doc__)
    parser.add_argument("--tier")
    parser.add_argument("--infos", help="folder that aqr-bench data wrote")
    parser.add_argument("--suite", help="condition suite, file or name")
    parser.add_argument("--keyframe", help="instead: a folder with an info file (.pkl) and the files that it names")
    parser.add_argument("--pictures", metavar="DIR", help="with --keyframe: folder for pictures and detections.json")
    parser.add_argument("--train", help="train record of the model")
    parser.add_argument("--config", help="instead of --tier and --train: an mmdet3d config (file or mmdet3d::...)")
    parser.add_argument("--checkpoint", help="with --config: weights of the model (.pth)")
    parser.add_argument("--batch-size", type=positive_int, default=1, help="with --config: samples at a time")
    parser.add_argument(
        "--workers", type=positive_int, default=1, metavar="N", help="spread conditions over N processes and all GPUs"
    )
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument("--out", help="record file (.jsonl) to write, one line per condition")
    parser.add_argument("--work", help="folder for detections")
    return parser.parse_args(argv)
