"""Evaluate a trained model under every condition of a suite: python -m aqr_bench.evaluate --tier T --suite S ...

One record per condition. The submission holds what mmdet3d's NuScenesMetric would write; nuscenes-devkit scores it.
"""

from __future__ import annotations

import argparse
import functools
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aqr_bench.arguments import positive
from aqr_bench.corruptions import get_condition
from aqr_bench.corruptions.proof import Proof, summary
from aqr_bench.data.plain_pickle import naming
from aqr_bench.errors import UserError, refuse_disk_fault, run_main
from aqr_bench.experiment import DataSet, build_config, hashable, inner_dataset, load_data
from aqr_bench.models import own_sources
from aqr_bench.progress import steps
from aqr_bench.record import (
    NOT_APPLICABLE,
    ROOMS,
    Record,
    code_hash,
    config_hash,
    provenance,
    read_records,
    refuse_equal_inputs,
    sha256_file,
    status_of,
    utc_now,
    write_records,
)
from aqr_bench.reuse import find_twin, leave, take_over
from aqr_bench.runtime import to_cpu
from aqr_bench.schedule import model_of
from aqr_bench.study import Condition, Suite, Tier, load_study, load_suite, load_tier
from aqr_bench.train import cost_since, load_weights, one_line, verified_checkpoint, work_folder


def main(argv: list[str] | None = None) -> int:
    """Write one record per condition of the suite; 0 also where an evaluation failed, the record says so."""
    args = _arguments(argv)
    if args.config:
        from aqr_bench.bare import evaluate_config

        return evaluate_config(args)
    if not (args.tier and args.train):
        raise UserError("evaluate needs --tier and --train (or --config and --checkpoint)")
    if args.keyframe:
        from aqr_bench.pictures import evaluate_keyframe

        for picture in evaluate_keyframe(load_tier(args.tier), args.train, args.keyframe, args.out, args.study):
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
    sources = own_sources(model_of(tier, study, trained.variant))
    try:
        if not trained.ok:
            raise RuntimeError(f"training failed: {trained.reason}")
        checkpoint = verified_checkpoint(trained, args.train)
        identity = _identity_of(config, tier, data, suite, trained, sources)
        twin = find_twin(Path(args.work), work, f"evaluate.{suite.name}", identity)
        evaluator = Evaluator(config, tier, data, checkpoint, work / "detections", sources) if twin is None else None
    except Exception as error:
        refuse_disk_fault(error, work)
        if trained.ok:
            traceback.print_exc()
        records = [_failure(c, suite, trained, tier, error, sources) for c in suite.conditions]
    else:
        if twin is None:
            conditions = steps(suite.conditions, f"suite {suite.name}", lambda condition: condition.name)
            records = [evaluate_one(evaluator, condition, suite, trained) for condition in conditions]
        else:
            records = _taken_over(*twin, work, trained)
        if not any(record.failed for record in records):
            run = work.relative_to(args.work).as_posix() if twin is None else twin[1]["run"]
            found = {"run": run, "records": [record.to_dict() for record in records]}
            leave(work, f"evaluate.{suite.name}", identity, found, _kept_files(records))
    put_down(records, suite, args.out)
    return 0


def put_down(records: Sequence[Record], suite: Suite, out: str | Path) -> None:
    """Write the records of a suite, refuse conditions that did nothing, and print a line for each."""
    records = refuse_equal_inputs(records, suite.conditions[0].name)
    write_records(out, records)
    for record in records:
        numbers = ", ".join(f"{k} {record.scores[k]:.3f}" for k in ("mAP", "NDS") if record.ok)
        print(f"{record.condition}: {numbers or record.reason}")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.evaluate", description=__doc__)
    parser.add_argument("--tier")
    parser.add_argument("--infos", help="folder that python -m aqr_bench.data wrote")
    parser.add_argument("--suite", help="condition suite, file or name")
    parser.add_argument("--keyframe", help="instead: a folder with an info file (.pkl) and the files that it names")
    parser.add_argument("--train", help="train record of the model")
    parser.add_argument("--config", help="instead of --tier and --train: an mmdet3d config (file or mmdet3d::...)")
    parser.add_argument("--checkpoint", help="with --config: weights of the model (.pth)")
    parser.add_argument("--batch-size", type=positive, default=1, help="with --config: samples at a time")
    parser.add_argument("--study", help="study file, if it is not one of ablations/")
    parser.add_argument("--out", required=True, help="record file (.jsonl), one line per condition; or picture folder")
    parser.add_argument("--work", help="folder for detections")
    return parser.parse_args(argv)


