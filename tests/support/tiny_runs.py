"""A training of three iterations and its evaluation, made once for a whole test run, and the tier that they are of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from shared_files import shared_folder
from worlds import copy_infos

from aqr_bench.cli.main import main as aqr_bench

WORLD = dict(version="v1.0-mini", train_scenes=2, val_scenes=2, frames_per_scene=2, objects_per_frame=4)
SUITE = dict(name="two", summary="two", conditions=[{"name": "clean"}, {"name": "no_lidar"}])
RUN = "results/tiny/base/seed0"


def tiny_tier(threads: int = 1, workers: int = 0) -> dict[str, Any]:
    """The tier with other threads, and loaders with other workers, under the same name."""
    config = {
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": workers,
        "train_dataloader.persistent_workers": workers > 0,
        "test_dataloader.num_workers": workers,
        "custom_hooks": [{"type": "SeedIterations"}, {"type": "LossCurve", "every": 1}],
    }
    return dict(
        name="tiny",
        summary="three iterations",
        data=dict(kind="synthetic", version="v1.0-mini"),
        world=WORLD,
        model="cmt_aqr_quick",
        base=dict(iterations=3, config=config),
        variant=dict(iterations=1, init="base"),
        threads=threads,
    )


def tiny_checkout() -> Path:
    """A folder with ``tiny.yaml``, ``two.yaml`` and ``results/``, in which both steps ran; not to be written to."""
    return shared_folder("tiny-run", _write)


def _write(folder: Path) -> None:
    copy_infos(folder / "results/tiny/infos", **WORLD)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_tier()))
    (folder / "two.yaml").write_text(yaml.safe_dump(SUITE))
    common = "--tier tiny.yaml --infos results/tiny/infos --work results/tiny/work"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            f"train {common} --seed 0 --out {RUN}/train.jsonl",
            f"evaluate {common} --suite two.yaml --train {RUN}/train.jsonl --out {RUN}/evaluate.two.jsonl",
        ):
            # In this process, but with a record as of a process of its own.
            patch.setattr(sys, "orig_argv", ["python", "-m", "aqr_bench", *words.split()])
            assert aqr_bench(words.split()) == 0
