"""Training by epochs, as the official configs have it: schedules scale, and a resumed run equals an unbroken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from mmdet3d.registry import MODELS
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope

from aqr_bench.data.__main__ import main as write_infos
from aqr_bench.data.dataset import DataSet, load_data
from aqr_bench.engine.config import build_config
from aqr_bench.engine.train import main, run_training
from aqr_bench.engine.weights import trained_checkpoint
from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records
from aqr_bench.study.load import known_tiers, load_study, load_tier
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

R50 = "cmt_voxel0100_r50_800x320_cbgs"
# Few objects, so few classes, so few draws of the balanced sampling.
WORLD = dict(version="v1.0-mini", train_scenes=1, val_scenes=1, frames_per_scene=2, objects_per_frame=3, seed=4)
PIPELINES = ("train_dataloader.dataset.dataset.pipeline", "test_dataloader.dataset.pipeline")
SMALL = {
    # The sparse encoder has to be (spconv has no backward on a CPU), the others are for speed.
    "model.frozen": ["pts_middle_encoder", "pts_backbone", "pts_neck", "img_backbone"],
    "model.pts_backbone.layer_nums": [1, 1],
    "model.pts_bbox_head.num_query": 40,
    "model.pts_bbox_head.transformer.decoder.num_layers": 1,
    "train_dataloader.batch_size": 1,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    f"{PIPELINES[1]}.SensorCondition.sweeps_num": 1,
    **{f"{pipeline}.LoadPoseCorrectedSweeps.sweeps_num": 1 for pipeline in PIPELINES},
    **{f"{pipeline}.ResizeCropFlipImage.data_aug_conf.final_dim": [64, 160] for pipeline in PIPELINES},
    # Half precision needs a GPU.
    "optim_wrapper": {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 1e-4},
        "clip_grad": {"max_norm": 35},
    },
}

# The quick tier's model, made to train by epochs: seconds, and the same loop, hooks and resuming.
QUICK = {
    "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 4, "val_interval": 4},
    "train_dataloader.sampler": {"type": "DefaultSampler", "shuffle": True},
    "train_dataloader.batch_size": 1,
    "param_scheduler": [
        {"type": "CosineAnnealingLR", "begin": 0, "end": 4, "T_max": 4, "by_epoch": True, "convert_to_iter_based": True}
    ],
    "custom_hooks": [{"type": "SeedEpochs", "seed": 0}, {"type": "LossCurve", "every": 50}],
    "default_hooks.checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": True, "max_keep_ckpts": 2},
    "log_processor.by_epoch": True,
}


@HOOKS.register_module(force=True)
class StopInSecondEpoch(Hook):
    """Ends a training as a kill would: after the first iteration of the second epoch."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.epoch == 1:
            raise InterruptedError


def write_tier(path: Path, **changes) -> Path:
    tier = dict(
        name=path.stem,
        summary="a few iterations",
        data=dict(kind="synthetic", version="v1.0-mini", database=True),
        world=WORLD,
        model=R50,
        base=dict(epochs=2, config=SMALL),
        variant=dict(epochs=1, init="base", config=SMALL),
    )
    path.write_text(yaml.safe_dump(tier | changes))
    return path


@pytest.fixture
def nowhere(tmp_path) -> DataSet:
    """A data set that configs can name; nothing reads it."""
    return DataSet(tmp_path, tmp_path, "v1.0-mini", "0")


def built(path: Path, data: DataSet):
    return build_config(load_tier(path), data, 3, data.infos / "work", None, None)


# ---------------------------------------------------------------- schedules


def positions(config) -> list[tuple]:
    return [(s.begin, s.end, s.T_max) for s in config.param_scheduler]


def hook(config, kind: str):
    return next(h for h in config.custom_hooks if h.type == kind)


def test_without_a_length_the_official_schedule_stays(tmp_path, nowhere):
    config = built(write_tier(tmp_path / "official.yaml", base={}), nowhere)
    assert config.train_cfg.max_epochs == 20 and hook(config, "StopObjectSample").after_epoch == 15
    assert positions(config) == [(0, 8, 8), (8, 20, 12), (0, 8, 8), (8, 20, 12)]
    assert hook(config, "SeedEpochs").seed == 3


@pytest.mark.parametrize(
    ("epochs", "wanted", "pasting"),
    [
        (10, [(0, 4, 4), (4, 10, 6)], 7),
        (2, [(0, 1, 1), (1, 2, 1)], 1),
        # Of a single epoch no whole one is left to either half: mmengine makes iterations of the fractions.
        (1, [(0, 0.4, 0.4), (0.4, 1, 0.6)], 0),
    ],
)
def test_epochs_scale_the_schedule(tmp_path, nowhere, epochs, wanted, pasting):
    config = built(write_tier(tmp_path / "few.yaml", base={"epochs": epochs}), nowhere)
    assert config.train_cfg.max_epochs == epochs and hook(config, "StopObjectSample").after_epoch == pasting
    assert [pytest.approx(p) for p in positions(config)] == wanted * 2