def _identity_of(
    config: Any, tier: Tier, data: DataSet, suite: Suite, trained: Record, sources: Sequence[Path]
) -> list[str]:
    """What an evaluation depends on: two with the same identity find the same."""
    conditions = {"conditions": [vars(c) for c in suite.conditions], "batch_size": tier.evaluate_batch_size}
    hashes = [
        config_hash(hashable(config)),
        config_hash(conditions),
        code_hash(ROOMS["evaluate"], sources),
        data.sha256,
    ]
    return [*hashes, str(trained.provenance.get("checkpoint_sha256"))]


def _taken_over(folder: Path, found: dict, work: Path, trained: Record) -> list[Record]:
    """The records of a twin as those of this run, with the files that they name."""
    records = [Record.from_dict(data) for data in found["records"]]
    for file in _kept_files(records):
        take_over(folder / file, work / file)
    own = dict(study=trained.study, variant=trained.variant, seed=trained.seed)
    return [replace(record, **own, extra={**record.extra, "same_as": found["run"]}) for record in records]


def _kept_files(records: Sequence[Record]) -> list[Path]:
    """The files that evaluations name in their records, relative to the work folder of the run."""
    return [
        Path("detections") / str(record.condition) / part["file"]
        for record in records
        for part in record.extra.values()
        if isinstance(part, dict) and "file" in part
    ]


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


def _failure(
    condition: Condition, suite: Suite, trained: Record, tier: Tier, error: Exception, sources: Sequence[Path]
) -> Record:
    return Record(
        **_identity(suite, trained, tier, condition),
        status=status_of(error),
        reason=one_line(error),
        provenance=provenance(rooms=ROOMS["evaluate"], sources=sources, seed=trained.seed),
    )


def blind_to(config: Any, condition: Condition) -> str | None:
    """Why a condition cannot concern the model: it changes a sensor that the model does not use. None if it can."""
    uses = inner_dataset(config.test_dataloader.dataset).modality
    changes = get_condition(condition.corruption, condition.severity, condition.options).modality
    if changes == "lidar" and not uses.use_lidar:
        return "the model does not use the LiDAR, the only sensor that the condition changes"
    if changes in ("camera", "calibration") and not uses.use_camera:
        return f"the model does not use cameras, and the condition changes only {changes.replace('camera', 'images')}"
    return None


def evaluate_one(evaluator: Evaluator, condition: Condition, suite: Suite, trained: Record) -> Record:
    """The record of one condition, whatever becomes of it."""
    reason = blind_to(evaluator.config, condition)
    if reason is not None:
        facts = provenance(rooms=ROOMS["evaluate"], sources=evaluator.sources, seed=trained.seed)
        own = _identity(suite, trained, evaluator.tier, condition)
        return Record(**own, status=NOT_APPLICABLE, reason=reason, provenance=facts)
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    try:
        scores, inputs, extra = evaluator.run(condition)
    except Exception as error:
        refuse_disk_fault(error, evaluator.work)
        failure = functools.partial(_failure, condition, suite, trained, evaluator.tier, error, evaluator.sources)
        try:
            traceback.print_exc()
            return failure()
        except RuntimeError:
            # torch tells of a loader's dead worker a second time, out of a signal handler and wherever we are.
            return failure()
    return Record(
        **_identity(suite, trained, evaluator.tier, condition),
        status="ok",
        scores=scores,
        cost={**cost_since(clock), "samples": inputs["samples"]},
        extra={**extra, "inputs": inputs},
        provenance=provenance(
            config=hashable(evaluator.config),
            rooms=ROOMS["evaluate"],
            sources=evaluator.sources,
            seed=trained.seed,
            started=started,
            data_sha256=evaluator.data.sha256,
            input_sha256=inputs["sha256"],
            checkpoint=evaluator.checkpoint.name,
            checkpoint_sha256=trained.provenance.get("checkpoint_sha256"),
            predictions_sha256=evaluator.predictions,
            files={"tier": evaluator.tier.path, "suite": suite.path},
            loader_workers=evaluator.config.test_dataloader.num_workers,
        ),
    )


