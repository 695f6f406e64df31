"""A training resumed after any share of a pass over its data, or after several passes, equals the unbroken one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from worlds import copy_infos

from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import build_config
from aqr_bench.engine.train import main, run_training
from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_study, load_tier

WORLD = dict(version="v1.0-mini", train_scenes=2, val_scenes=1, frames_per_scene=2)
BATCHES = 2  # a pass: four frames, two in a batch
LENGTH = 3 * BATCHES  # iterations of each training
PASSES = (0.5, 1, 1.5, 2.5, 3)  # after three, all that is missing is the final checkpoint
CHECKPOINT = {"type": "CheckpointHook", "by_epoch": False, "interval": 1, "max_keep_ckpts": -1}
CONFIG = {"train_dataloader.batch_size": 2, "default_hooks.checkpoint": CHECKPOINT}
BY_EPOCH = {
    "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 3},
    "train_dataloader.sampler": {"type": "DefaultSampler", "shuffle": True},
    "custom_hooks": [
        {"type": "SeedEpochs"},
        {"type": "LossCurve", "every": 4},
        {"type": "EMAHook", "ema_type": "ExponentialMovingAverage", "momentum": 0.1},
    ],
    "param_scheduler": [
        {"type": "CosineAnnealingLR", "begin": 0, "end": 3, "T_max": 3, "by_epoch": True, "convert_to_iter_based": True}
    ],
    "log_processor.by_epoch": True,
}
FEATURES = {"model.features_only": "lidar"}
KINDS = ("base", "variant", "pretraining")
CASES = [(kind, unit) for kind in KINDS for unit in ("iterations", "epochs")]
EVERYDAY = {(kind, "iterations", 1.5, 0) for kind in KINDS} | {
    ("base", unit, passes, workers)
    for unit, passes, workers in [
        ("iterations", 2.5, 2),
        ("iterations", 3, 0),
        ("epochs", 1.5, 0),
    ]
}


@HOOKS.register_module(force=True)
class FailAtFirstIteration(Hook):
    """Raises in the first iteration of a call, as a fault of the checkpoint would."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise ValueError("__len__() should return >= 0")


