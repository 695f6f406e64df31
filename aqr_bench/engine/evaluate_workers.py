"""Evaluate conditions one after the other in this process, or spread over several processes and GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from aqr_bench.compat import end_with_parent
from aqr_bench.console import print_warning, steps
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.evaluate import Evaluator, evaluate_one, failed_evaluation
from aqr_bench.errors import UserError, disk_error, raise_if_disk_error
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import command_line
from aqr_bench.records.record import Record
from aqr_bench.study.load import load_suite
from aqr_bench.study.spec import Condition, Suite, Tier

POLL_S = 1.0  # how often it is checked whether a worker process is alive


@dataclass(frozen=True)
class ModelEvaluation:
    """A trained model and all that its evaluation needs; it can be sent to another process.

    Args:
        suite_file: of the conditions, which worker processes load again.
        trained: record of the training; the records of the evaluation are of the same run.
        work: work folder of the run; detections go below it.
        work_root: work folder of the tier, where features of frozen branches may be stored; None: they are not.
    """

    config: Any
    tier: Tier
    data: DataSet
    checkpoint: Path
    work: Path
    job: Job
    suite_file: Path
    trained: Record
    work_root: Path | None = None

    def evaluator(self) -> Evaluator:
        return Evaluator(self.config, self.tier, self.data, self.checkpoint, self.work, self.job, self.work_root)


def evaluate_in_turn(
    model: ModelEvaluation, suite: Suite, conditions: Sequence[Condition], evaluator: Evaluator | None = None
) -> Iterator[Record]:
    """Records of the conditions, in this process. ``evaluator``: where it is loaded already."""
    try:
        evaluator = evaluator or model.evaluator()
    except Exception as error:
        raise_if_disk_error(error, model.work)
        traceback.print_exc()
        for condition in conditions:
            yield failed_evaluation(condition, suite, model.trained, model.tier, error, model.job)
        return
    for condition in steps(conditions, f"suite {suite.name}", lambda condition: condition.name):
        yield evaluate_one(evaluator, condition, suite, model.trained)


def evaluate_in_processes(
    model: ModelEvaluation, suite: Suite, conditions: Sequence[Condition], workers: int, gpus: Sequence[str] = ()
) -> Iterator[Record]:
    """Records of the conditions in the order in which they are finished, from ``workers`` fresh processes.

    Each process has the tier's threads, on which the last bits of a result depend, and one of ``gpus`` (entries of
    CUDA_VISIBLE_DEVICES), where there are any. A condition whose process is killed is recorded as failed; another
    process goes on with the next one.

    Raises:
        UserError: a disk is full, or not writable.
    """
    waiting, busy = deque(conditions), {}
    count = min(workers, len(conditions))
    cores = len(os.sched_getaffinity(0))
    if not gpus and count * model.tier.threads > cores:
        each = f"{model.tier.threads} thread{'s' * (model.tier.threads > 1)}"
        print_warning(f"{count} processes of {each} on {cores} cores: fewer may be faster")
    idle = [_Worker(model, gpus[n % len(gpus)] if gpus else None) for n in range(count)]
    try:
        while waiting or busy:
            while idle and waiting:
                worker, condition = idle.pop(), waiting.popleft()
                worker.send(condition.name)
                busy[worker] = condition
            answered = wait([worker.channel for worker in busy], POLL_S)
            for worker in [w for w in busy if w.channel in answered or not w.process.is_alive()]:
                condition, answer = busy.pop(worker), worker.receive()
                if answer is None:
                    reason = f"the process that evaluated it {worker.end()}"
                    answer = failed_evaluation(
                        condition, suite, model.trained, model.tier, RuntimeError(reason), model.job
                    )
                    worker = _Worker(model, worker.gpu) if waiting else None
                elif isinstance(answer, UserError):
                    raise answer
                idle += [worker] if worker else []
                # The command of a worker process is not the one that the user typed.
                yield replace(answer, provenance={**answer.provenance, "command": command_line()})
    finally:
        for worker in [*idle, *busy]:
            worker.stop()


class _Worker:
    """A process that evaluates the conditions whose names it is sent. ``gpu``: the only one that it sees."""

    def __init__(self, model: ModelEvaluation, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch in any state
        self.gpu = gpu
        self.channel, worker_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(worker_end, model, gpu))
        self.process.start()
        worker_end.close()

    def send(self, name: str) -> None:
        with suppress(OSError):  # where the process is dead, which is noticed when its answer is awaited
            self.channel.send(name)

    def receive(self) -> Record | UserError | None:
        """The answer; None where the process has ended without one."""
        try:
            return self.channel.recv() if self.channel.poll() else None
        except (EOFError, OSError):
            return None

    def end(self) -> str:
        """How the process has ended, for a message."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
        return f"{how}, perhaps because memory ran out" if code == -signal.SIGKILL else how

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.channel.close()


def _serve(channel: Connection, model: ModelEvaluation, gpu: str | None) -> None:
    """Evaluate what is asked for until this process is stopped."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops this process
    os.environ["TERM"] = "dumb"  # no bars of several processes in one terminal
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    suite, evaluator = load_suite(model.suite_file), None
    conditions = {condition.name: condition for condition in suite.conditions}
    while True:
        try:
            condition = conditions[channel.recv()]
        except EOFError:
            return
        answer: Record | UserError
        try:
            evaluator = evaluator or model.evaluator()
        except Exception as error:
            traceback.print_exc()
            failure = failed_evaluation(condition, suite, model.trained, model.tier, error, model.job)
            answer = disk_error(error, model.work) or failure
        else:
            try:
                answer = evaluate_one(evaluator, condition, suite, model.trained)
            except UserError as error:  # of a full disk
                answer = error
        channel.send(answer)
