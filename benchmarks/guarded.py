"""How many rows backend `window` has to redo with a dense mask, on a trained model: the share that decides on defaults.

    python benchmarks/guarded.py --tier quick --infos results/quick/infos \
        --train results/quick/bias_site/cross/seed0/train.jsonl --frames 48

For every condition of the suite, and for every bias: the one that the model was trained with, and that of an oracle
router (+1 for a sensor that is there, -1 for one that is not) at several scales, put in its place without training.
Prints a Markdown table; a row is one query in one decoder layer.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from aqr_bench import compat

compat.prepare()

from mmengine.logging import MMLogger  # noqa: E402

from aqr_bench.data.dataset import load_data  # noqa: E402
from aqr_bench.engine.evaluate import load_evaluator  # noqa: E402
from aqr_bench.engine.loader import build_loader  # noqa: E402
from aqr_bench.records.record import read_records  # noqa: E402
from aqr_bench.study.load import load_suite, load_tier  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Run the frames under every condition and bias, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--infos", required=True)
    parser.add_argument("--train", required=True, help="train record of a variant with a bias in cross-attention")
    parser.add_argument("--suite", default="missing_sensors")
    parser.add_argument("--frames", type=int, default=48, help="evenly spread over the val split")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 5.0])
    args = parser.parse_args(argv)
    tier, suite = load_tier(args.tier), load_suite(args.suite)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        evaluator = load_evaluator(tier, load_data(args.infos), read_records(args.train)[0], args.train, Path(work))
        head = evaluator.model.pts_bbox_head
        if head.aqr is None or head.aqr.site not in ("cross", "both"):
            raise SystemExit(f"{args.train}: this model has no bias in cross-attention")
        biases = {"as trained": head.aqr, **{f"oracle, scale {s:g}": oracle(head, s) for s in args.scales}}
        print("| bias | " + " | ".join(c.name for c in suite.conditions) + " |")
        print("|---|" + "---|" * len(suite.conditions))
        for name, aqr in biases.items():
            head.aqr = aqr
            shares = [guarded_share(evaluator, condition, args.frames) for condition in suite.conditions]
            print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)
    return 0


def oracle(head: Any, scale: float) -> Any:
    """A bias with the windows and the profile of the model, and weights from the true sensor state."""
    from aqr_bench.bias import AttentionBias

    aqr = head.aqr
    return AttentionBias(
        head.hidden_dim, aqr.site, aqr.bev_size, aqr.camera_size, aqr.profile, "oracle", scale=scale, layers=aqr.layers
    ).eval()


def guarded_share(evaluator: Any, condition: Any, frames: int) -> float:
    """Guarded rows per row of ``frames`` samples under a condition."""
    import numpy as np
    import torch
    from mmengine.dataset import pseudo_collate

    from aqr_bench.bias import count_guarded
    from aqr_bench.cmt.attention import set_backend

    set_backend(evaluator.model, "window")
    dataset = build_loader(evaluator.config, condition, 1).dataset
    with count_guarded() as count, torch.no_grad():
        for index in np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).astype(int):
            evaluator.model.test_step(pseudo_collate([dataset[int(index)]]))
    return count.share


if __name__ == "__main__":
    sys.exit(main())
