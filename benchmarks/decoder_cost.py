"""What AQR costs a decoder at full size: router, window geometry, bias and biased attention, per attention backend.

    python benchmarks/decoder_cost.py --out benchmarks/results/decoder_NAME.json
    python benchmarks/decoder_cost.py --config cmt_voxel0075_vov_1600x640_cbgs --rounds 5 --modes inference

The head of an official config runs on random features, without the backbones. Every variant runs once a round, in
an order drawn anew, with the plain head right before or after it; ratios are taken pair by pair. Memory is that of a
fresh process each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from aqr_bench.compat import use_threads
from aqr_bench.cost.batches import free_memory
from aqr_bench.cost.full_head import HeadInputs, build_head, head_size, load_model_config, make_inputs
from aqr_bench.cost.machine import clocks
from aqr_bench.cost.memory import PeakMemory
from aqr_bench.cost.stages import Stages
from aqr_bench.errors import UserError, run_main
from aqr_bench.records.provenance import machine, packages

BACKENDS = ("auto", "window", "masked", "literal")
PLAIN, GOAL = "none", 0.10
PEAKS = 3  # the resident set of equal processes differs
# Source of the weights: the router over the whole memory, one that sees MoME's windows of it, or no router at all.
ROUTERS: dict[str, dict[str, Any]] = {
    "router": {"router": "learned"},
    "router pooled by 2": {"router": "learned", "router_pool": 2},  # over blocks of 2 x 2 cells
    "router pooled by 4": {"router": "learned", "router_pool": 4},
    "local router": {"router": "learned", "router_bev_window": 5, "router_camera_window": 15},
    "no router": {"router": "constant", "constant_weights": [0.5, -0.5]},
}
VARIANTS = {PLAIN: (None, "auto")} | {f"{r}, {b}": (ROUTERS[r], b) for r in ROUTERS for b in BACKENDS}
MOME = "mome"  # its experts and router on the decoder of the config, which has to be of MoME's width
MODES = ("inference", "training")
# Processor time of one thread is what a machine with other work on it can still tell.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(argv: list[str] | None = None) -> int:
    """Measure, write the JSON, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="cmt_voxel0100_r50_800x320_cbgs")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--windows", default="5/5", help="BEV/camera window in cells")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, MOME], metavar="VARIANT")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    threads, config = use_threads(args.threads), load_model_config(args.config)
    if args.clock == "cpu" and (threads > 1 or args.device != "cpu"):
        raise UserError(
            "--clock cpu adds up the time of all threads and knows no GPU: it needs --threads 1, --device cpu"
        )
    if args.peak_of:
        print(json.dumps(peak(config, args)))
        return 0
    size, variants = head_size(config), list(dict.fromkeys([PLAIN, *args.variants]))
    facts = {"config": args.config, "batch": args.batch, "windows": args.windows, "rounds": args.rounds}
    facts |= {"device": args.device, "clock": args.clock}
    facts |= {"queries": size.queries, "keys": size.keys, "layers": size.layers, "threads": threads, "goal": GOAL}
    result = {**facts, "machine": machine(), "packages": packages(), "clocks": {"before": clocks()}, "modes": {}}
    for mode in args.modes:
        rows = times(config, variants, mode, args)
        for name in variants:
            rows[name]["memory"] = fresh_peak(name, mode, args)
            before = rows[PLAIN]["memory"]
            if name != PLAIN and before["peak_over_inputs_mb"]:
                rows[name]["memory_ratio"] = rows[name]["memory"]["peak_over_inputs_mb"] / before["peak_over_inputs_mb"]
        result["modes"][mode] = rows
    result["clocks"]["after"] = clocks()
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


def make(config: Any, name: str, mode: str, args: argparse.Namespace) -> tuple[Any, HeadInputs, Callable[[], Any]]:
    """A head, its inputs, and a function that runs one pass of it."""
    weights, backend = VARIANTS.get(name, (None, "auto"))
    bev, camera = map(int, args.windows.split("/"))
    windows = {"site": "cross", "bev_window": bev, "camera_window": camera, "profile": "gaussian"}
    aqr = {} if weights is None else {**windows, **weights}
    changes = {"aqr": aqr, "attention_backend": backend}
    if name == MOME:
        mome_head = load_model_config("mome").model.pts_bbox_head
        changes |= {"type": mome_head.type, "transformer": mome_head.transformer}
    head = build_head(config, changes)
    if name == MOME:  # or nearly all queries may go to one expert
        torch.nn.init.normal_(head.transformer.selected_cls.weight, std=0.5)
    if head.aqr is not None and head.aqr.router is not None:
        # A fresh router says 0 for every query. The layer's input is normed: weights spread over (-1, 1).
        torch.nn.init.normal_(head.aqr.router.output.weight, std=head.hidden_dim**-0.5)
    head = head.to(args.device).train(mode == "training")
    inputs = make_inputs(config, args.batch, mode == "training", args.device)
    return head, inputs, (lambda: learn(head, inputs)) if mode == "training" else (lambda: detect(head, inputs))