class Runs:
    """Trainings on one world; each unbroken one is made once and keeps all of its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for unit in ("iterations", "epochs"):
            self._write_tier(unit)
        self.data = load_data(copy_infos(folder, **WORLD))
        self._unbroken: dict[tuple[str, str], tuple[Path, list]] = {}

    def _write_tier(self, unit: str) -> None:
        by_epoch = unit == "epochs"
        config = CONFIG | (BY_EPOCH if by_epoch else {})
        length = {"epochs": 3} if by_epoch else {"iterations": LENGTH}
        tier = dict(
            name=unit,
            summary="three passes over four frames",
            data=dict(kind="synthetic", version="v1.0-mini"),
            world=WORLD,
            model="cmt_aqr_quick",
            base=dict(config=config, **length),
            variant=dict(init="scratch", config=config, **length),
            pretrain={"lidar": dict(iterations=LENGTH, parts=["pts_backbone"], config=config | FEATURES)},
        )
        if by_epoch:
            del tier["pretrain"]  # a branch is pretrained by iterations
        (self.folder / f"{unit}.yaml").write_text(yaml.safe_dump(tier))

    def config(self, kind: str, unit: str, work: Path, workers: int = 0):
        tier = load_tier(self.folder / f"{unit}.yaml")
        study, variant = (load_study("smoke"), "cross") if kind == "variant" else (None, None)
        pretrain = "lidar" if kind == "pretraining" else None
        config = build_config(tier, self.data, 5, work, study, variant, pretrain)
        config.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
        return config

    def train(self, kind: str, unit: str, work: Path, workers: int = 0) -> tuple[Path, list]:
        tier = load_tier(self.folder / f"{unit}.yaml")
        result = run_training(self.config(kind, unit, work, workers), tier)
        path, facts, curve = result.checkpoint, result.cost, result.curve
        assert facts["iterations"] == LENGTH
        return path, json.loads(json.dumps(curve))

    def unbroken(self, kind: str, unit: str) -> tuple[Path, list]:
        if (kind, unit) not in self._unbroken:
            self._unbroken[kind, unit] = self.train(kind, unit, self.folder / "unbroken" / kind / unit)
        return self._unbroken[kind, unit]

    def killed(self, kind: str, unit: str, iterations: int, work: Path) -> Path:
        """What a training that is killed after so many iterations leaves behind."""
        source = self.unbroken(kind, unit)[0].parent
        work.mkdir(parents=True)
        for number in range(1, iterations + 1):
            shutil.copy(source / f"iter_{number}.pth", work)
        shutil.copy(source / "curve.json", work)
        return work


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    yield Runs(tmp_path_factory.mktemp("resumed"))


def cases():
    for kind, unit in CASES:
        for passes in PASSES:
            for workers in (0, 2):
                if (kind, unit) == ("pretraining", "epochs"):
                    continue
                case = (kind, unit, passes, workers)
                yield pytest.param(*case, marks=[] if case in EVERYDAY else pytest.mark.slow)


@pytest.mark.parametrize(("kind", "unit", "passes", "workers"), cases())
def test_a_resumed_training_equals_the_unbroken_one(runs, tmp_path, kind, unit, passes, workers):
    expected, expected_curve = runs.unbroken(kind, unit)
    work = runs.killed(kind, unit, int(passes * BATCHES), tmp_path / "work")
    resumed, curve = runs.train(kind, unit, work, workers)
    assert curve == expected_curve and curve[-1][0] == LENGTH
    weights, wanted = (torch.load(path, weights_only=True)["state_dict"] for path in (resumed, expected))
    assert list(weights) == list(wanted)
    assert all(torch.equal(weights[name], value) for name, value in wanted.items())
    # Checkpoints of the iterations after the kill hold optimiser, schedule and averages as well.
    for number in range(int(passes * BATCHES) + 1, LENGTH + 1):
        then, now = (
            torch.load(folder / f"iter_{number}.pth", weights_only=False) for folder in (expected.parent, work)
        )
        assert all(torch.equal(then["state_dict"][k], v) for k, v in now["state_dict"].items()), number
        assert then["optimizer"]["param_groups"][0]["lr"] == now["optimizer"]["param_groups"][0]["lr"], number


@pytest.mark.parametrize("unit", ["iterations", "epochs"])
def test_every_iteration_changes_the_weights(runs, unit):
    """Without this, the comparison could not fail."""
    folder = runs.unbroken("base", unit)[0].parent
    states = [torch.load(folder / f"iter_{n}.pth", weights_only=False)["state_dict"] for n in range(1, LENGTH + 1)]
    for before, after in pairwise(states):
        assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_a_failure_after_resuming_names_what_to_delete(runs, tmp_path):
    """In the record, not in the log alone; a training that was not resumed has no such advice."""
    tier = yaml.safe_load((runs.folder / "iterations.yaml").read_text()) | {"name": "failing"}
    hooks = [{"type": "SeedIterations"}, {"type": "LossCurve", "every": 4}, {"type": "FailAtFirstIteration"}]
    del tier["pretrain"]
    tier["base"]["config"] = CONFIG | {"custom_hooks": hooks}
    file, out, work = tmp_path / "failing.yaml", tmp_path / "train.jsonl", tmp_path / "work"
    file.write_text(yaml.safe_dump(tier))
    words = ["--tier", str(file), "--infos", str(runs.folder), "--seed", "5", "--out", str(out), "--work", str(work)]
    assert main(words) == 0
    first = read_records(out)[0]
    assert first.status == "failed" and first.reason == "ValueError: __len__() should return >= 0"
    shutil.copy(runs.unbroken("base", "iterations")[0].parent / "iter_3.pth", work / "base" / "seed5")
    assert main(words) == 0
    again = read_records(out)[0]
    assert again.status == "failed" and again.reason.startswith(first.reason)
    assert "resumed from iter_3.pth" in again.reason and f"delete {work / 'base' / 'seed5'} to start" in again.reason
