"""Several processes train one model (torchrun): which of them this is, what they exchange, how they fail.

Rank 0 is the main process: it alone decides what is to be done, and writes checkpoints, facts and the record. A failure
on any rank is reported to torchrun's store, where all ranks look for it: collectives of a peer that is gone may hang,
and torchrun itself knows nothing but exit codes. A rank that is killed leaves no report, and torchrun ends the others:
no record is written, as when a single process is killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from aqr_bench.errors import UserError

PATIENCE_S = 5.0  # a rank that fails together with the others ends by its own hand within that
LONG = timedelta(days=1)  # rank 0 may hash a large data set while the others wait
FAILURES, FAILURE = "aqr_bench/failures", "aqr_bench/failure"


@dataclass(frozen=True)
class RankFailure:
    """What ended a training, as records have it."""

    rank: int
    status: str
    reason: str


def world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def split_batch(batch_size: int, processes: int, where: str) -> int:
    """Samples per process and iteration of a batch over all processes; UserError where they do not divide it."""
    if batch_size % processes:
        raise UserError(
            f"{where}: a batch of {batch_size} cannot be split evenly over {processes} processes; change "
            "launcher.processes or train_dataloader.batch_size"
        )
    return batch_size // processes


class ProcessGroup:
    """The processes of one training. Without torchrun: one, the main process, whose methods do nothing."""

    def __init__(self) -> None:
        self.size, self.rank = world_size(), int(os.environ.get("RANK", 0))
        self._ending = threading.Lock()
        if self.size == 1:
            return
        import torch
        from torch import distributed

        if torch.cuda.is_available():
            local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= gpus:
                raise UserError(
                    f"{os.environ['LOCAL_WORLD_SIZE']} processes are asked for, this machine has {gpus} GPUs"
                )
            torch.cuda.set_device(local)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        # Another connection for reports: one that waits in a collective's set-up is not free for them.
        self._store, store = _connect(self.size), _connect(self.size)
        store = distributed.PrefixStore("aqr_bench/group", store)
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        self._group = distributed.new_group(backend="gloo", timeout=LONG)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """The value of rank 0, on every rank."""
        if self.size == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, on every rank."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self._group)
        return values

    # ------------------------------------------------------------------ failures

    def on_failure(self, act: Callable[[RankFailure], None] | None = None) -> None:
        """From now on, a failure of another rank ends this process, after ``act``; its exit code is 0."""
        if self.size > 1:
            threading.Thread(target=self._watch, args=(act,), daemon=True).start()

    def _watch(self, act: Callable[[RankFailure], None] | None) -> None:
        while (failure := self.failure()) is None:
            time.sleep(1.0)
        time.sleep(PATIENCE_S)
        with self._ending:
            if act is not None:
                act(failure)
            exit_now(0)

    def failure(self) -> RankFailure | None:
        """The first failure that any rank reported."""
        if self.size == 1 or self._store.add(FAILURES, 0) == 0:
            return None
        return RankFailure(**json.loads(self._store.get(FAILURE)))

    def report_failure(self, error: BaseException, status: str, reason: str) -> RankFailure:
        """Report an error on this rank to the others; returns it, or the failure of a peer that brought it about.

        Raises:
            the error itself, if a peer is gone without a report: it was killed.
        """
        failure = RankFailure(self.rank, status, reason)
        if self.size == 1:
            return failure
        self._ending.acquire()  # and never released: the watching thread has nothing left to do
        if not _is_lost_peer(error):
            if self._store.add(FAILURES, 1) == 1:
                self._store.set(FAILURE, json.dumps(vars(failure)))
            return failure
        first = self.failure()
        if first is None:
            raise error
        return first


def exit_now(code: int) -> NoReturn:
    """End this process without waiting for peers in destructors, which may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _connect(size: int) -> Any:
    """A connection to the store that torchrun keeps."""
    from torch import distributed

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError(
            "WORLD_SIZE is set, but not by torchrun: start with torchrun --standalone --nproc-per-node=N -m"
        )
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(host, port, size, is_master=False)


def _is_lost_peer(error: BaseException) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
