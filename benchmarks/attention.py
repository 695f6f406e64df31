"""The attention table: every backend in interleaved rounds, time over no bias, peak memory, error against float64.

    python benchmarks/attention.py                                  # the note's size, all windows: table and JSON
    python benchmarks/attention.py --size quick --rounds 21
    python benchmarks/attention.py --size vov --windows 5/5 --variants none auto masked window
    python benchmarks/attention.py --device cuda --dtype bfloat16

Timed are the projections of queries, keys, values and output, and the attention between them: forward without
gradients, and forward with backward to inputs, weights and bias. A round times every variant once, in a shuffled
order; ratios are taken within a round and given as median and quartiles. Memory is the peak over
the inputs in a fresh process. Needs torch and ``aqr_bench.bias``, nothing else of the project.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aqr_bench.bias import choose_backend
from aqr_bench.bias.attention import window as window_backend
from aqr_bench.cost.gpu_check.attention_cases import (
    ATTENTION,
    SIZES,
    Attention,
    Case,
    errors,
    exact,
    make_case,
    output_projection,
)
from aqr_bench.cost.gpu_check.attention_table import MODES, peak, time_attention
from aqr_bench.cost.timing import ratio
from aqr_bench.records.provenance import machine, packages


def _guarded(case: Case) -> Tensor:
    """The backend ``window`` with the correction of every row."""
    before = window_backend.MAX_LOSS
    window_backend.MAX_LOSS = float("-inf")
    try:
        return ATTENTION["window"](case)
    finally:
        window_backend.MAX_LOSS = before


def _sdpa(case: Case) -> Tensor:
    mask = case.bias().dense()[:, None]
    return output_projection(case, nn.functional.scaled_dot_product_attention(*case.heads(), attn_mask=mask))


def _module(need_weights: bool) -> Attention:
    """nn.MultiheadAttention and its [B * H, Q, K] mask, as the design note has it."""

    def attend(case: Case) -> Tensor:
        heads, width = case.size.heads, case.size.width
        mask = case.bias().dense().repeat_interleave(heads, 0)
        query, key, value = (
            x.transpose(0, 1) for x in (case.query_BQC, case.memory_BKC + case.position_BKC, case.memory_BKC)
        )
        out, _ = nn.functional.multi_head_attention_forward(
            query, key, value, width, heads, case.in_proj, None, None, None, False, 0.0, case.out_proj, None,
            training=torch.is_grad_enabled(), need_weights=need_weights, attn_mask=mask,
        )  # fmt: skip
        return out.transpose(0, 1)

    return attend


VARIANTS: dict[str, Attention] = {
    **{name: ATTENTION[name] for name in ("none", "auto", "window", "masked")},
    "window, every row guarded": _guarded,
    "sdpa, mask with gradient": _sdpa,
    "literal": ATTENTION["literal"],
    "nn.MultiheadAttention": _module(need_weights=True),
    "nn.MultiheadAttention, need_weights=False": _module(need_weights=False),
    "flex": ATTENTION["flex"],
}


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table as Markdown, write the JSON."""
    args = _arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    if args.peak_of:
        case = make_case(args.size, *_window(args.windows[0]), args.device, dtype)
        print(json.dumps(peak(case, VARIANTS[args.peak_of], args.mode == MODES[1], args.device)))
        return 0
    rows = []
    for windows in args.windows:
        case = make_case(args.size, *_window(windows), args.device, dtype)
        rows += measure(case, windows, args)
    result = {"machine": machine(), "packages": packages(), "device": args.device}
    result |= {"size": args.size, "dtype": args.dtype, "rounds": args.rounds}
    result["date"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    result["rows"] = rows
    print(table(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="note")
    parser.add_argument("--windows", nargs="+", default=["5/5", "5/15", "15/15"], help="BEV/camera, in cells")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all that the device runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, help="default: as torch decides")
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes")
    parser.add_argument("--no-errors", action="store_true", help="leave out the float64 reference")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.variants is None:
        args.variants = [name for name in VARIANTS if name != "flex" or args.device == "cuda"]
        if args.dtype not in ("float32", "float64"):
            args.variants = [name for name in args.variants if not name.startswith("window")]
    if "none" not in args.variants:
        args.variants.insert(0, "none")
    return args


def _window(text: str) -> tuple[int, int]:
    bev, camera = text.split("/")
    return int(bev), int(camera)


def measure(case: Case, windows: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per variant: seconds, ratios, memory, errors. A variant that fails has the reason instead."""
    rows = {name: {"windows": windows, "variant": name} for name in args.variants}
    bias = case.bias()
    rows["none"]["cells_per_query"] = round(float(bias.valid_BQW.sum()) / bias.valid_BQW[..., 0].numel(), 1)
    if "auto" in rows:
        rows["auto"]["chosen"] = choose_backend(case.query_BQC, bias)
    for mode in MODES:
        running = {name: VARIANTS[name] for name in rows if "failed" not in rows[name]}
        times, failed = time_attention(case, running, mode, args.rounds)
        for name, reason in failed.items():
            rows[name]["failed"] = reason
        for name, timings in times.items():
            over_none = ratio(timings.wall_ms, times["none"].wall_ms)
            rows[name][mode] = {
                "seconds": statistics.median(timings.wall_ms) / 1000,
                "ratio": over_none["median"],
                "quartiles": [over_none["low"], over_none["high"]],
            }
        if not args.no_memory:
            for name in rows:
                if "failed" not in rows[name]:
                    rows[name][mode]["peak_mb"] = fresh_peak(name, windows, mode, args)
    if not args.no_errors:
        reference = exact(case)
        for name in rows:
            if name != "none" and "failed" not in rows[name]:
                output, *gradients = errors(case, VARIANTS[name], reference)
                rows[name]["error"] = {"output": output, "gradients": max(gradients)}
    return list(rows.values())


def fresh_peak(name: str, windows: str, mode: str, args: argparse.Namespace) -> float:
    """Peak memory over the inputs, MB, of the second step of a new process."""
    command = [sys.executable, __file__, "--size", args.size, "--windows", windows, "--peak-of", name, "--mode", mode]
    command += ["--device", args.device, "--dtype", args.dtype]
    command += ["--threads", str(args.threads)] if args.threads else []
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr}")
    return json.loads(run.stdout)


def table(result: dict[str, Any]) -> str:
    """Markdown: one line per windows and variant."""
    m = result["machine"]
    device = m["gpu"] if result["device"] == "cuda" else m["cpu"]
    lines = [
        f"{result['size']}, {result['dtype']}, {device}, torch {result['packages']['torch']}, "
        f"{m['torch_threads']} threads, {result['rounds']} rounds",
        "",
        "| windows | variant | forward | quartiles | forward+backward | quartiles | MB | MB f+b | error | gradients |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        name = row["variant"] + (f" ({row['chosen']})" if "chosen" in row else "")
        if "failed" in row:
            lines.append(f"| {row['windows']} | {name} | failed: {row['failed']} |" + " |" * 7)
            continue
        cells = [row["windows"], name]
        for mode in MODES:
            value = row[mode]
            seconds = f" ({value['seconds'] * 1e3:.0f} ms)" if row["variant"] == "none" else ""
            cells += [f"{value['ratio']:.2f}{seconds}", "{:.2f}-{:.2f}".format(*value["quartiles"])]
        cells += [f"{row[mode]['peak_mb']:.0f}" if "peak_mb" in row[mode] else "" for mode in MODES]
        error = row.get("error", {})
        cells += [f"{error[key]:.1e}" if key in error else "" for key in ("output", "gradients")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
