"""Evaluate a model under one condition of the sensors.

One record per condition. The submission holds what mmdet3d's NuScenesMetric would write; nuscenes-devkit scores it.
Of a split without annotations the submission is the result, a file for the leaderboard.
"""

from __future__ import annotations

import functools
import time
import traceback
from pathlib import Path
from typing import Any

from aqr_bench.compat import to_cpu
from aqr_bench.corruptions.fingerprint import Fingerprint, evaluation_fingerprint
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.adapt_config import inner_dataset
from aqr_bench.engine.config import build_config, hashable
from aqr_bench.engine.features import use_feature_cache
from aqr_bench.engine.job import cost_since, one_line
from aqr_bench.engine.leaderboard import NO_SCORE, leaderboard_facts
from aqr_bench.engine.loader import batches, build_loader
from aqr_bench.engine.third_party import build_model, building_model
from aqr_bench.engine.weights import load_weights, verified_checkpoint
from aqr_bench.errors import UserError, join_names, raise_if_disk_error
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import provenance, utc_now
from aqr_bench.records.record import (
    NOT_APPLICABLE,
    Record,
    status_of,
)
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.layout import detections_folder
from aqr_bench.study.load import load_study
from aqr_bench.study.plan import evaluation_settings
from aqr_bench.study.spec import Condition, Suite, Tier


def evaluation_job(
    config: Any, tier: Tier, data: DataSet, suite: Suite, model: str, checkpoint_sha256: str | None
) -> Job:
    """What the records of an evaluation depend on.

    Args:
        config: the built config; None where nothing could be trained, as is ``checkpoint_sha256``.
        model: name or file of the config that ``config`` comes from.
    """
    return Job(
        "evaluate",
        None if config is None else hashable(config),
        data.sha256,
        data.infos_sha256,
        settings=evaluation_settings(tier, suite),
        inputs=() if checkpoint_sha256 is None else (checkpoint_sha256,),
        model=model,
    )


def other_data(trained: Record, data: DataSet) -> dict[str, str]:
    """Hashes of the data that a model was trained on, where they differ from those of ``data``; for its record."""
    now = {"data_sha256": data.sha256, "infos_sha256": data.infos_sha256}
    then = {name: trained.provenance.get(name) for name in now}
    return {name: then[name] for name in now if None not in (then[name], now[name]) and then[name] != now[name]}


def _run_fields(suite: Suite, trained: Record, tier: Tier, condition: Condition) -> dict[str, Any]:
    return dict(
        kind="evaluate",
        tier=tier.name,
        study=trained.study,
        variant=trained.variant,
        seed=trained.seed,
        suite=suite.name,
        condition=condition.name,
    )


def failed_evaluation(
    condition: Condition,
    suite: Suite,
    trained: Record,
    tier: Tier,
    error: Exception,
    job: Job | None,
    reason: str | None = None,
) -> Record:
    """The record of an evaluation that failed. ``reason``: instead of the error's own text."""
    reason = reason or one_line(error)
    return Record(
        **_run_fields(suite, trained, tier, condition),
        status=status_of(error),
        reason=reason,
        provenance=provenance(job, seed=trained.seed, reason=reason),
    )


def not_applicable_reason(config: Any, condition: Condition) -> str | None:
    """Why a condition cannot concern the model: it changes a sensor that the model does not use. None if it can."""
    uses = inner_dataset(config.test_dataloader.dataset).modality
    changes = condition.corruption.modality
    if changes == "lidar" and not uses.use_lidar:
        return "the model does not use the LiDAR, the only sensor that the condition changes"
    if changes in ("camera", "calibration") and not uses.use_camera:
        return f"the model does not use cameras, and the condition changes only {changes.replace('camera', 'images')}"
    return None


