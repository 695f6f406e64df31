"""All parts of a measurement record in the order of measurement: memory first, before another model is loaded."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import Any

from aqr_bench.console import steps
from aqr_bench.cost.batches import free_memory, throughput, with_smaller_batches
from aqr_bench.cost.benchmark_model import SCOPE, SCOPE_WITHOUT, BenchmarkModel, load_benchmark_model
from aqr_bench.cost.machine import clocks
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.stages import Stages
from aqr_bench.cost.timing import Timings, interleaved, summary, timing_facts
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
WITH, WITHOUT = "with voxelisation", "without voxelisation"
_MEASUREMENTS = count()  # of this process
TRAINING_WARMUP = 2  # the optimiser allocates its state in the first step


def measure(tier: Tier, study: Study, variant: str, data: DataSet, parts: Collection[str] = PARTS) -> dict[str, Any]:
    """The ``cost`` of a measurement record; see docs/cost.md for its keys.

    A part that cannot be measured (a sparse encoder does not train on a CPU) has ``status`` and ``reason`` instead of
    its numbers and in ``failed_parts``; the other parts are measured. Raises only if the model cannot be built, and for
    a full disk.
    """
    import psutil

    age_s, earlier = time.time() - psutil.Process().create_time(), next(_MEASUREMENTS)
    from aqr_bench import compat

    compat.prepare()
    threads = compat.use_threads(tier.threads)
    compat.use_tf32(tier.tf32)
    measurement = _Measurement(tier, study, variant, data)
    before, took = clocks(), {}
    facts: dict[str, Any] = {"parameters": measurement.variant.parameters(), "threads": threads}
    for part in steps([part for part in PARTS if part in parts], f"measuring {variant}"):
        start = time.perf_counter()
        facts |= getattr(measurement, part)()
        took[part] = round(time.perf_counter() - start, 2)
    failed = failed_parts(facts)
    return {
        **facts,
        **({"failed_parts": failed} if failed else {}),
        "batch_size": measurement.batch_size,
        **measurement.smaller_batch,
        "timed_scope": SCOPE,
        "compared_with": study.baseline,
        "method": {
            "warmup": tier.measure.warmup,
            "rounds": tier.measure.rounds,
            "train_rounds": tier.measure.train_rounds,
            "order": "variant and baseline in turns, their order drawn anew in each round",
            "synchronised": measurement.on_gpu,
            "fresh_process": earlier == 0,
            "process_age_s": round(age_s, 1),
            "weights": "untrained",
            "took_s": took,
            "clocks": {"before": before, "after": clocks()},
        },
    }


class _Measurement:
    """A variant, its baseline once that is needed, and one method per part of a measurement."""

    def __init__(self, tier: Tier, study: Study, variant: str, data: DataSet) -> None:
        import torch

        self.tier, self.study, self.data = tier, study, data
        self.on_gpu = torch.cuda.is_available()
        self.variant = self._load(variant)
        self._baseline: BenchmarkModel | None = None
        self.batch_size, self.smaller_batch_reason = tier.measure.batch_size, None
        self._inference_memory = self._or_reason(self._first_inferences)

    @property
    def smaller_batch(self) -> dict[str, Any]:
        """Keys of a record whose batch is smaller than the tier's."""
        if not self.smaller_batch_reason:
            return {}
        return {"batch_size_asked": self.tier.measure.batch_size, "batch_size_reason": self.smaller_batch_reason}

    def _first_inferences(self) -> dict[str, Any]:
        """Peak memory of a few inferences, with the largest batch up to the tier's that fits."""
        warmup = max(self.tier.measure.warmup, 1)
        with PeakMemory() as memory:
            result = with_smaller_batches(self.batch_size, lambda size: _run(self.variant.inference(size), warmup))
        _, self.batch_size, self.smaller_batch_reason = result
        return memory.facts

    @property
    def baseline(self) -> BenchmarkModel:
        """The baseline; it may be another model with other samples."""
        if self._baseline is None:
            self._baseline = self._load(self.study.baseline, self.variant)
        return self._baseline

    def _load(self, variant: str, like: BenchmarkModel | None = None) -> BenchmarkModel:
        config = build_config(self.tier, self.data, 0, "", self.study, variant)
        return load_benchmark_model(config, self.study.suite.conditions[0], like)

    def _or_reason(self, facts: Callable[[], Any]) -> Any:
        """``facts()``, or status and reason of its error; the models are left as they were, for the other parts."""
        try:
            free_memory()
            return facts()
        except Exception as error:
            raise_if_disk_error(error)
            traceback.print_exc()
            return {"status": status_of(error), "reason": one_line(error)}
        finally:
            for model in (self.variant, self._baseline):
                if model is not None:
                    model.restore()

    def memory(self) -> dict[str, Any]:
        """Peak of inferences, and of training steps, with no other model in the process."""
        inference = self._inference_memory
        facts: dict[str, Any] = {"memory": {"inference": inference, "training": self._training_memory()}}
        if "status" in inference:
            return facts
        peak, loaded = inference["rss_peak_mb"], inference["rss_before_mb"]
        facts["inference_peak_rss_mb"] = peak
        if loaded is not None:
            facts["inference_rss_over_loaded_mb"] = peak - loaded
        return facts

    def _training_memory(self) -> dict[str, Any] | None:
        if not self.tier.measure.train_rounds:
            return None

        def peak(size: int) -> dict[str, Any]:
            with PeakMemory() as memory:
                step = TrainingStep(self.variant, size)
                try:
                    _run(step, TRAINING_WARMUP)
                finally:
                    step.close()
            return memory.facts

        def facts() -> dict[str, Any]:
            memory, size, reason = with_smaller_batches(self._train_batch_size(), peak)
            return {**memory, "batch_size": size, **({"reason": reason} if reason else {})}

        return self._or_reason(facts)

    def flops(self) -> dict[str, Any]:
        """FLOPs of one sample's inference and training step, and the attention kernels that these run."""
        from aqr_bench.cost.attention_kernels import kernels_of
        from aqr_bench.cost.flops import count_flops

        facts: dict[str, Any] = {}
        for key, measured in (("flops", count_flops), ("attention_kernels", kernels_of)):
            inference = self._or_reason(lambda measured=measured: measured(self.variant.inference(1)))
            facts[key] = {"inference": inference, "training": self._of_training_step(measured)}
        return facts

    def _of_training_step(self, measured: Callable[[TrainingStep], Any]) -> Any:
        """What ``measured`` gives for a training step with one sample; None where the tier measures no training."""
        if not self.tier.measure.train_rounds:
            return None

        def facts() -> Any:
            step = TrainingStep(self.variant, 1)
            try:
                return measured(step)
            finally:
                step.close()

        return self._or_reason(facts)

    def stages(self) -> dict[str, Any]:
        """Time of each stage of an inference."""

        def facts() -> dict[str, Any]:
            step = self.variant.inference(self.batch_size)
            with Stages(self.variant.model) as stages:
                step()
                stages.runs.clear()
                for _ in range(self.tier.measure.rounds):
                    stages.time(step)
            return {**stages.facts(), "batch_size": self.batch_size}

        return {"stages": self._or_reason(facts)}

    def throughput(self) -> dict[str, Any]:
        """Samples per second over the tier's batch sizes."""
        return {"throughput": throughput(self.tier.measure.batch_sizes, self.variant.inference)}

    def latency(self) -> dict[str, Any]:
        """Latency of variant and baseline, run alternately, each with and without voxelisation."""

        def run(size: int) -> dict[tuple[str, str], Timings]:
            functions: dict[tuple[str, str], Callable[[], None]] = {}
            for name, model in (("variant", self.variant), ("baseline", self.baseline)):
                functions[name, WITH] = model.inference(size)
                without = model.inference_without_voxelisation(size)
                if without is not None:
                    functions[name, WITHOUT] = without
            return interleaved(functions, self.tier.measure.warmup, self.tier.measure.rounds)

        def facts() -> dict[str, Any]:
            # Two models need more memory than one.
            times, self.batch_size, reason = with_smaller_batches(self.batch_size, run)
            self.smaller_batch_reason = reason or self.smaller_batch_reason
            latency = timing_facts(times["variant", WITH], times["baseline", WITH])
            latency["throughput_per_s"] = 1000 * self.batch_size / latency["latency_ms"]["median"]
            latency["without_voxelisation"] = _without(times)
            return latency

        latency = self._or_reason(facts)
        return latency if "latency_ms" in latency else {"latency": latency}

    def training(self) -> dict[str, Any]:
        """A training step of variant and baseline, run alternately: its parts, and the ratio in total."""
        if not self.tier.measure.train_rounds:
            return {}

        def run(size: int) -> dict[str, Any]:
            steps: list[TrainingStep] = []
            try:
                steps += [TrainingStep(self.variant, size)]
                steps += [TrainingStep(self.baseline, size)]
                functions = dict(zip(("variant", "baseline"), steps, strict=True))
                times = interleaved(functions, TRAINING_WARMUP, self.tier.measure.train_rounds)
            finally:
                for step in steps:
                    step.close()
            step, rounds = steps[0], self.tier.measure.train_rounds
            parts = {f"{part}_ms": summary(step.part_ms[part][-rounds:]) for part in TRAINING_PARTS}
            return {**timing_facts(times["variant"], times["baseline"]), **parts, "precision": step.precision}

        def facts() -> dict[str, Any]:
            times, size, reason = with_smaller_batches(self._train_batch_size(), run)
            smaller = {"batch_size_asked": self._train_batch_size(), "batch_size_reason": reason} if reason else {}
            batch = {"batch_size": size, **smaller, "samples_per_s": 1000 * size / times["latency_ms"]["median"]}
            return {"status": "ok", **times, **batch, "timed_scope": TRAINING_SCOPE}

        return {"training": self._or_reason(facts)}

    def _train_batch_size(self) -> int:
        """Samples that one process trains with at a time."""
        launcher = self.tier.launcher
        total = launcher.total_batch(self.variant.config.train_dataloader.batch_size)
        return split_batch(total, launcher.processes, str(self.tier.path))


