"""Evaluate a trained model under every condition of a suite, the checkpoint of any mmdet3d config, or a keyframe."""

from __future__ import annotations

import argparse

from aqr_bench.console import positive_int
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.evaluate import evaluate_suite, write_suite_records
from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records
from aqr_bench.records.request import evaluation_requests, with_requests
from aqr_bench.study.load import load_study, load_suite, load_tier


def main(argv: list[str] | None = None) -> int:
    """Write one record per condition of the suite; 0 also where an evaluation failed: its record has the reason."""
    args = _arguments(argv)
    if args.config:
        from aqr_bench.engine.evaluate_checkpoint import evaluate_config

        return evaluate_config(args)
    if not (args.tier and args.train):
        raise UserError("evaluate needs --tier and --train (or --config and --checkpoint)")
    if args.keyframe:
        from aqr_bench.cli.pictures import evaluate_keyframe

        for picture in evaluate_keyframe(load_tier(args.tier), args.train, args.keyframe, args.out, args.study):
            print(picture)
        return 0
    if not (args.infos and args.suite and args.work):
        raise UserError("evaluate needs --infos, --suite and --work (or --keyframe)")
    tier, suite, data = load_tier(args.tier), load_suite(args.suite), load_data(args.infos)
    trained = read_records(args.train)[0]
    study = load_study(args.study or trained.study) if trained.study else None
    records = evaluate_suite(tier, suite, data, study, args.train, args.work)
    checkpoint = trained.provenance.get("checkpoint_sha256")
    requests = evaluation_requests(tier, suite, study, trained.variant, data.infos_sha256, checkpoint)
    write_suite_records(with_requests(records, requests), suite, args.out)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aqr-bench evaluate", description=__doc__)
    parser.add_argument("--tier")
    parser.add_argument("--infos", help="folder that aqr-bench data wrote")
    parser.add_argument("--suite", help="condition suite, file or name")
    parser.add_argument("--keyframe", help="instead: a folder with an info file (.pkl) and the files that it names")
    parser.add_argument("--train", help="train record of the model")
    parser.add_argument("--config", help="instead of --tier and --train: an mmdet3d config (file or mmdet3d::...)")
    parser.add_argument("--checkpoint", help="with --config: weights of the model (.pth)")
    parser.add_argument("--batch-size", type=positive_int, default=1, help="with --config: samples at a time")
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument("--out", required=True, help="record file (.jsonl), one line per condition; or picture folder")
    parser.add_argument("--work", help="folder for detections")
    return parser.parse_args(argv)
