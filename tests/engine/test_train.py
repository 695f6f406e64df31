"""Training jobs: a warm start really starts warm, a resumed run equals an unbroken one, failures leave records."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import copy_infos

from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import build_config
from aqr_bench.engine.tracking import VARIABLE
from aqr_bench.engine.train import main, run_training
from aqr_bench.engine.weights import load_weights, trained_checkpoint
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, not_started_reason, read_records, write_records
from aqr_bench.records.store import separate_work
from aqr_bench.study.layout import FEATURES
from aqr_bench.study.load import load_study, load_tier

WORLD = dict(version="v1.0-mini", train_scenes=2, val_scenes=1, frames_per_scene=2)


@HOOKS.register_module(force=True)
class StopAfterTwo(Hook):
    """Ends a training as a kill would: between two iterations."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 2:
            raise InterruptedError


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_tier(folder / "tiny.yaml")
    return copy_infos(folder, **WORLD)


def write_tier(path: Path, iterations: int = 3, **config) -> Path:
    overrides = {"train_dataloader.batch_size": 2, "default_hooks.checkpoint.interval": 2, **config}
    still = {"optim_wrapper.optimizer.lr": 0.0, "param_scheduler": []}
    tier = dict(
        name=path.stem,
        summary="a few iterations",
        data=dict(kind="synthetic", version="v1.0-mini"),
        world=WORLD,
        model="cmt_aqr_quick",
        base=dict(iterations=iterations, config=overrides),
        variant=dict(iterations=1, init="base", config=overrides | still),
    )
    path.write_text(yaml.safe_dump(tier))
    return path


def train(place: Path, name: str, *more: str, tier: str = "tiny.yaml") -> Path:
    out = place / name / "train.jsonl"
    command = ["--tier", str(place / tier), "--infos", str(place), "--seed", "0", "--out", str(out)]
    assert main([*command, "--work", str(place / name / "work"), *more]) == 0
    return out