def _without(times: dict[tuple[str, str], Timings]) -> dict[str, Any]:
    """Latency with precomputed voxels, where the variant has any."""
    if ("variant", WITHOUT) not in times:
        return {"status": "not_applicable", "reason": "the model has no voxel layer that could be left out"}
    # A baseline of cameras alone has nothing to leave out.
    baseline = times.get(("baseline", WITHOUT), times["baseline", WITH])
    return {"status": "ok", "timed_scope": SCOPE_WITHOUT, **timing_facts(times["variant", WITHOUT], baseline)}


def check_parts(parts: Collection[str]) -> tuple[str, ...]:
    """The parts in the order of the measurement; UserError for an unknown one."""
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--parts: no part '{part}'{nearest(part, PARTS)}")
    return tuple(part for part in PARTS if part in parts)


def _run(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def failed_parts(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Status and reason of what could not be measured, by part: ``latency``, ``flops.inference`` and the like."""
    parts = {part: facts.get(part) for part in ("latency", "stages", "training")}
    for part in ("memory", "flops", "attention_kernels"):
        parts |= {f"{part}.{what}": entry for what, entry in (facts.get(part) or {}).items()}
    # Running out of memory with a batch size is a result.
    rows = [row for row in facts.get("throughput") or [] if row["status"] != "oom"]
    parts["throughput"] = next((row for row in rows if row["status"] != "ok"), None)
    return {
        part: {key: entry[key] for key in ("status", "reason")}
        for part, entry in parts.items()
        if isinstance(entry, Mapping) and entry.get("status", "ok") != "ok"
    }


def status_of_measurement(facts: Mapping[str, Any]) -> tuple[str, str | None]:
    """Status and reason of the record: it is not ok without the memory, throughput and latency of inference."""
    for part in ESSENTIAL:
        failure = facts.get("failed_parts", {}).get(part)
        if failure:
            return failure["status"], f"{part}: {failure['reason']}"
    return "ok", None