def evaluate_one(evaluator: Evaluator, condition: Condition, suite: Suite, trained: Record) -> Record:
    """The record of one condition, whatever becomes of it."""
    reason = not_applicable_reason(evaluator.config, condition)
    if reason is not None:
        facts = provenance(evaluator.job, seed=trained.seed)
        fields = _run_fields(suite, trained, evaluator.tier, condition)
        return Record(**fields, status=NOT_APPLICABLE, reason=reason, provenance=facts)
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    try:
        folder = detections_folder(evaluator.work, suite.name, condition.name)
        scores, inputs, extra = evaluator.run(condition, folder)
        trained_on = other_data(trained, evaluator.data)
    except Exception as error:
        raise_if_disk_error(error, evaluator.work)
        failure = functools.partial(failed_evaluation, condition, suite, trained, evaluator.tier, error, evaluator.job)
        try:
            traceback.print_exc()
            return failure()
        except RuntimeError:
            # torch tells of a loader's dead worker a second time, out of a signal handler and wherever we are.
            return failure()
    status, reason = ("ok", None) if scores else (NOT_APPLICABLE, NO_SCORE)
    return Record(
        **_run_fields(suite, trained, evaluator.tier, condition),
        status=status,
        reason=reason,
        scores=scores,
        cost={**cost_since(clock), "samples": inputs["samples"]},
        extra={**extra, "inputs": inputs, **({"trained_on": trained_on} if trained_on else {})},
        provenance=provenance(
            evaluator.job,
            seed=trained.seed,
            started=started,
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

    ``job``: what its results depend on, for the records; None: no records are written. ``work_root``: work folder of
    the tier, where features of frozen branches may be stored; None: they are not.
    """

    def __init__(
        self,
        config: Any,
        tier: Tier,
        data: DataSet,
        checkpoint: Path | None,
        work: Path,
        job: Job | None = None,
        work_root: Path | None = None,
    ) -> None:
        from aqr_bench import compat

        compat.prepare()
        compat.use_threads(tier.threads)
        compat.use_tf32(tier.tf32)
        from mmengine.device import get_device

        from aqr_bench.engine.finite_outputs import check_heads

        self.config, self.tier, self.data, self.work = config, tier, data, work
        self.checkpoint: Path | None = None
        self.predictions: str | None = None  # SHA-256 of the last submission
        self.dataset: Any = None  # of the last condition: the next one reads the same frames through another pipeline
        self.job, self.model = job, build_model(config)
        if checkpoint is not None:
            self.load(checkpoint)
        self.model.to(get_device()).eval()
        use_feature_cache(self.model, tier, (job and job.model) or tier.model, work_root)
        check_heads(self.model)

    def load(self, checkpoint: Path) -> None:
        """Give the model the weights of a checkpoint; RuntimeError where they do not fit."""
        load_weights(self.model, checkpoint)
        self.checkpoint = checkpoint

    @functools.cached_property
    def tables(self) -> Any:
        """The devkit's NuScenes of the data set."""
        from aqr_bench.data.complete_scenes import without_scenes
        from aqr_bench.data.infos import open_nuscenes

        nusc = open_nuscenes(self.data.root, self.data.version, self.data.vocabulary, scoring=True)
        return without_scenes(nusc, self.data.skipped_scenes)

    def predict(self, batch: dict) -> list:
        """Detections of a collated batch, a data sample each, on the CPU.

        Raises:
            NotFiniteError: an output is not finite; it names the samples of the batch.
        """
        import torch

        from aqr_bench.engine.finite_outputs import NotFiniteError, check_detections

        try:
            with torch.no_grad():
                samples = [to_cpu(sample) for sample in self.model.test_step(batch)]
            for sample in samples:
                detections = sample.pred_instances_3d
                check_detections(detections.bboxes_3d.tensor, detections.scores_3d)
        except NotFiniteError as error:
            tokens = join_names(str(sample.metainfo.get("token")) for sample in batch["data_samples"])
            raise NotFiniteError(f"{error} (sample {tokens})") from error
        return samples

    def run(self, condition: Condition, folder: Path) -> tuple[dict, dict, dict]:
        """Detect and score under one condition: scores, fingerprint of all inputs, and the record's extra.

        Detections, matches and router weights are written into ``folder``. Without annotations there are no scores, and
        the submission is one that the leaderboard takes.
        """
        from aqr_bench.engine.router_log import RouterLog

        with RouterLog(getattr(self.model, "pts_bbox_head", None)) as log:
            submission, results, fingerprints = self.detect(condition, folder / "results_nusc.json")
        self.predictions = sha256_file(submission)
        inputs = evaluation_fingerprint(fingerprints)
        if not self.data.annotated:
            return {}, inputs, leaderboard_facts(submission, self.data)
        from aqr_bench.metrics.detection import metric_engine, score_detections

        scores = score_detections(
            submission,
            self.tables,
            submission.parent,
            matches=folder / "matches.npz",
            results=results,
            custom=self.tier.metrics,
            rules=self.tier.scoring,
        )
        router = log.save(folder / "router.npz")
        extra = {
            "matches": {"file": "matches.npz"},
            "metric": metric_engine(),
            **self.tier.scoring.entry(),
            **({"skipped_scenes": list(self.data.skipped_scenes)} if self.data.skipped_scenes else {}),
            **({"router": router} if router else {}),
        }
        return scores, inputs, {**extra, **self._checked(submission, scores, inputs["sha256"])}

    def _checked(self, submission: Path, scores: dict, inputs: str) -> dict:
        """A random share of evaluations is scored by nuscenes-devkit as well; RuntimeError where it differs."""
        from aqr_bench.metrics import cross_check
        from aqr_bench.metrics.detection import metric_engine

        # Drawn by what was detected on and by whom, so that it stays the same however often it is evaluated.
        name = f"{inputs} {self.checkpoint.name if self.checkpoint else ''} {scores['mAP']!r}"
        if metric_engine() == "devkit" or not cross_check.is_drawn(name, cross_check.SHARE):
            return {}
        check = cross_check.check_submission(submission, scores, self.tables, rules=self.tier.scoring)
        if not check.agrees:
            first = check.mismatches[0] if check.mismatches else "nothing was compared"
            raise RuntimeError(f"our metric and nuscenes-devkit differ in {len(check.mismatches)} numbers: {first}")
        return {"devkit": {"compared": check.compared, "largest": check.largest}}

    def detect(self, condition: Condition, path: Path) -> tuple[Path, dict[str, list], dict[str, Fingerprint]]:
        """Write the nuScenes submission of the val split to ``path``: path, entries, inputs' fingerprints by token."""
        import torch

        from aqr_bench.metrics.submission import sample_detections, write_submission

        loader = build_loader(self.config, condition, self.tier.evaluate_batch_size, self.dataset)
        self.dataset = loader.dataset
        infos = {info["token"]: info for info in map(loader.dataset.get_data_info, range(len(loader.dataset)))}
        names, ranges = loader.dataset.metainfo["classes"], self.tier.scoring.class_range()
        fingerprints: dict[str, Fingerprint] = {}
        results: dict[str, list] = {}
        for batch in batches(loader, condition.name):
            for sample in self.predict(batch):
                token, predictions = sample.metainfo["token"], sample.pred_instances_3d
                fingerprints[token] = Fingerprint(**sample.metainfo["input_proof"])
                boxes = torch.cat([predictions.bboxes_3d.gravity_center, predictions.bboxes_3d.tensor[:, 3:]], 1)
                results[token] = sample_detections(
                    token,
                    boxes.numpy(),
                    predictions.scores_3d.numpy(),
                    predictions.labels_3d.numpy(),
                    names,
                    infos[token]["lidar_points"]["lidar2ego"],
                    infos[token]["ego2global"],
                    ranges,
                )
        if len(fingerprints) != len(infos):
            raise RuntimeError(f"{len(fingerprints)} of {len(infos)} samples were evaluated")
        uses = inner_dataset(self.config.test_dataloader.dataset).modality
        sensors = dict(camera=uses.get("use_camera", False), lidar=uses.get("use_lidar", False))
        return write_submission(path, results, **sensors), results, fingerprints


def load_evaluator(
    tier: Tier, data: DataSet, trained: Record, record_path: str | Path, work: Path, study_file: str | None = None
) -> Evaluator:
    """The trained model of a record, ready to detect; no tables are loaded until something is scored.

    UserError: the record is of one branch (train --pretrain), or its checkpoint is gone, damaged or of another model.
    """
    if branch := trained.extra.get("pretrain"):
        what = f"{record_path} is of the pretrained branch '{branch}', whose checkpoint is not that of a detector"
        raise UserError(what, "Give the record of a base model or of a variant.")
    study = load_study(study_file or trained.study) if trained.study else None
    config = build_config(tier, data, trained.seed or 0, work, study, trained.variant)
    with building_model(config.filename):
        evaluator = Evaluator(config, tier, data, None, work)
    try:
        evaluator.load(verified_checkpoint(trained, record_path))
        return evaluator
    except RuntimeError as error:  # no checkpoint, a damaged one, or one of another model
        raise UserError(f"{record_path}: {error}") from error