class Evaluator:
    """A loaded model with its data set and tables, ready to be run under one condition after another.

    ``sources``: the files of a detector of one's own, for the records.
    """

    def __init__(
        self,
        config: Any,
        tier: Tier,
        data: DataSet,
        checkpoint: Path | None,
        work: Path,
        sources: Sequence[Path] = (),
    ) -> None:
        from aqr_bench import runtime

        runtime.prepare()
        runtime.use_threads(tier.threads)
        runtime.use_tf32(tier.tf32)
        from mmengine.device import get_device
        from mmengine.registry import init_default_scope
        from mmengine.utils import import_modules_from_strings

        import_modules_from_strings(**config.custom_imports)
        init_default_scope(config.default_scope)
        from mmdet3d.registry import MODELS

        self.config, self.tier, self.data, self.checkpoint, self.work = config, tier, data, checkpoint, work
        self.predictions: str | None = None  # SHA-256 of the last submission
        self.dataset: Any = None  # of the last condition: the next one reads the same frames through another pipeline
        self.sources, self.model = sources, MODELS.build(config.model)
        if checkpoint is not None:
            load_weights(self.model, checkpoint)
        self.model.to(get_device()).eval()

    @functools.cached_property
    def tables(self) -> Any:
        """The devkit's NuScenes of the data set."""
        from aqr_bench.data.infos import open_nuscenes

        return open_nuscenes(self.data.root, self.data.version)

    def predict(self, batch: dict) -> Any:
        """Detections of a collated batch of one sample."""
        import torch

        with torch.no_grad():
            return to_cpu(self.model.test_step(batch)[0])

    def run(self, condition: Condition) -> tuple[dict, dict, dict]:
        """Detect and score under one condition: scores, fingerprint of all inputs, and the record's extra."""
        from aqr_bench.telemetry import RouterLog

        with RouterLog(getattr(self.model, "pts_bbox_head", None)) as log:
            submission, results, proofs = self.detect(condition)
        self.predictions = sha256_file(submission)
        from aqr_bench.metrics.detection import metric_engine, score_detections

        folder = self.work / condition.name
        scores = score_detections(
            submission, self.tables, submission.parent, matches=folder / "matches.npz", results=results
        )
        router = log.save(folder / "router.npz")
        extra = {
            "matches": {"file": "matches.npz"},
            "metric": metric_engine(),
            **({"router": router} if router else {}),
        }
        inputs = summary(proofs)
        return scores, inputs, {**extra, **self._checked(submission, scores, inputs["sha256"])}

    def _checked(self, submission: Path, scores: dict, inputs: str) -> dict:
        """A random share of evaluations is scored by nuscenes-devkit as well; RuntimeError where it differs."""
        from aqr_bench.metrics import cross_check
        from aqr_bench.metrics.detection import metric_engine

        # Drawn by what was detected on and by whom, so that it stays the same however often it is evaluated.
        name = f"{inputs} {self.checkpoint.name if self.checkpoint else ''} {scores['mAP']!r}"
        if metric_engine() == "devkit" or not cross_check.is_drawn(name, cross_check.SHARE):
            return {}
        found = cross_check.check_submission(submission, scores, self.tables)
        if not found.agrees:
            first = found.differences[0] if found.differences else "nothing was compared"
            raise RuntimeError(f"our metric and nuscenes-devkit differ in {len(found.differences)} numbers: {first}")
        return {"devkit": {"compared": found.compared, "largest": found.largest}}

    def detect(self, condition: Condition) -> tuple[Path, dict[str, list], dict[str, Proof]]:
        """Write the nuScenes submission of the val split; return path, entries, and inputs' fingerprints by token."""
        import torch
        from nuscenes.eval.common.config import config_factory

        from aqr_bench.metrics.submission import sample_detections, write_submission

        loader = build_loader(self.config, condition, self.tier.evaluate_batch_size, self.dataset)
        self.dataset = loader.dataset
        infos = {info["token"]: info for info in map(loader.dataset.get_data_info, range(len(loader.dataset)))}
        names, ranges = loader.dataset.metainfo["classes"], config_factory("detection_cvpr_2019").class_range
        proofs: dict[str, Proof] = {}
        results: dict[str, list] = {}
        with torch.no_grad():
            for batch in _batches(loader, condition.name):
                for sample in self.model.test_step(batch):
                    token, found = sample.metainfo["token"], to_cpu(sample).pred_instances_3d
                    proofs[token] = Proof(**sample.metainfo["input_proof"])
                    boxes = torch.cat([found.bboxes_3d.gravity_center, found.bboxes_3d.tensor[:, 3:]], 1)
                    results[token] = sample_detections(
                        token,
                        boxes.numpy(),
                        found.scores_3d.numpy(),
                        found.labels_3d.numpy(),
                        names,
                        infos[token]["lidar_points"]["lidar2ego"],
                        infos[token]["ego2global"],
                        ranges,
                    )
        if len(proofs) != len(infos):
            raise RuntimeError(f"{len(proofs)} of {len(infos)} samples were evaluated")
        return write_submission(self.work / condition.name / "results_nusc.json", results), results, proofs


