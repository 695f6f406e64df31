"""Training by torchrun: two processes on CPUs compute the losses that one computes, and fail as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch.utils.data import BatchSampler
from worlds import copy_infos

from aqr_bench.engine.distributed import split_batch
from aqr_bench.engine.seeding import SeededBatchSampler, seed_all
from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_tier
from aqr_bench.study.spec import Launcher

WORLD = dict(version="v1.0-mini", train_scenes=2, val_scenes=1, frames_per_scene=2)
PIPELINE = "train_dataloader.dataset.pipeline"
# Hooks of these tests, for processes of their own.
STARTER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

@HOOKS.register_module()
class EndSecond(Hook):
    def __init__(self, how):
        self.how = how

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 1:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the second process has had enough")

@HOOKS.register_module()
class StillNorms(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        still = [m.eval() for m in runner.model.modules() if isinstance(m, _BatchNorm)]
        assert len(still) == 2

if __name__ == "__main__":
    from aqr_bench.engine.train import main
    main()
"""
SEEDS, CURVE = {"type": "SeedIterations"}, {"type": "LossCurve", "every": 1}
EQUAL = {
    "train_dataloader.batch_size": 2,
    # Nothing that the processes would draw for themselves: augmentation, denoising noise.
    f"{PIPELINE}.SensorDropout": {"type": "SensorDropout", "lidar": 0.0, "cameras": 0.0},
    f"{PIPELINE}.RandomRotate180.prob": 0.0,
    "model.pts_bbox_head.scalar": 0,
    # Batch statistics are each process' own: both runs use the initial running ones. The other norms are group norms.
    "custom_hooks": [SEEDS, CURVE, {"type": "StillNorms"}],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "starter.py").write_text(STARTER)
    write_tier(folder / "tiny.yaml")
    return copy_infos(folder, **WORLD)


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


def launch(place: Path, tier: Path, name: str, processes: int) -> tuple[int, str, Path]:
    """Exit code, output and record file of a training in processes of its own."""
    out = place / name / "train.jsonl"
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*start, "starter", "--tier", str(tier), "--infos", str(place), "--seed", "0"]
    search = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--out", str(out), "--work", str(place / name / "work")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr, out


def losses(place: Path, tier: Path, name: str, processes: int) -> np.ndarray:
    """Loss of every iteration; the record is checked on the way."""
    code, text, out = launch(place, tier, name, processes)
    assert code == 0, text
    (record,) = read_records(out)
    assert record.ok, record.reason
    assert record.cost.get("processes", 1) == processes
    print(name, record.curve)
    return np.array(record.curve)[:, 1]


@pytest.mark.slow
def test_two_processes_compute_the_losses_of_one(place):
    one, two = (losses(place, place / "tiny.yaml", f"with{n}", n) for n in (1, 2))
    assert len(one) == 4
    np.testing.assert_allclose(two[0], one[0], rtol=1e-6)  # the sums of two halves, in another order
    np.testing.assert_allclose(two, one, rtol=1e-5)  # and after steps with gradients that were summed so
    # Divided by the counts of each process, as official CMT does, it is another loss.
    own = write_tier(place / "own.yaml", iterations=1, **{"model.sync_factors": False})
    assert abs(losses(place, own, "own", 2)[0] / one[0] - 1) > 1e-3


def ended(place: Path, how: str) -> tuple[int, str, Path]:
    """A training whose second process fails in its second iteration."""
    hooks = {"custom_hooks": [SEEDS, CURVE, {"type": "EndSecond", "how": how}]}
    return launch(place, write_tier(place / f"{how}.yaml", **hooks), how, 2)


@pytest.mark.slow
def test_a_failure_of_one_process_ends_all_and_leaves_one_record(place):
    code, text, out = ended(place, "fail")
    assert code == 0, text
    (record,) = read_records(out)
    assert record.status == "failed" and record.reason == "rank 1: ValueError: the second process has had enough"


@pytest.mark.slow
def test_a_killed_process_ends_all_without_a_record(place):
    """As a killed training in one process does: the next call goes on from the last checkpoint."""
    code, text, out = ended(place, "kill")
    assert code != 0 and not out.exists(), text


