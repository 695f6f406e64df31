"""What is equal bit for bit on one machine, and how far apart it is otherwise: workers, hash seeds, thread counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_runs import RUN, WORLD, tiny_checkout, tiny_tier
from worlds import copy_infos

from aqr_bench import compat
from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.engine.train import main as train
from aqr_bench.records.diff import compare
from aqr_bench.records.record import Record, read_records
from aqr_bench.study.load import load_tier

# Stated in docs/reproducibility.md with what was measured, for another thread count: relative difference of the loss of
# the first iteration and of the next two; absolute difference of mAP and NDS of one and the same model.
FIRST_LOSS, NEXT_LOSSES, SCORES = 1e-5, 1e-3, 1e-4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Info files; tiers differ in threads and in the workers of their loaders."""
    return copy_infos(tmp_path_factory.mktemp("reproducible") / "infos", **WORLD).parent


def command(place: Path, name: str, seed: int = 0, **settings) -> list[str]:
    """Arguments of a base training under a name of its own. The tier's name is the same for all."""
    (place / name).mkdir()
    (place / name / "tiny.yaml").write_text(yaml.safe_dump(tiny_tier(**settings)))
    return [*common(place, name), "--seed", str(seed), "--out", str(place / name / "train.jsonl")]


def common(place: Path, name: str, tier: str = "tiny.yaml") -> list[str]:
    return [
        "--tier",
        str(place / name / tier),
        "--infos",
        str(place / "infos"),
        "--work",
        str(place / name / "w"),
    ]


def trained(place: Path, name: str, **settings) -> Record:
    assert train(command(place, name, **settings)) == 0
    return read_records(place / name / "train.jsonl")[0]


def evaluated(place: Path, name: str, train_record: Path) -> list[Record]:
    """Evaluations of a model with the threads and workers of ``name``."""
    arguments = [*common(place, name), "--suite", str(tiny_checkout() / "two.yaml"), "--train", str(train_record)]
    assert evaluate([*arguments, "--out", str(place / name / "evaluate.two.jsonl")]) == 0
    return read_records(place / name / "evaluate.two.jsonl")


@pytest.fixture(scope="module")
def alone() -> Record:
    """Trained in one thread, without loader workers."""
    return read_records(tiny_checkout() / RUN / "train.jsonl")[0]


@pytest.fixture(scope="module")
def scored() -> list[Record]:
    """Evaluations of that model."""
    return read_records(tiny_checkout() / RUN / "evaluate.two.jsonl")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_loader_workers_change_nothing(place, alone, scored, workers):
    record = trained(place, f"workers{workers}", workers=workers)
    result = compare(alone, record)
    assert result.same and {"curve.1", "curve.2", "curve.3", "provenance.checkpoint_sha256"} <= set(result.equal)
    assert record.provenance["config_sha256"] == alone.provenance["config_sha256"]
    assert (alone.provenance["loader_workers"], record.provenance["loader_workers"]) == (0, workers)
    by_workers = evaluated(place, f"workers{workers}", place / f"workers{workers}" / "train.jsonl")
    for then, now in zip(scored, by_workers, strict=True):
        assert compare(then, now).same and len(now.provenance["predictions_sha256"]) == 64


def test_another_seed_is_another_training(place, alone):
    """Without this, the other tests could not fail."""
    result = compare(alone, trained(place, "other", seed=1))
    assert {"curve.1", "provenance.checkpoint_sha256"} <= {difference.name for difference in result.different}


@pytest.mark.slow  # the import alone takes longer than the training
def test_a_process_of_its_own_with_another_hash_seed_gives_the_same(place, alone):
    words = command(place, "hashed", workers=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "12345"}
    subprocess.run(
        [sys.executable, "-m", "aqr_bench", "train", *words], env=environment, check=True, capture_output=True
    )
    record = read_records(place / "hashed" / "train.jsonl")[0]
    assert compare(alone, record).same and record.provenance["environment"]["PYTHONHASHSEED"] == "12345"
    assert record.provenance["machine"]["torch_threads"] == 1


@pytest.mark.slow  # a second thread spins while it waits
def test_another_thread_count_stays_within_the_stated_tolerance(place, alone, scored):
    try:
        record = trained(place, "threads2", threads=2)
        assert [r.cost["threads"] for r in (alone, record)] == [1, 2]
        apart = [abs(now - then) / then for (_, then), (_, now) in zip(alone.curve, record.curve, strict=True)]
        assert apart[0] <= FIRST_LOSS and max(apart) <= NEXT_LOSSES, apart
        for then, now in zip(scored, evaluated(place, "threads2", tiny_checkout() / RUN / "train.jsonl"), strict=True):
            assert "machine: torch_threads 1 then, 2 now" in compare(then, now).causes
            assert all(abs(then.scores[name] - now.scores[name]) <= SCORES for name in ("mAP", "NDS"))
    finally:
        compat.use_threads(1)


@pytest.mark.slow
def test_the_quick_tier_gives_the_same_with_workers_and_other_hash_seeds(tmp_path):
    """Its model, overrides, augmentation and averaged weights on a small part of its world, sixty iterations long."""
    tier = yaml.safe_load(load_tier("quick").path.read_text())
    tier["world"] |= dict(train_scenes=40, val_scenes=4)
    del tier["pretrain"]
    tier["base"]["iterations"] = 60
    copy_infos(tmp_path / "infos", version=tier["data"]["version"], **tier["world"])
    records = []
    for workers in (0, 2):
        own = tmp_path / str(workers)
        own.mkdir()
        tier["base"]["config"]["train_dataloader.num_workers"] = workers
        (own / "quick.yaml").write_text(yaml.safe_dump(tier))
        words = [*common(tmp_path, own.name, "quick.yaml"), "--seed", "0", "--out", str(own / "train.jsonl")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(workers)}
        subprocess.run([sys.executable, "-m", "aqr_bench", "train", *words], env=environment, check=True)
        records += read_records(own / "train.jsonl")
    result = compare(*records)
    assert result.same and {"curve.60", "provenance.checkpoint_sha256"} <= set(result.equal)