def detect(head: Any, inputs: HeadInputs) -> None:
    """An inference of the head, without decoding its boxes."""
    with torch.no_grad():
        head(inputs.points, inputs.images, inputs.metas)


def learn(head: Any, inputs: HeadInputs) -> None:
    """Forward pass, losses and backward pass, down to the features."""
    head.zero_grad(set_to_none=True)
    torch.manual_seed(0)  # the same denoising queries for all
    points, images = (
        [None if x is None else x.detach().requires_grad_() for x in side] for side in (inputs.points, inputs.images)
    )
    sum(head.loss(points, images, inputs.samples).values()).backward()


def times(config: Any, variants: list[str], mode: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Times and ratios by variant; the plain head runs right beside each of them, before or after it by turns.

    ``head_ratio``: of the full pass. ``decoder_ratio`` (inference): router, geometry, bias and decoder, over the plain
    decoder; embeddings and output layers, which AQR leaves alone, are in neither.
    """
    clock = CLOCKS[args.clock]
    heads = {name: make(config, name, mode, args) for name in variants}
    runs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {name: [] for name in variants}

    def run(name: str) -> dict[str, float]:
        head, _, one_pass = heads[name]
        with Stages(SimpleNamespace(pts_bbox_head=head), clock) as stages:
            stages.time(one_pass)
        return stages.runs[0]

    for name in variants:
        run(name)
    for turn in range(args.rounds):
        for name in random.Random(turn).sample(variants, len(variants)):
            if turn % 2:
                plain = run(PLAIN)
                runs[name].append((run(name), plain))
            else:
                runs[name].append((run(name), run(PLAIN)))
        print(f"{mode}: round {turn + 1} of {args.rounds}", file=sys.stderr)
    heads.clear()
    free_memory()
    return {name: row(pairs, mode) for name, pairs in runs.items()}


def row(pairs: list[tuple[dict[str, float], dict[str, float]]], mode: str) -> dict[str, Any]:
    """Medians of the stages in ms, and ratios with their quartiles; those of the plain head to itself are the noise."""
    runs = [a for a, _ in pairs]
    names = [name for name in ("router", "decoder", "head", "other", "whole") if any(name in run for run in runs)]
    row: dict[str, Any] = {"ms": {n: round(statistics.median(run[n] for run in runs), 1) for n in names}}
    row["head_ratio"] = spread([a["whole"] / b["whole"] for a, b in pairs])
    if mode == "inference":
        row["decoder_ratio"] = spread([(a.get("router", 0.0) + a["decoder"]) / b["decoder"] for a, b in pairs])
    return row


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def fresh_peak(name: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of two passes, each time in a new process: the middle one of several, and all values."""
    command = [sys.executable, __file__, "--peak-of", name, "--modes", mode, "--config", args.config]
    command += ["--batch", str(args.batch), "--windows", args.windows, "--device", args.device]
    command += ["--threads", str(args.threads)] if args.threads else []
    peaks = []
    for _ in range(PEAKS):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr}")
        peaks.append(json.loads(run.stdout.splitlines()[-1]))
    peaks.sort(key=lambda facts: facts["peak_over_inputs_mb"])
    return {**peaks[PEAKS // 2], "all_peaks_mb": [facts["peak_over_inputs_mb"] for facts in peaks]}


def peak(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of two passes, MB, and how much of it is above head and inputs."""
    _, _, run = make(config, args.peak_of, args.modes[0], args)
    on_gpu = args.device == "cuda"
    loaded = torch.cuda.memory_allocated() / 2**20 if on_gpu else None
    with PeakMemory() as memory:
        run()
        run()
    facts = memory.facts
    over = facts["torch_allocated_mb"] - loaded if on_gpu else facts["rss_peak_mb"] - facts["rss_before_mb"]
    return {"peak_over_inputs_mb": round(over, 1), **{k: v for k, v in facts.items() if k != "gpu"}}


def table(result: dict[str, Any]) -> str:
    """Markdown: one line per mode and variant."""
    lines = [
        f"{result['config']}, batch {result['batch']}, Q {result['queries']}, K {result['keys']}, {result['layers']} "
        f"layers, windows {result['windows']}, {result['machine']['cpu']}, {result['threads']} threads, "
        f"{result['rounds']} rounds, {result['clock']} time",
        "",
        "| mode | variant | ms | router | decoder | decoder with AQR / without | head | MB | MB ratio |",
        "|---|---|---:|---:|---:|---|---|---:|---:|",
    ]
    for mode, rows in result["modes"].items():
        for name, row in rows.items():
            ms = row["ms"]
            cells = [mode, name, *(f"{ms[key]:.0f}" if key in ms else "" for key in ("whole", "router", "decoder"))]
            for key in ("decoder_ratio", "head_ratio"):
                part = row.get(key)
                cells.append(f"{part['median']:.3f} ({part['low']:.3f} to {part['high']:.3f})" if part else "")
            cells += [f"{row['memory']['peak_over_inputs_mb']:.0f}", f"{row.get('memory_ratio', 1):.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