def _batches(loader: Any, name: str) -> Iterator[dict]:
    try:
        yield from steps(loader, name, lambda _: "batches")
    except (ConnectionError, EOFError) as error:
        # Where torch may meet a dead worker first: tensors are handed over by sockets.
        raise RuntimeError(f"a worker process of the loader has died ({type(error).__name__}: {error})") from error


def build_loader(config: Any, condition: Condition, batch_size: int, read: Any = None) -> Any:
    """The config's test data loader with its SensorCondition set.

    ``read``: the data set of another condition, so that the info file need not be read again.
    """
    from copy import copy, deepcopy

    from mmengine.dataset import Compose
    from mmengine.runner import Runner

    loader = deepcopy(config.test_dataloader)
    loader.batch_size = batch_size
    steps = [s for s in loader.dataset.pipeline if s["type"] == "SensorCondition"]
    if len(steps) != 1:
        raise RuntimeError(f"the test pipeline needs exactly one SensorCondition, it has {len(steps)}")
    steps[0].update(name=condition.corruption, severity=condition.severity, options=dict(condition.options))
    steps[0].update(ann_file=loader.dataset.ann_file, data_root=loader.dataset.data_root)
    with naming(f"info file {loader.dataset.ann_file}"):
        if read is None:
            return _quietly(Runner.build_dataloader, loader)
        pipeline, loader.dataset = Compose(loader.dataset.pipeline), copy(read)
        loader.dataset.pipeline = None  # mmengine copies the whole data set, and not every pipeline can be copied
        built = Runner.build_dataloader(loader)
        built.dataset.pipeline = pipeline
        return built


def _quietly(function: Any, *args: Any) -> Any:
    """Call mmdet3d code that prints tables and bars to stdout."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


if __name__ == "__main__":
    run_main(main)
