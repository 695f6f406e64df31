"""Evaluate a trained model under every condition of a suite: python -m aqr_bench.evaluate --tier T --suite S ...

One record per condition. mmdet3d's NuScenesMetric writes the submission, nuscenes-devkit scores it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import time
import traceback
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, run_main
from aqr_bench.experiment import DataSet, build_config, load_data
from aqr_bench.record import (
    ROOMS,
    Record,
    provenance,
    read_records,
    refuse_equal_inputs,
    status_of,
    utc_now,
    write_records,
)
from aqr_bench.study import Condition, Suite, Tier, load_study, load_suite, load_tier
from aqr_bench.train import cost_since, hashable, load_weights, one_line, verified_checkpoint, work_folder


def main(argv: list[str] | None = None) -> int:
    """Write one record per condition of the suite; 0 also where an evaluation failed, the record says so."""
    args = _arguments(argv)
    if args.keyframe:
        from aqr_bench.pictures import evaluate_keyframe

        for picture in evaluate_keyframe(load_tier(args.tier), args.train, args.keyframe, args.out):
            print(picture)
        return 0
    if not (args.infos and args.suite and args.work):
        raise UserError("evaluate needs --infos, --suite and --work (or --keyframe)")
    tier, suite = load_tier(args.tier), load_suite(args.suite)
    data = load_data(args.infos)
    trained = read_records(args.train)[0]
    study = load_study(args.study or trained.study) if trained.study else None
    work = work_folder(args.work, trained.study, trained.variant, trained.seed or 0)
    config = build_config(tier, data, trained.seed or 0, work, study, trained.variant)
    records = []
    try:
        if not trained.ok:
            raise RuntimeError(f"training failed: {trained.reason}")
        evaluator = Evaluator(config, tier, data, verified_checkpoint(trained, args.train), work / "detections")
    except Exception as error:
        if trained.ok:
            traceback.print_exc()
        records = [_failure(c, suite, trained, tier, error) for c in suite.conditions]
    else:
        for condition in suite.conditions:
            records.append(_evaluate_one(evaluator, condition, suite, trained))
    write_records(args.out, refuse_equal_inputs(records, suite.conditions[0].name))
    for record in records:
        numbers = ", ".join(f"{k} {record.scores[k]:.3f}" for k in ("mAP", "NDS") if record.ok)
        print(f"{record.condition}: {numbers or record.reason}")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.evaluate", description=__doc__)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--infos", help="folder that python -m aqr_bench.data wrote")
    parser.add_argument("--suite", help="condition suite, file or name")
    parser.add_argument("--keyframe", help="instead: a folder with an info file (.pkl) and the files that it names")
    parser.add_argument("--train", required=True, help="train record of the model")
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument("--out", required=True, help="record file (.jsonl), one line per condition; or picture folder")
    parser.add_argument("--work", help="folder for detections")
    return parser.parse_args(argv)


def _identity(suite: Suite, trained: Record, tier: Tier, condition: Condition) -> dict[str, Any]:
    return dict(
        kind="evaluate",
        tier=tier.name,
        study=trained.study,
        variant=trained.variant,
        seed=trained.seed,
        suite=suite.name,
        condition=condition.name,
    )


def _failure(condition: Condition, suite: Suite, trained: Record, tier: Tier, error: Exception) -> Record:
    return Record(
        **_identity(suite, trained, tier, condition),
        status=status_of(error),
        reason=one_line(error),
        provenance=provenance(rooms=ROOMS["evaluate"], seed=trained.seed),
    )


def _evaluate_one(evaluator: Evaluator, condition: Condition, suite: Suite, trained: Record) -> Record:
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    try:
        scores, inputs, samples, router = evaluator.run(condition)
    except Exception as error:
        traceback.print_exc()
        return _failure(condition, suite, trained, evaluator.tier, error)
    return Record(
        **_identity(suite, trained, evaluator.tier, condition),
        status="ok",
        scores=scores,
        cost={**cost_since(clock), "samples": samples},
        extra={"router": router} if router else {},
        provenance=provenance(
            config=hashable(evaluator.config),
            rooms=ROOMS["evaluate"],
            seed=trained.seed,
            started=started,
            data_sha256=evaluator.data.sha256,
            input_sha256=inputs,
            checkpoint=evaluator.checkpoint.name,
            checkpoint_sha256=trained.provenance.get("checkpoint_sha256"),
        ),
    )


class Evaluator:
    """A loaded model with its data set and tables, ready to be run under one condition after another."""

    def __init__(self, config: Any, tier: Tier, data: DataSet, checkpoint: Path | None, work: Path) -> None:
        from aqr_bench import runtime

        runtime.prepare()
        runtime.use_threads(tier.threads)
        from mmengine.registry import init_default_scope
        from mmengine.utils import import_modules_from_strings

        import_modules_from_strings(**config.custom_imports)
        init_default_scope(config.default_scope)
        from mmdet3d.registry import MODELS

        self.config, self.tier, self.data, self.checkpoint, self.work = config, tier, data, checkpoint, work
        self.model = MODELS.build(config.model)
        if checkpoint is not None:
            load_weights(self.model, checkpoint)
        self.model.eval()

    @functools.cached_property
    def tables(self) -> Any:
        """The devkit's NuScenes of the data set."""
        from aqr_bench.data.infos import open_nuscenes

        return open_nuscenes(self.data.root, self.data.version)

    def predict(self, batch: dict) -> Any:
        """Detections of a collated batch of one sample."""
        import torch

        with torch.no_grad():
            return self.model.test_step(batch)[0].cpu()

    def run(self, condition: Condition) -> tuple[dict, str, int, dict]:
        """Detect and score under one condition: scores, fingerprint of all inputs, samples, what the router did."""
        from aqr_bench.telemetry import RouterLog

        with RouterLog(self.model.pts_bbox_head) as log:
            submission, digests = self.detect(condition)
        from aqr_bench.metrics.detection import score_detections

        scores = score_detections(submission, self.tables, submission.parent)
        fingerprint = hashlib.sha256("\n".join(f"{t} {d}" for t, d in sorted(digests.items())).encode()).hexdigest()
        router = log.save(self.work / condition.name / "router.npz")
        return scores, fingerprint, len(digests), router

    def detect(self, condition: Condition) -> tuple[Path, dict[str, str]]:
        """Write the nuScenes submission of the val split; return its path and the inputs' SHA-256 by sample token."""
        import torch
        from mmdet3d.evaluation import NuScenesMetric

        loader = build_loader(self.config, condition, self.tier.evaluate_batch_size)
        folder = self.work / condition.name
        metric = NuScenesMetric(
            data_root=str(self.data.root),
            ann_file=loader.dataset.ann_file,
            modality=dict(use_camera=True, use_lidar=True),
            format_only=True,
            jsonfile_prefix=str(folder),
        )
        metric.dataset_meta = loader.dataset.metainfo
        digests: dict[str, str] = {}
        with torch.no_grad():
            for batch in loader:
                samples = [sample.cpu() for sample in self.model.test_step(batch)]
                digests.update({s.metainfo["token"]: s.metainfo["input_sha256"] for s in samples})
                metric.process(batch, [s.to_dict() for s in samples])
        if len(digests) != len(loader.dataset):
            raise RuntimeError(f"{len(digests)} of {len(loader.dataset)} samples were evaluated")
        _quietly(metric.evaluate, len(loader.dataset))
        return folder / "pred_instances_3d" / "results_nusc.json", digests


def build_loader(config: Any, condition: Condition, batch_size: int) -> Any:
    """The config's test data loader with its SensorCondition set."""
    from copy import deepcopy

    from mmengine.runner import Runner

    loader = deepcopy(config.test_dataloader)
    loader.batch_size = batch_size
    steps = [s for s in loader.dataset.pipeline if s["type"] == "SensorCondition"]
    if len(steps) != 1:
        raise RuntimeError(f"the test pipeline needs exactly one SensorCondition, it has {len(steps)}")
    steps[0]["name"] = condition.corruption
    return _quietly(Runner.build_dataloader, loader)


def _quietly(function: Any, *args: Any) -> Any:
    """Call mmdet3d code that prints tables and bars to stdout."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


if __name__ == "__main__":
    run_main(main)