@pytest.mark.parametrize(
    ("model", "base", "message"),
    [
        (R50, {"iterations": 5}, f"iterations: 5 iterations are asked for, but {R50} trains by epochs; give epochs"),
        ("cmt_aqr_quick", {"epochs": 5}, "epochs: 5 epochs are asked for, but cmt_aqr_quick trains by iterations"),
        (R50, {"epochs": 5, "iterations": 5}, "base.iterations.epochs: not allowed here"),
    ],
)
def test_the_wrong_unit_is_named(tmp_path, nowhere, model, base, message):
    with pytest.raises(UserError, match=message):
        built(write_tier(tmp_path / "wrong.yaml", model=model, base=base), nowhere)


@pytest.mark.parametrize("name", [n for n in known_tiers() if load_tier(n).kind == "nuscenes"])
def test_the_tiers_on_real_data_build_their_models(name, nowhere):
    """The base model, AQR on top of it, and the variants of the study that the tier runs by default."""
    tier = load_tier(name)
    wanted = [(None, None), *((load_study(s), v) for s in {*tier.studies, "bias_site"} for v in load_study(s).variants)]
    for study, variant in wanted:
        config = build_config(tier, nowhere, 0, nowhere.infos / "work", study, variant)
        init_default_scope("mmdet3d")
        with torch.device("meta"):
            model = MODELS.build(config.model)
        has_bias = any(n.startswith("pts_bbox_head.aqr.") for n, _ in model.named_parameters())
        assert not has_bias, "constant weights and a fixed scale are no parameters"
        assert (model.pts_bbox_head.aqr is None) == (study is None or study.name != "bias_site" or variant == "none")
    assert tier.database and tier.data_root == Path("data/nuscenes")


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("epochs")
    write_world(WorldSpec.from_dict(WORLD), folder / "world")
    tier = write_tier(folder / "tiny.yaml")
    command = ["--tier", str(tier), "--root", str(folder / "world"), "--out", str(folder), "--quiet"]
    assert write_infos(command) == 0 and not (folder / "dbinfos_train.pkl").exists()
    summary = json.loads((folder / "data.json").read_text())
    assert write_infos([*command, "--database-only"]) == 0 and (folder / "dbinfos_train.pkl").is_file()
    with_database = json.loads((folder / "data.json").read_text())
    assert with_database.pop("database")["objects"] and with_database == summary
    return folder


@pytest.mark.parametrize("model", ["cmt_aqr_quick", pytest.param(R50, marks=pytest.mark.slow)])
def test_a_run_resumed_after_an_epoch_equals_an_unbroken_one(place, model):
    config = SMALL if model == R50 else QUICK
    file = write_tier(place / f"{model}.yaml", model=model, base={"epochs": 2, "config": config})
    out, work = place / model / "train.jsonl", place / model / "work"
    command = ["--tier", str(file), "--infos", str(place), "--seed", "0", "--out", str(out)]
    assert main([*command, "--work", str(work)]) == 0
    record = read_records(out)[0]
    assert record.ok, record.reason
    # The loss of all iterations is one point: an average over both epochs.
    assert [at for at, _ in record.curve] == [record.cost["iterations"]] and record.cost["iterations"] >= 4
    unbroken = torch.load(trained_checkpoint(out), weights_only=True)["state_dict"]

    tier, data, again = load_tier(file), load_data(place), place / model / "again"
    config = build_config(tier, data, 0, again, None, None)
    config.custom_hooks.append(dict(type="StopInSecondEpoch", priority="LOWEST"))
    with pytest.raises(InterruptedError):
        run_training(config, tier)
    assert (again / "epoch_1.pth").is_file() and not (again / "final.pth").exists()
    result = run_training(build_config(tier, data, 0, again, None, None), tier)
    path, facts, curve = result.checkpoint, result.cost, result.curve
    resumed = torch.load(path, weights_only=True)["state_dict"]
    assert facts["iterations"] == record.cost["iterations"] and json.loads(json.dumps(curve)) == list(record.curve)
    assert list(resumed) == list(unbroken)
    for name, value in unbroken.items():
        assert torch.equal(resumed[name], value), name
    first = torch.load(again / "epoch_1.pth", weights_only=True)["state_dict"]
    assert any(not torch.equal(first[name], value) for name, value in unbroken.items())
