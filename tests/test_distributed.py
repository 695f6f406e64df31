"""Training by torchrun: two processes on CPUs compute the losses that one computes, and fail as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from aqr_bench.data.__main__ import main as prepare
from aqr_bench.record import Record, read_records
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

WORLD = dict(version="v1.0-mini", train_scenes=2, val_scenes=1, frames_per_scene=2)
PIPELINE = "train_dataloader.dataset.pipeline"
EQUAL = {
    "train_dataloader.batch_size": 2,
    # Nothing that the processes would draw for themselves: augmentation, denoising noise.
    f"{PIPELINE}.SensorDropout": {"type": "SensorDropout", "lidar": 0.0, "cameras": 0.0},
    f"{PIPELINE}.TurnWorld.prob": 0.0,
    "model.pts_bbox_head.scalar": 0,
    # The quick model's other norms are group norms; batch statistics are each process' own.
    "model.pts_voxel_encoder.norm_cfg": {"type": "GN", "num_groups": 8},
    "custom_hooks.LossCurve.every": 1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write_world(WorldSpec.from_dict(WORLD), folder / "world")
    tier = write_tier(folder / "tiny.yaml")
    assert prepare(["--tier", str(tier), "--root", str(folder / "world"), "--out", str(folder), "--quiet"]) == 0
    return folder


def write_tier(path: Path, iterations: int = 4, processes: int = 2, batch: str = "total", **config) -> Path:
    tier = dict(
        name=path.stem,
        summary="a few iterations",
        data=dict(kind="synthetic", version="v1.0-mini"),
        world=WORLD,
        model="cmt_aqr_quick",
        base=dict(iterations=iterations, config=EQUAL | config),
        variant=dict(iterations=1, init="base"),
        launcher=dict(processes=processes, batch=batch),
    )
    path.write_text(yaml.safe_dump(tier))
    return path


def launch(place: Path, tier: Path, name: str, processes: int, *more: str, **environment: str) -> tuple[int, str, Path]:
    out = place / name / "train.jsonl"
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*start, "aqr_bench.train", "--tier", str(tier), "--infos", str(place), "--seed", "0"]
    done = subprocess.run(
        [*command, "--out", str(out), "--work", str(place / name / "work"), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr, out


def trained(place: Path, tier: Path, name: str, processes: int) -> Record:
    code, said, out = launch(place, tier, name, processes)
    assert code == 0, said
    (record,) = read_records(out)
    return record


@pytest.mark.slow
def test_two_processes_compute_the_losses_of_one(place):
    one, two = (trained(place, place / "tiny.yaml", f"with{n}", n) for n in (1, 2))
    assert one.ok and two.ok, (one.reason, two.reason)
    assert "processes" not in one.cost and two.cost["processes"] == 2
    first, second = (np.array(r.curve) for r in (one, two))
    print(json.dumps([first.tolist(), second.tolist()]))
    np.testing.assert_allclose(second[0], first[0], rtol=1e-5)
    np.testing.assert_allclose(second, first, rtol=1e-3)