def weights(record: Path) -> dict[str, torch.Tensor]:
    return torch.load(trained_checkpoint(record), weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def base(place) -> Path:
    return train(place, "base")


def test_a_variant_starts_from_its_base(place, base):
    """With a learning rate of 0 what comes out is what went in, in the model and in its average."""
    variant = train(place, "cross", "--study", "smoke", "--variant", "cross", "--base", str(base))
    before, after = weights(base), weights(variant)
    new = set(after) - set(before)
    assert new and all(name.startswith("pts_bbox_head.aqr.") for name in new)
    parameters = [n for n in before if "running_" not in n and "num_batches" not in n]
    assert len(parameters) > 100
    for name in parameters:
        assert torch.equal(before[name], after[name]), name


def test_no_iterations_keep_the_base_as_it_is(place, base, tmp_path):
    study = yaml.safe_load(load_study("smoke").path.read_text()) | {"name": "still", "iterations": 0}
    (tmp_path / "still.yaml").write_text(yaml.safe_dump(study))
    command = ["--study", str(tmp_path / "still.yaml"), "--variant", "cross", "--base", str(base)]
    record = train(place, "still", *command)
    before, after = weights(base), weights(record)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert set(after) - set(before) and read_records(record)[0].cost["iterations"] == 0


def test_the_same_work_is_done_once(place, base):
    """Under another name, in the same work folder: taken over, bit by bit, and the record says from whom."""
    once = train(place, "once", "--study", "smoke", "--variant", "none", "--base", str(base))
    study = yaml.safe_load(load_study("smoke").path.read_text()) | {"name": "again"}
    (place / "again.yaml").write_text(yaml.safe_dump(study))
    command = ["--tier", str(place / "tiny.yaml"), "--infos", str(place), "--seed", "0", "--base", str(base)]
    command += ["--study", str(place / "again.yaml"), "--variant", "none", "--work", str(place / "once" / "work")]
    assert main([*command, "--out", str(place / "again" / "train.jsonl")]) == 0
    first, second = read_records(once)[0], read_records(place / "again" / "train.jsonl")[0]
    assert second.extra == {"same_as": "smoke/none/seed0"} and "same_as" not in first.extra
    assert second.provenance["checkpoint_sha256"] == first.provenance["checkpoint_sha256"]
    assert second.cost == first.cost and second.curve == first.curve
    assert trained_checkpoint(place / "again" / "train.jsonl").is_file()
    # Another seed is other work.
    command[5] = "1"
    assert main([*command, "--out", str(place / "other" / "train.jsonl")]) == 0
    assert "same_as" not in read_records(place / "other" / "train.jsonl")[0].extra


def test_a_base_starts_from_pretrained_branches(place):
    tier = yaml.safe_load((place / "tiny.yaml").read_text()) | {"name": "branches"}
    parts = {"lidar": ["pts_backbone", "pts_neck"], "cameras": ["img_backbone", "pts_bbox_head.image_points"]}
    tier["pretrain"] = {
        name: dict(iterations=2, parts=part, config=tier["base"]["config"] | {"model.features_only": name})
        for name, part in parts.items()
    }
    tier["base"]["config"] = tier["variant"]["config"]  # a learning rate of 0
    (place / "branches.yaml").write_text(yaml.safe_dump(tier))
    records = [train(place, f"pre_{name}", "--pretrain", name, tier="branches.yaml") for name in parts]
    remaining = {}
    for record, part in zip(records, parts.values(), strict=True):
        results = weights(record)
        assert results and all(name.startswith(tuple(part)) for name in results)
        remaining |= results
    assert read_records(records[0])[0].extra == {"pretrain": "lidar"}
    after = weights(train(place, "on_top", "--features", *map(str, records), tier="branches.yaml"))
    for name, value in remaining.items():
        if "running_" not in name and "num_batches" not in name:
            assert torch.equal(after[name], value), name
    with pytest.raises(UserError, match=r"starts from the pretrained branches .* give --features"):
        train(place, "without", tier="branches.yaml")
    with pytest.raises(UserError, match="no pretrain 'lidr'; did you mean 'lidar'"):
        train(place, "typo", "--pretrain", "lidr", tier="branches.yaml")


@pytest.mark.parametrize("stored", [True, False])
def test_features_are_stored_below_the_work_folder_of_a_tier_that_says_so(place, monkeypatch, stored):
    """For the detectors that can: what they do with it is tested with them."""

    class Started(BaseException):
        pass

    class Run:
        def __init__(self, model):
            self.model, self.rank = model, 0

        def train(self):
            raise Started(getattr(self.model, "feature_cache", "none"))

    name = f"stored_{stored}".lower()
    tier = yaml.safe_load((place / "tiny.yaml").read_text()) | {"name": name, "cache_features": stored}
    (place / f"{name}.yaml").write_text(yaml.safe_dump(tier))
    detector, other = torch.nn.Module(), torch.nn.Module()
    detector.feature_cache = None
    for model in (detector, other):
        monkeypatch.setattr("mmengine.runner.Runner.from_cfg", lambda _, model=model: Run(model))
        with pytest.raises(Started) as started:
            train(place, name, tier=f"{name}.yaml")
        if model is detector and stored:
            assert started.value.args[0].folder == place / name / "work" / FEATURES
        else:
            assert started.value.args[0] == (None if model is detector else "none")


def test_a_resumed_and_tracked_run_equals_an_unbroken_one(place, base, monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorboard")
    tier, data = load_tier(place / "tiny.yaml"), load_data(place)
    work = place / "resumed"
    config = build_config(tier, data, 0, work, None, None)
    config.default_hooks.logger.interval = 1
    resumed_config = copy.deepcopy(config)
    config.custom_hooks.append(dict(type="StopAfterTwo", priority="LOWEST"))  # after the checkpoint of iteration 2
    with pytest.raises(InterruptedError):
        run_training(config, tier, None)
    assert (work / "iter_2.pth").is_file() and not (work / "final.pth").exists()
    result = run_training(resumed_config, tier, None)
    path, facts = result.checkpoint, result.cost
    assert facts["iterations"] == 3
    events = EventAccumulator(str(work / "tensorboard")).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3] and all(np.isfinite(event.value) for event in losses)
    resumed, unbroken = torch.load(path, weights_only=True)["state_dict"], weights(base)
    for name, value in unbroken.items():
        assert torch.equal(resumed[name], value), name


def test_a_damaged_checkpoint_is_not_resumed_from(place, base, capsys):
    """The last checkpoint is cut short, the one before it is whole: the result is the unbroken run's all the same."""
    tier, data, work = load_tier(place / "tiny.yaml"), load_data(place), place / "damaged"
    config = build_config(tier, data, 0, work, None, None)
    config.default_hooks.checkpoint.interval = 1
    config.custom_hooks.append(dict(type="StopAfterTwo", priority="LOWEST"))
    with pytest.raises(InterruptedError):
        run_training(config, tier, None)
    last = work / "iter_2.pth"
    last.write_bytes(last.read_bytes()[:100_000])
    path = run_training(build_config(tier, data, 0, work, None, None), tier, None).checkpoint
    assert "iter_2.pth is damaged" in (output := capsys.readouterr().err) and "going on from iter_1.pth" in output
    results, unbroken = torch.load(path, weights_only=True)["state_dict"], weights(base)
    assert all(torch.equal(results[name], value) for name, value in unbroken.items())


def test_a_damaged_identity_starts_afresh(tmp_path):
    separate_work(tmp_path, tmp_path / "work", ["a"])
    (tmp_path / "work" / "iter_2.pth").touch()
    separate_work(tmp_path, tmp_path / "work", ["a"])
    assert (tmp_path / "work" / "iter_2.pth").is_file()
    (tmp_path / "work" / "identity.json").write_text('["a')
    separate_work(tmp_path, tmp_path / "work", ["a"])
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["identity.json"]


def test_a_full_disk_is_no_failed_training(place, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device", "final.pth")

    monkeypatch.setattr("aqr_bench.engine.train.run_training", full)
    with pytest.raises(UserError, match=r"final\.pth: no space is left"):
        train(place, "full")
    assert not (place / "full" / "train.jsonl").exists()


def test_a_diverging_run_leaves_a_record(place, capsys):
    write_tier(place / "hot.yaml", 6, **{"optim_wrapper.optimizer.lr": 1e20, "param_scheduler": []})
    record = read_records(train(place, "hot", tier="hot.yaml"))[0]
    assert record.status == "diverged" and "loss is nan" in record.reason
    with pytest.raises(RuntimeError, match="base training failed"):
        trained_checkpoint(place / "hot" / "train.jsonl")


def test_a_training_after_a_failed_one_is_not_started(place, tmp_path):
    """Nor anything loaded that it would need; the evaluation after it names the first failure, once."""
    failed = Record("train", "diverged", "tiny", seed=0, reason="DivergedError: loss is nan", provenance={})
    write_records(tmp_path / "base.jsonl", [failed])
    words = ["train", "--tier", str(place / "tiny.yaml"), "--infos", str(place), "--seed", "0", "--study", "smoke"]
    words += ["--variant", "cross", "--base", str(tmp_path / "base.jsonl"), "--out", str(tmp_path / "train.jsonl")]
    words += ["--work", str(tmp_path / "work")]
    code = f"import sys; from aqr_bench.cli.main import main; print(main({words}), 'mmdet3d' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr
    (record,) = read_records(tmp_path / "train.jsonl")
    assert (record.status, record.study, record.variant) == ("failed", "smoke", "cross")
    assert record.reason == "not started: base training failed: DivergedError: loss is nan"
    assert not_started_reason("training", record) == record.reason and not (tmp_path / "work").exists()


def test_the_record_says_where_it_came_from(base):
    record = read_records(base)[0]
    source = record.provenance
    assert record.ok and record.cost["iterations"] == 3 and record.curve[-1][0] == 3
    assert source["checkpoint"].endswith("final.pth") and not source["checkpoint"].startswith("/")
    assert source["packages"]["torch"] and source["machine"]["cores"] and source["seed"] == 0


def test_a_changed_or_missing_checkpoint_is_refused(place, base, tmp_path):
    line = json.loads(base.read_text())
    line["provenance"]["checkpoint"] = str(tmp_path / "gone.pth")
    (tmp_path / "train.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RuntimeError, match="checkpoint is missing"):
        trained_checkpoint(tmp_path / "train.jsonl")
    (tmp_path / "gone.pth").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="SHA-256 differs"):
        trained_checkpoint(tmp_path / "train.jsonl")


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, tmp_path / "c.pth")
    with pytest.raises(RuntimeError, match=r"does not fit.*unexpected \['other.weight'\]"):
        load_weights(torch.nn.Linear(1, 1), tmp_path / "c.pth")


def test_checkpoints_of_another_experiment_are_not_gone_on_from(tmp_path):
    work = tmp_path / "work"
    separate_work(tmp_path, work, ["a", "b"])
    (work / "iter_2.pth").write_text("half-trained")
    separate_work(tmp_path, work, ["a", "b"])
    assert (work / "iter_2.pth").exists()
    separate_work(tmp_path, work, ["a", "c"])
    assert not (work / "iter_2.pth").exists()
    separate_work(tmp_path, work, ["a", "b"])
    assert (work / "iter_2.pth").read_text() == "half-trained"


def test_a_misspelled_override_names_the_nearest_key(place):
    from aqr_bench.errors import UserError

    write_tier(place / "typo.yaml", 3, **{"optim_wrapper.optimiser.lr": 1.0})
    tier = load_tier(place / "typo.yaml")
    with pytest.raises(UserError, match=r"typo\.yaml.*'optimiser'.*did you mean 'optimizer'"):
        build_config(tier, load_data(place), 0, place / "x", None, None)
    assert load_study("smoke").baseline == "none"
