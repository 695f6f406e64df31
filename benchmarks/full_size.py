"""One training step or one inference of an official config at full size on a real keyframe: seconds and peak memory.

    python benchmarks/full_size.py cmt_voxel0100_r50_800x320_cbgs --mode train --keyframe FOLDER
    python benchmarks/full_size.py cmt_voxel0075_vov_1600x640_cbgs --mode predict --keyframe FOLDER

FOLDER holds an mmdet3d info file (.pkl) and the files that it names. On a CPU the sparse encoder is frozen, since
spconv has no backward there. Everything runs in float32. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

from aqr_bench import compat

compat.prepare()

import torch  # noqa: E402
from mmdet3d.registry import DATASETS, MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

from aqr_bench.data.dataset import point_at_keyframe  # noqa: E402
from aqr_bench.engine.adapt_config import inner_dataset  # noqa: E402
from aqr_bench.engine.seeding import seed_all  # noqa: E402
from aqr_bench.study.model_files import CONFIGS  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Run the step and print what it took and gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name of a config in aqr_bench/cmt/configs")
    parser.add_argument("--mode", choices=["train", "predict"], required=True)
    parser.add_argument("--keyframe", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    compat.use_threads(args.threads)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    seed_all(args.seed)
    config = Config.fromfile(CONFIGS / f"{args.config}.py")
    init_default_scope("mmdet3d")
    sample = load_sample(config, args.keyframe, args.mode == "train")
    training_on_cpu = args.mode == "train" and not torch.cuda.is_available()
    if training_on_cpu and "pts_middle_encoder" in config.model:
        config.model.frozen = list({*config.model.frozen, "pts_middle_encoder"})
    model = MODELS.build(config.model)
    model.init_weights()
    start = time.perf_counter()
    batch = pseudo_collate([sample])
    result = train_step(model, config, batch) if args.mode == "train" else predict(model, batch)
    facts = {
        "config": args.config,
        "mode": args.mode,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": args.threads,
        **result,
    }
    print(json.dumps(facts))
    return 0


def load_sample(config: Config, keyframe: Path, train: bool) -> dict:
    """The first sample of the folder through the config's own pipeline, without GT sampling (it needs a database)."""
    dataset = inner_dataset((config.train_dataloader if train else config.test_dataloader).dataset)
    dataset.pipeline = [step for step in dataset.pipeline if step["type"] != "UnifiedObjectSample"]
    point_at_keyframe(dataset, keyframe)
    return DATASETS.build(dataset)[0]


def train_step(model: Any, config: Config, batch: dict) -> dict:
    """Forward, losses, backward and an update, in float32; which parameters a gradient reached."""
    wrapper = dict(config.optim_wrapper, type="OptimWrapper")
    wrapper.pop("loss_scale", None)
    model.train()
    reached: set[str] = set()
    names = dict(model.named_parameters())
    for name, parameter in names.items():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: reached.add(name))
    losses = model.train_step(batch, build_optim_wrapper(model, wrapper))
    return {
        "loss": float(losses["loss"].detach()),
        "losses": len(losses) - 1,
        "with_gradient": len(reached),
        "without_gradient": sorted({name.split(".")[0] for name in names.keys() - reached}),
        "finite": all(bool(torch.isfinite(p).all()) for p in names.values()),
    }


def predict(model: Any, batch: dict) -> dict:
    """Detections of the sample."""
    model.eval()
    with torch.no_grad():
        detections = model.test_step(batch)[0].pred_instances_3d
    return {
        "boxes": len(detections.bboxes_3d),
        "best_score": float(detections.scores_3d.max()),
        "finite": bool(torch.isfinite(detections.bboxes_3d.tensor).all()),
    }


if __name__ == "__main__":
    sys.exit(main())
