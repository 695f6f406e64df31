"""Everything a measurement record holds, in the order in which it is measured: memory first, with the variant alone."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import Any

from aqr_bench.console import steps
from aqr_bench.cost.batches import free_memory, shrinking, throughput
from aqr_bench.cost.machine import clocks
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.stages import Stages
from aqr_bench.cost.subject import SCOPE, SCOPE_WITHOUT, Subject, load_subject
from aqr_bench.cost.timing import Times, compared, in_turns, summary
from aqr_bench.cost.training import PARTS as TRAINING_PARTS
from aqr_bench.cost.training import SCOPE as TRAINING_SCOPE
from aqr_bench.cost.training import TrainingStep
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.config import build_config
from aqr_bench.engine.distributed import split_batch
from aqr_bench.engine.job import one_line
from aqr_bench.errors import UserError, nearest, raise_if_disk_error
from aqr_bench.records.record import status_of
from aqr_bench.study.spec import Study, Tier

PARTS = ("memory", "flops", "stages", "throughput", "latency", "training")
ESSENTIAL = ("memory.inference", "throughput", "latency")
WHOLE, WITHOUT = "whole", "without voxelisation"
_MEASUREMENTS = count()  # of this process
TRAINING_WARMUP = 2  # the optimiser makes its state in the first step


def measure(tier: Tier, study: Study, variant: str, data: DataSet, parts: Collection[str] = PARTS) -> dict[str, Any]:
    """The ``cost`` of a measurement record; see docs/cost.md for its keys.

    A part that cannot be measured (a sparse encoder cannot learn on a CPU) has ``status`` and ``reason`` in its place
    and in ``failed_parts``, and the others are measured all the same. Only a model that cannot be built, and a full
    disk, are raised.
    """
    import psutil

    age_s, earlier = time.time() - psutil.Process().create_time(), next(_MEASUREMENTS)
    from aqr_bench import compat

    compat.prepare()
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel(logging.ERROR)  # tables of the data set, each time it is opened
    threads = compat.use_threads(tier.threads)
    compat.use_tf32(tier.tf32)
    work = _Work(tier, study, variant, data)
    before, took = clocks(), {}
    facts: dict[str, Any] = {"parameters": work.mine.parameters(), "threads": threads}
    for part in steps([part for part in PARTS if part in parts], f"measuring {variant}"):
        start = time.perf_counter()
        facts |= getattr(work, part)()
        took[part] = round(time.perf_counter() - start, 2)
    failed = failed_parts(facts)
    return {
        **facts,
        **({"failed_parts": failed} if failed else {}),
        "batch_size": work.batch_size,
        **({"batch_size_asked": tier.measure.batch_size, "batch_size_reason": work.why} if work.why else {}),
        "timed_scope": SCOPE,
        "compared_with": study.baseline,
        "method": {
            "warmup": tier.measure.warmup,
            "rounds": tier.measure.rounds,
            "train_rounds": tier.measure.train_rounds,
            "order": "variant and baseline in turns, their order drawn anew in each round",
            "synchronised": work.on_gpu,
            "fresh_process": earlier == 0,
            "process_age_s": round(age_s, 1),
            "weights": "untrained",
            "took_s": took,
            "clocks": {"before": before, "after": clocks()},
        },
    }


class _Work:
    """A variant, its baseline once that is needed, and one method for each part of a measurement."""

    def __init__(self, tier: Tier, study: Study, variant: str, data: DataSet) -> None:
        import torch

        self.tier, self.study, self.data = tier, study, data
        self.on_gpu = torch.cuda.is_available()
        self.mine = self._load(variant)
        self._theirs: Subject | None = None
        self.batch_size, self.why = tier.measure.batch_size, None
        self._inference_memory = _or_reason(self._first_inferences)

    def _first_inferences(self) -> dict[str, Any]:
        """Peak memory of a few inferences, of the largest batch up to the tier's that they fit."""
        warmup = max(self.tier.measure.warmup, 1)
        with PeakMemory() as memory:
            found = shrinking(self.batch_size, lambda size: _run(self.mine.inference(size), warmup))
        _, self.batch_size, self.why = found
        return memory.facts

    @property
    def theirs(self) -> Subject:
        """The baseline; it may be another model, with samples of its own kind."""
        if self._theirs is None:
            self._theirs = self._load(self.study.baseline, self.mine)
        return self._theirs

    def _load(self, variant: str, like: Subject | None = None) -> Subject:
        config = build_config(self.tier, self.data, 0, "", self.study, variant)
        return load_subject(config, self.study.suite.conditions[0], like)

    def memory(self) -> dict[str, Any]:
        """Peak of inferences, and of training steps, with no other model in the process."""
        found = self._inference_memory
        facts: dict[str, Any] = {"memory": {"inference": found, "training": self._training_memory()}}
        if "status" in found:
            return facts
        peak, loaded = found["rss_peak_mb"], found["rss_before_mb"]
        facts["inference_peak_rss_mb"] = peak
        if loaded is not None:
            facts["inference_rss_over_loaded_mb"] = peak - loaded
        return facts

    def _training_memory(self) -> dict[str, Any] | None:
        if not self.tier.measure.train_rounds:
            return None

        def peak(size: int) -> dict[str, Any]:
            with PeakMemory() as memory:
                step = TrainingStep(self.mine, size)
                try:
                    _run(step, TRAINING_WARMUP)
                finally:
                    step.close()
            return memory.facts

        def facts() -> dict[str, Any]:
            found, size, why = shrinking(self._train_batch_size(), peak)
            return {**found, "batch_size": size, **({"reason": why} if why else {})}

        return _or_reason(facts)

    def flops(self) -> dict[str, Any]:
        """Arithmetic of one sample's inference, and of one sample's training step."""
        from aqr_bench.cost.flops import count_flops

        inference = _or_reason(lambda: count_flops(self.mine.inference(1)))
        return {"flops": {"inference": inference, "training": self._training_flops()}}

    def _training_flops(self) -> dict[str, Any] | None:
        if not self.tier.measure.train_rounds:
            return None

        from aqr_bench.cost.flops import count_flops

        def facts() -> dict[str, Any]:
            step = TrainingStep(self.mine, 1)
            try:
                return count_flops(step)
            finally:
                step.close()

        return _or_reason(facts)

    def stages(self) -> dict[str, Any]:
        """What each stage of an inference takes."""

        def facts() -> dict[str, Any]:
            step = self.mine.inference(self.batch_size)
            with Stages(self.mine.model) as stages:
                step()
                stages.runs.clear()
                for _ in range(self.tier.measure.rounds):
                    stages.time(step)
            return {**stages.facts(), "batch_size": self.batch_size}

        return {"stages": _or_reason(facts)}

    def throughput(self) -> dict[str, Any]:
        """Samples per second over the tier's batch sizes."""
        return {"throughput": throughput(self.tier.measure.batch_sizes, self.mine.inference)}

    def latency(self) -> dict[str, Any]:
        """Latency of variant and baseline in turns, each with and without voxelisation."""

        def run(size: int) -> dict[tuple[str, str], Times]:
            functions: dict[tuple[str, str], Callable[[], None]] = {}
            for who, subject in (("mine", self.mine), ("theirs", self.theirs)):
                functions[who, WHOLE] = subject.inference(size)
                without = subject.inference_without_voxelisation(size)
                if without is not None:
                    functions[who, WITHOUT] = without
            return in_turns(functions, self.tier.measure.warmup, self.tier.measure.rounds)

        def facts() -> dict[str, Any]:
            # Two models need more memory than one.
            times, self.batch_size, why = shrinking(self.batch_size, run)
            self.why = why or self.why
            found = compared(times["mine", WHOLE], times["theirs", WHOLE])
            found["throughput_per_s"] = 1000 * self.batch_size / found["latency_ms"]["median"]
            found["without_voxelisation"] = _without(times)
            return found

        found = _or_reason(facts)
        return found if "latency_ms" in found else {"latency": found}

    def training(self) -> dict[str, Any]:
        """A training step of variant and baseline in turns: its parts, and the ratio of the whole."""
        if not self.tier.measure.train_rounds:
            return {}

        def run(size: int) -> dict[str, Any]:
            steps: list[TrainingStep] = []
            try:
                steps += [TrainingStep(self.mine, size)]
                steps += [TrainingStep(self.theirs, size)]
                functions = dict(zip(("mine", "theirs"), steps, strict=True))
                times = in_turns(functions, TRAINING_WARMUP, self.tier.measure.train_rounds)
            finally:
                for step in steps:
                    step.close()
            mine, rounds = steps[0], self.tier.measure.train_rounds
            parts = {f"{part}_ms": summary(mine.part_ms[part][-rounds:]) for part in TRAINING_PARTS}
            return {**compared(times["mine"], times["theirs"]), **parts, "precision": mine.precision}

        def facts() -> dict[str, Any]:
            found, size, why = shrinking(self._train_batch_size(), run)
            shrunk = {"batch_size_asked": self._train_batch_size(), "batch_size_reason": why} if why else {}
            samples_per_s = 1000 * size / found["latency_ms"]["median"]
            own = {"batch_size": size, **shrunk, "samples_per_s": samples_per_s, "timed_scope": TRAINING_SCOPE}
            return {"status": "ok", **found, **own}

        return {"training": _or_reason(facts)}

    def _train_batch_size(self) -> int:
        """Samples that one process trains with at a time."""
        launcher = self.tier.launcher
        asked = launcher.total_batch(self.mine.config.train_dataloader.batch_size)
        return split_batch(asked, launcher.processes, str(self.tier.path))