def test_the_batch_of_a_tier_does_not_depend_on_the_processes(tmp_path):
    official = Launcher(8, "per_process")
    assert [split_batch(official.total_batch(2), n, "x.yaml") for n in (1, 2, 4, 8)] == [16, 8, 4, 2]
    assert split_batch(Launcher(2).total_batch(4), 2, "x.yaml") == 2
    with pytest.raises(UserError, match=r"x\.yaml: a batch of 2 cannot be split evenly over 8 processes; change"):
        split_batch(Launcher(8).total_batch(2), 8, "x.yaml")
    assert load_tier(write_tier(tmp_path / "tiny.yaml", processes=2)).launcher == Launcher(2, "total")
    with pytest.raises(UserError, match=r"launcher"):
        load_tier(write_tier(tmp_path / "none.yaml", processes=0))


def test_processes_draw_differently_and_the_first_as_one_alone():
    drawn = []
    for rank in (0, 1, 2):
        seeds = (seed for seed, _ in SeededBatchSampler(BatchSampler(range(3), 1, False), (5,), 0, rank))
        drawn.append([seed_all(*seed) or np.random.rand() for seed in seeds])
    seed_all(5, 0, 0)
    assert drawn[0][0] == np.random.rand() and len({value for row in drawn for value in row}) == 9


# Two sensors, a checkpointed image backbone of mmdet (as the r50 config has it), wrapped as a training wraps its model.
TWO_SENSORS = """
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from aqr_bench import compat

compat.prepare()
torch.set_num_threads(1)
import mmdet.models  # noqa: F401
from mmdet.registry import MODELS
from mmengine.registry import MODEL_WRAPPERS

from aqr_bench.engine.train import MODEL_WRAPPER


class Detector(nn.Module):
    def __init__(self, with_cp):
        super().__init__()
        torch.manual_seed(0)
        norm = dict(norm_eval=True, norm_cfg=dict(type="BN", requires_grad=True))
        size = dict(depth=18, base_channels=8, out_indices=(3,))
        self.image = MODELS.build(dict(type="ResNet", with_cp=with_cp, **size, **norm))
        self.lidar = nn.Linear(4, 1)

    def forward(self, images, points):
        parts = [self.lidar(points).square().mean()] if points is not None else []
        parts += [self.image(images)[0].square().mean()] if images is not None else []
        return sum(parts)


def step(model, images, points):
    model.zero_grad()
    model(images, points).backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def main(folder, rank, size):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    plain = Detector(with_cp=False).train()
    wrapped = MODEL_WRAPPERS.build(dict(MODEL_WRAPPER, module=Detector(with_cp=True).train()))
    torch.manual_seed(1)
    images, points = torch.randn(2, 3, 32, 32), torch.randn(2, 4)
    seen = [(images, points), (images if rank == 0 and size > 1 else None, points), (images, points)]
    for number, (image, point) in enumerate(seen):
        own = step(plain, image, point)
        for averaged, mine in zip(step(wrapped, image, point), own, strict=True):
            if averaged is None:  # no process has used it
                assert mine is None
                continue
            mean = torch.zeros_like(averaged) if mine is None else mine
            if size > 1:
                dist.all_reduce(mean)
            torch.testing.assert_close(averaged, mean / size)
        print(f"step {number} of rank {rank}: equal", flush=True)
    dist.barrier()
    os._exit(0)  # gloo may wait for ever for the threads of the other process


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_checkpointed_backbone_trains_although_a_sensor_may_be_missing(tmp_path, processes):
    """Reentrant checkpointing, torch's default, ends with "Expected to mark a variable ready only once"."""
    (tmp_path / "two_sensors.py").write_text(TWO_SENSORS)
    started = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "two_sensors.py"), str(tmp_path), str(rank), str(processes)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for rank, process in enumerate(started):
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
            assert output.count(f"of rank {rank}: equal") == 3
    finally:
        for process in started:
            process.kill()
