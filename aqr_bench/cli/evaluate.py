"""Evaluate a trained model under every condition of a suite, the checkpoint of any mmdet3d config, or a keyframe."""

from __future__ import annotations

import argparse
from pathlib import Path

from aqr_bench.cli.gpu_devices import visible_gpus
from aqr_bench.console import add_quiet_option, hide_progress, positive_int
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.evaluate_suite import Workers, evaluate_suite
from aqr_bench.errors import EXIT_FAILED_RECORDS, UserError
from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_study, load_suite, load_tier


def main(argv: list[str] | None = None) -> int:
    """Write one record per condition of each suite. 0 if all are ok, 3 if one failed; its record has the reason.

    With --allow-failures 0 in that case too: for the workflow a record of a failure is a result.
    """
    args = _arguments(argv)
    with hide_progress(args.quiet):
        return evaluate(args)


def evaluate(args: argparse.Namespace) -> int:
    """The exit code. UserError: options that do not go together, a file that cannot be used."""
    if args.keyframe and (args.out or not args.pictures):
        raise UserError(
            "evaluate --keyframe writes pictures and no records: give their folder with --pictures, not --out"
        )
    if not args.keyframe and (args.pictures or not args.out):
        raise UserError("evaluate needs --out, the record file to write (--pictures belongs to --keyframe)")
    if args.infos and args.work and args.infos.endswith(".pkl"):
        from aqr_bench.data.foreign_infos import import_infos

        args.infos = str(import_infos(args.infos, Path(args.work) / "infos"))
        print(f"info file of mmdet3d: taken as it is -> {args.infos}")
    if args.config:
        from aqr_bench.engine.evaluate_checkpoint import evaluate_config

        outs = _record_files(args) if args.suite else {None: args.out}  # evaluate_config says what is missing
        each = [argparse.Namespace(**{**vars(args), "suite": suite, "out": out}) for suite, out in outs.items()]
        codes = [evaluate_config(one_suite, _workers(args.workers)) for one_suite in each]
        return 0 if args.allow_failures else max(codes)
    if args.metrics:
        raise UserError("--metrics belongs to --config", "A tier names its metrics itself: evaluate: {metrics: [...]}.")
    if not (args.tier and args.train):
        raise UserError("evaluate needs --tier and --train (or --config and --checkpoint)")
    if args.keyframe:
        from aqr_bench.cli.pictures import evaluate_keyframe

        for picture in evaluate_keyframe(load_tier(args.tier), args.train, args.keyframe, args.pictures, args.study):
            print(picture)
        return 0
    if not (args.infos and args.suite and args.work):
        raise UserError("evaluate needs --infos, --suite and --work (or --keyframe)")
    tier, outs, data = load_tier(args.tier), _record_files(args), load_data(args.infos)
    trained = read_records(args.train)[0]
    study = load_study(args.study or trained.study) if trained.study else None
    workers, failed = _workers(args.workers), False
    for name, out in outs.items():
        records = evaluate_suite(tier, load_suite(name), data, study, args.train, args.work, out, workers)
        failed |= any(record.failed for record in records)
    return EXIT_FAILED_RECORDS if failed and not args.allow_failures else 0


def _record_files(args: argparse.Namespace) -> dict[str, str]:
    """The record file of each suite: ``--out``, or of several suites ``evaluate.<suite>.jsonl`` in that folder."""
    names = [load_suite(name).name for name in args.suite]  # a mistake in the last one shows before the first is run
    if len(args.suite) == 1:
        return {args.suite[0]: args.out}
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--suite: '{repeated}' is given twice")
    if args.out.endswith(".jsonl"):
        raise UserError(f"--out: {args.out} is a file", "Give a folder: each suite gets a file in it.")
    outs = [f"{args.out}/evaluate.{name}.jsonl" for name in names]
    return dict(zip(args.suite, outs, strict=True))


def _workers(count: int) -> Workers:
    """So many processes, on all visible GPUs; one process leaves to torch on which GPU it works."""
    return Workers(count, tuple(gpu.entry for gpu in visible_gpus()) if count > 1 else ())


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aqr-bench evaluate", description=__doc__)
    parser.add_argument("--tier")
    parser.add_argument("--infos", help="folder that aqr-bench data wrote, or mmdet3d's nuscenes_infos_val.pkl")
    parser.add_argument("--suite", nargs="+", action="extend", help="condition suites, files or names")
    parser.add_argument("--keyframe", help="instead: a folder with an info file (.pkl) and the files that it names")
    parser.add_argument("--pictures", metavar="DIR", help="with --keyframe: folder for pictures and detections.json")
    parser.add_argument("--train", help="train record of the model")
    parser.add_argument("--config", help="instead of --tier and --train: an mmdet3d config (file or mmdet3d::...)")
    parser.add_argument("--checkpoint", help="with --config: weights of the model (.pth)")
    parser.add_argument(
        "--metrics", nargs="+", action="extend", default=[], help="with --config: custom metrics, my_file.py:NAME"
    )
    parser.add_argument("--batch-size", type=positive_int, default=1, help="with --config: samples at a time")
    parser.add_argument(
        "--workers", type=positive_int, default=1, metavar="N", help="spread conditions over N processes and all GPUs"
    )
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument(
        "--out", help="record file (.jsonl), one line per condition; of several suites a folder for theirs"
    )
    parser.add_argument("--allow-failures", action="store_true", help="exit with 0 also where a condition failed")
    parser.add_argument("--work", help="folder for detections")
    add_quiet_option(parser)
    return parser.parse_args(argv)
