"""Evaluate a trained model under every condition of a suite: records condition by condition, resumed after a kill."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aqr_bench.console import print_line, print_progress, print_warning
from aqr_bench.corruptions.fingerprint import emptied_sensors
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.condition_cache import ConditionCache, condition_line, conditions_left, files_of
from aqr_bench.engine.config import build_config
from aqr_bench.engine.evaluate import Evaluator, evaluation_job, failed_evaluation, other_data
from aqr_bench.engine.evaluate_workers import ModelEvaluation, evaluate_in_processes, evaluate_in_turn
from aqr_bench.engine.weights import verified_checkpoint
from aqr_bench.errors import raise_if_disk_error
from aqr_bench.records.cache import find_cached, reuse_file, save_cache_entry
from aqr_bench.records.job import Job
from aqr_bench.records.record import Record, fail_unchanged_inputs, not_started_reason, read_records, write_records
from aqr_bench.records.request import evaluation_requests, with_requests
from aqr_bench.study.schedule import model_of
from aqr_bench.study.spec import Study, Suite, Tier


@dataclass(frozen=True)
class Workers:
    """How conditions are spread: so many processes, and the GPUs (entries of CUDA_VISIBLE_DEVICES) to share out."""

    count: int = 1
    gpus: tuple[str, ...] = ()


IN_THIS_PROCESS = Workers()


def evaluate_suite(
    tier: Tier,
    suite: Suite,
    data: DataSet,
    study: Study | None,
    train_record: str | Path,
    work_root: str | Path,
    out: str | Path,
    workers: Workers = IN_THIS_PROCESS,
) -> list[Record]:
    """Evaluate a trained model under every condition and write the records, also where an evaluation failed.

    Args:
        study: that of the trained variant; None for a base model.
        train_record: record file of the training.
        work_root: work folder of the tier; detections go below it.
        out: record file to write.
    """
    trained = read_records(train_record)[0]
    model_name = model_of(tier, study, trained.variant)
    checkpoint_sha256 = trained.provenance.get("checkpoint_sha256")
    requests = evaluation_requests(tier, suite, study, trained.variant, data.infos_sha256, checkpoint_sha256)

    def write(records: Sequence[Record], cache: ConditionCache | None = None) -> list[Record]:
        return write_suite_records(with_requests(records, requests), suite, out, cache)

    if reason := not_started_reason("training", trained):  # before the config, which imports mmdet3d
        job = evaluation_job(None, tier, data, suite, model_name, None)
        return write(_failures(RuntimeError(reason), suite, trained, tier, job, reason))
    if other_data(trained, data):
        print_warning(f"the model of {train_record} was trained on other data than {data.infos}: see the records")
    work = Path(work_root) / trained.run.subfolder
    config = build_config(tier, data, trained.seed or 0, work, study, trained.variant)
    job = evaluation_job(config, tier, data, suite, model_name, str(checkpoint_sha256))
    try:
        checkpoint = verified_checkpoint(trained, train_record)
    except RuntimeError as error:
        raise_if_disk_error(error, work)
        traceback.print_exc()
        return write(_failures(error, suite, trained, tier, job))
    name = f"evaluate.{suite.name}"
    cached = find_cached(Path(work_root), work, name, job.identity)
    cache = ConditionCache(work, suite, job)
    if cached is None:
        model = ModelEvaluation(config, tier, data, checkpoint, work, job, suite.path, trained, Path(work_root))
        records = evaluate_conditions(model, suite, cache, workers)
        run = trained.run.subfolder
    else:
        records, run = _reused_records(*cached, work, trained), cached[1]["run"]
        print(f"reused: the same evaluation of {run}")
        _print_lines(records, work)
    if not any(record.failed for record in fail_unchanged_inputs(records, suite.conditions[0].name)):
        content = {"run": run, "records": [record.to_dict() for record in records]}
        save_cache_entry(work, name, job.identity, content, files_of(records))
    return write(records, cache)


def evaluate_conditions(
    model: ModelEvaluation,
    suite: Suite,
    cache: ConditionCache,
    workers: Workers = IN_THIS_PROCESS,
    evaluator: Evaluator | None = None,
) -> list[Record]:
    """Records of all conditions in the suite's order; those that are finished already are taken from ``cache``.

    Each one is added to ``cache``, with a printed line, as soon as it is finished. ``evaluator``: for one process,
    where it is loaded already.
    """
    finished = cache.load()
    left, total = conditions_left(suite, finished), len(suite.conditions)
    if finished:
        next_name = f", next: {left[0].name}" if left else ""
        print_progress(f"resuming: {len(finished)} of {total} conditions are finished{next_name}")
    records: Iterable[Record] = ()
    if workers.count > 1 and len(left) > 1:
        records = evaluate_in_processes(model, suite, left, workers.count, workers.gpus)
    elif left:
        records = evaluate_in_turn(model, suite, left, evaluator)
    for record in records:
        finished[str(record.condition)] = record
        if not record.failed:
            cache.add(record, files_of([record]))
        _print_condition(record, len(finished), total, model.work)
    return [finished[condition.name] for condition in suite.conditions]


def write_suite_records(
    records: Sequence[Record], suite: Suite, out: str | Path, cache: ConditionCache | None = None
) -> list[Record]:
    """Write the records of a suite; conditions that did nothing become failed ones and are named. Returns the records.

    ``cache``: removed where no record failed; else it stays, so that another call evaluates the failed ones alone.
    """
    checked = fail_unchanged_inputs(records, suite.conditions[0].name)
    write_records(out, checked)
    for before, after in zip(records, checked, strict=True):
        if before.ok and not after.ok:
            print_line(f"{after.condition}: {after.reason}")
    for line in emptied_lines(checked, suite):
        print_warning(line)
    if cache is not None and not any(record.failed for record in checked):
        cache.remove()
    elif cache is not None:  # those that failed as they ran are not in it
        cache.discard(str(after.condition) for before, after in zip(records, checked, strict=True) if before != after)
    return checked


def emptied_lines(records: Sequence[Record], suite: Suite) -> Iterator[str]:
    """A line for each sensor that a condition emptied and should only have changed; the report has an alarm."""
    inputs = {str(r.condition): r.extra["inputs"] for r in records if r.ok and "inputs" in r.extra}
    reference = inputs.get(suite.conditions[0].name)
    for condition in suite.conditions:
        facts = inputs.get(condition.name)
        for sensor, count in (
            emptied_sensors(facts, reference, condition.corruption.dropped_sensors).items() if facts else ()
        ):
            yield f"{condition.name}: {sensor} gives nothing in {count} of {facts['samples']} samples"


def _failures(
    error: Exception, suite: Suite, trained: Record, tier: Tier, job: Job, reason: str | None = None
) -> list[Record]:
    """A record for each condition of a suite that could not be evaluated, and a printed line for each."""
    records = [failed_evaluation(c, suite, trained, tier, error, job, reason) for c in suite.conditions]
    _print_lines(records)
    return records


def _print_lines(records: Sequence[Record], work: Path = Path()) -> None:
    for number, record in enumerate(records, 1):
        _print_condition(record, number, len(records), work)


def _print_condition(record: Record, number: int, total: int, work: Path) -> None:
    """A line for a finished condition; one that failed is no mere progress."""
    (print_line if record.failed else print_progress)(condition_line(record, number, total, work))


def _reused_records(folder: Path, entry: dict, work: Path, trained: Record) -> list[Record]:
    """The records of a cached evaluation as those of this run, with the files that they name."""
    records = [Record.from_dict(data) for data in entry["records"]]
    for file in files_of(records):
        reuse_file(folder / file, work / file)
    run = dict(study=trained.study, variant=trained.variant, seed=trained.seed)
    return [replace(record, **run, extra={**record.extra, "same_as": entry["run"]}) for record in records]
