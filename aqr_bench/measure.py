"""What a variant costs at inference: python -m aqr_bench.measure --tier T --infos DIR --study S --variant V --out REC.

Peak memory is read first, with the variant alone in a fresh process; then the variant and the study's baseline run
in turns on the same samples, so that their ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

from aqr_bench.errors import run_main
from aqr_bench.experiment import DataSet, build_config, load_data
from aqr_bench.record import ROOMS, Record, provenance, status_of, utc_now, write_records
from aqr_bench.study import Study, Tier, load_study, load_tier
from aqr_bench.train import cost_since, hashable, one_line

SCOPE = "voxelisation, backbones, router, decoder and box decoding; loading the files is left out"


def main(argv: list[str] | None = None) -> int:
    """Write one measurement record; 0 also if it failed, the record says so."""
    parser = argparse.ArgumentParser(prog="python -m aqr_bench.measure", description=__doc__)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--infos", required=True, help="folder that python -m aqr_bench.data wrote")
    parser.add_argument("--study", required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--out", required=True, help="record file (.jsonl)")
    args = parser.parse_args(argv)
    tier, study, data = load_tier(args.tier), load_study(args.study), load_data(args.infos)
    config = build_config(tier, data, 0, "", study, args.variant)
    started, clock = utc_now(), (time.perf_counter(), time.process_time())
    try:
        facts, status, reason = measure(tier, study, args.variant, data), "ok", None
    except Exception as error:
        traceback.print_exc()
        facts, status, reason = {}, status_of(error), one_line(error)
    record = Record(
        kind="measure",
        status=status,
        reason=reason,
        tier=tier.name,
        study=study.name,
        variant=args.variant,
        cost={**cost_since(clock), **facts},
        provenance=provenance(
            config=hashable(config), rooms=ROOMS["measure"], started=started, data_sha256=data.sha256
        ),
    )
    write_records(args.out, [record])
    if status == "ok":
        print(
            f"{args.variant}: {facts['latency_ms']['median']:.1f} ms, {facts['latency_ratio']:.3f} of {study.baseline}"
        )
    else:
        print(f"{args.variant}: {status}: {reason}")
    return 0


def measure(tier: Tier, study: Study, variant: str, data: DataSet) -> dict[str, Any]:
    """Peak memory, latency and throughput of a variant, and its ratio to the baseline in interleaved rounds."""
    import torch

    from aqr_bench import runtime

    runtime.prepare()
    threads = runtime.use_threads(tier.threads)
    model, batches = _load(tier, study, variant, data)
    step = _stepper(model, batches)
    before_mb = _rss_mb()
    for _ in range(tier.measure_warmup):
        step()
    peak_mb = _rss_mb()
    # The baseline may be another model, with batches of its own kind.
    baseline, its_batches = _load(tier, study, study.baseline, data)
    other = _stepper(baseline, its_batches)
    for _ in range(tier.measure_warmup):
        other()
    mine, theirs = [], []
    for round_index in range(tier.measure_rounds):
        # Swap who goes first, so that neither always finds the caches warm.
        order = [(step, mine), (other, theirs)]
        for function, times in order if round_index % 2 == 0 else reversed(order):
            times.append(_time_ms(function, torch))
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    median = statistics.median(mine)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "latency_ms": {"median": median, "p95": sorted(mine)[int(0.95 * (len(mine) - 1) + 0.5)], "values": mine},
        "latency_ratio": ratio,
        "throughput_per_s": 1000 * tier.measure_batch_size / median,
        "batch_size": tier.measure_batch_size,
        "timed_scope": SCOPE,
        "threads": threads,
        "inference_peak_rss_mb": peak_mb,
        "inference_rss_over_loaded_mb": peak_mb - before_mb,
    }


def _load(tier: Tier, study: Study, variant: str, data: DataSet) -> tuple[Any, list]:
    """The variant's untrained model (its cost does not depend on the weights) and a few real batches."""
    from itertools import islice

    import torch
    from mmdet3d.registry import MODELS
    from mmengine.device import get_device
    from mmengine.registry import init_default_scope
    from mmengine.utils import import_modules_from_strings

    from aqr_bench.evaluate import build_loader

    config = build_config(tier, data, 0, "", study, variant)
    import_modules_from_strings(**config.custom_imports)
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(config.model).to(get_device()).eval()
    loader = build_loader(config, study.suite.conditions[0], tier.measure_batch_size)
    return model, list(islice(loader, 4))


def _stepper(model: Any, batches: list) -> Callable[[], None]:
    """A function that runs the next batch each time it is called."""
    import copy
    from itertools import cycle

    import torch

    turn = cycle(batches)

    def step() -> None:
        with torch.no_grad():
            # The preprocessor may write to its input: hand it a copy of the outer structure.
            model.test_step(copy.copy(next(turn)))

    return step


def _time_ms(function: Callable[[], None], torch: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run_main(main)