def _without(times: dict[tuple[str, str], Times]) -> dict[str, Any]:
    """Latency with voxels made beforehand, where the variant has any."""
    if ("mine", WITHOUT) not in times:
        return {"status": "not_applicable", "reason": "the model has no voxel layer that could be left out"}
    # A baseline of cameras alone has nothing to leave out.
    theirs = times.get(("theirs", WITHOUT), times["theirs", WHOLE])
    return {"status": "ok", "timed_scope": SCOPE_WITHOUT, **compared(times["mine", WITHOUT], theirs)}


def check_parts(parts: Collection[str]) -> tuple[str, ...]:
    """The parts in the order of the measurement; UserError for one that is not known."""
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--parts: no part '{part}'{nearest(part, PARTS)}")
    return tuple(part for part in PARTS if part in parts)


def _run(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _or_reason(facts: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``facts`` finds, or why there is nothing: this part is then missing from the record, the others are not."""
    try:
        free_memory()
        return facts()
    except Exception as error:
        raise_if_disk_error(error)
        traceback.print_exc()
        return {"status": status_of(error), "reason": one_line(error)}


def failed_parts(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Status and reason of what could not be measured, by part: ``latency``, ``flops.inference`` and the like."""
    places = {part: facts.get(part) for part in ("latency", "stages", "training")}
    for part in ("memory", "flops"):
        places |= {f"{part}.{what}": found for what, found in (facts.get(part) or {}).items()}
    # Where memory does not suffice for a batch, that is what was measured.
    rows = [row for row in facts.get("throughput") or [] if row["status"] != "oom"]
    places["throughput"] = next((row for row in rows if row["status"] != "ok"), None)
    return {
        part: {key: found[key] for key in ("status", "reason")}
        for part, found in places.items()
        if found and found.get("status", "ok") != "ok"
    }


def status_of_measurement(facts: Mapping[str, Any]) -> tuple[str, str | None]:
    """Status and reason of the record: it is not ok without the memory, throughput and latency of inference."""
    for part in ESSENTIAL:
        found = facts.get("failed_parts", {}).get(part)
        if found:
            return found["status"], f"{part}: {found['reason']}"
    return "ok", None
