"""Published files instead of training: what is taken from them, what the record says, what a missing one is told."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import torch
import yaml
from worlds import copy_infos

from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.cli.records import main as check_records
from aqr_bench.cmt.published_weights import model_on_meta
from aqr_bench.cmt.sparse_kernels import mmcv_from_spconv2
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import base_config
from aqr_bench.engine.evaluate import not_applicable_reason
from aqr_bench.engine.initial_weights import initial_checkpoint, load_initial_weights
from aqr_bench.engine.train import main as train
from aqr_bench.engine.weights import trained_checkpoint
from aqr_bench.errors import UserError
from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_study, load_tier, resolve_condition
from aqr_bench.study.requirements import require_inputs
from aqr_bench.study.runs import base_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Schedule

LIDAR, CAMERA = "cmt_lidar_voxel0075_cbgs", "cmt_camera_vov_1600x640_cbgs"
R50 = "cmt_voxel0100_r50_800x320_cbgs"
WORLD = dict(version="v1.0-mini", train_scenes=1, val_scenes=1, frames_per_scene=2, seed=4)


def official_state(model: str) -> collections.OrderedDict:
    """Made-up weights under the official names, sparse kernels as mmcv keeps them."""
    generator = torch.Generator().manual_seed(1)
    state = collections.OrderedDict()
    for name, tensor in model_on_meta(model).state_dict().items():
        value = torch.ones(tensor.shape, dtype=tensor.dtype)
        if tensor.is_floating_point() and "running_var" not in name:
            value = 0.02 * torch.randn(tensor.shape, generator=generator)
        state[name] = mmcv_from_spconv2(value) if tensor.dim() == 5 else value
    return state


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    copy_infos(folder, **WORLD)
    torch.save({"state_dict": official_state(LIDAR), "meta": {"epoch": 20}}, folder / "published.pth")
    write_tier(folder / "given.yaml", models={LIDAR: {"checkpoint": str(folder / "published.pth")}})
    return folder


def write_tier(path: Path, **changes) -> Path:
    tier = dict(
        name=path.stem,
        summary="published weights",
        data=dict(kind="synthetic", version="v1.0-mini"),
        world=WORLD,
        model=LIDAR,
        base={},
        variant=dict(epochs=1, init="base"),
    )
    path.write_text(yaml.safe_dump(tier | changes))
    return path


def write_study(path: Path, **variants) -> Path:
    study = yaml.safe_load(load_study("smoke").path.read_text()) | {"name": path.stem, "baseline": next(iter(variants))}
    study["variants"] = {name: {"summary": name, "config": {}, **v} for name, v in variants.items()}
    path.write_text(yaml.safe_dump(study))
    return path


def run(place: Path, tier: str, name: str, *more: str) -> Path:
    out = place / name / "train.jsonl"
    command = ["--tier", str(place / tier), "--infos", str(place), "--seed", "0", "--out", str(out)]
    assert train([*command, "--work", str(place / "work"), *more]) == 0
    return out


@pytest.fixture(scope="module")
def taken(place) -> Path:
    return run(place, "given.yaml", "base")


def test_a_published_checkpoint_stands_in_for_training(place, taken):
    record = read_records(taken)[0]
    assert record.ok and record.cost["iterations"] == 0 and not record.curve
    start = {"kind": "published", "file": "published.pth", "sha256": sha256_file(place / "published.pth"), "doubts": []}
    assert record.extra == {"trained": False, "start": start}
    weights = torch.load(trained_checkpoint(taken), weights_only=True)["state_dict"]
    official = official_state(LIDAR)
    assert list(weights) == list(official)
    for name, value in official.items():
        assert torch.equal(mmcv_from_spconv2(weights[name]) if value.dim() == 5 else weights[name], value), name


MOME = ["lidar_drop", "view_drop", "limited_fov@2", "lens_occlusion_procedural", "extrinsic_noise@1"]


@pytest.mark.parametrize(
    ("model", "concerned"),
    [
        (LIDAR, {"clean", "no_lidar", "lidar_drop", "limited_fov@2"}),
        (CAMERA, {"clean", "no_cameras", "view_drop", "lens_occlusion_procedural", "extrinsic_noise@1"}),
        (R50, {"clean", "no_lidar", "no_cameras", *MOME}),
    ],
)
def test_which_conditions_concern_a_model(place, model, concerned):
    config = base_config(load_tier("paper"), load_data(place), model)
    names = ["clean", "no_lidar", "no_cameras", *MOME]
    reasons = {name: not_applicable_reason(config, resolve_condition(name)) for name in names}
    assert {name for name, reason in reasons.items() if reason is None} == concerned
    assert all("does not use" in reason for reason in reasons.values() if reason)


@pytest.mark.slow
def test_a_model_without_cameras_is_not_asked_about_cameras(place, taken, capsys):
    out = place / "base" / "evaluate.missing_sensors.jsonl"
    command = ["--tier", str(place / "given.yaml"), "--infos", str(place), "--suite", "missing_sensors"]
    assert evaluate([*command, "--train", str(taken), "--out", str(out), "--work", str(place / "work")]) == 0
    records = read_records(out)
    assert [r.status for r in records] == ["ok", "ok", "not_applicable"]
    assert "does not use cameras" in records[2].reason and not records[2].scores and not records[2].failed
    # Without its only sensor it is evaluated: that says what it does then.
    assert records[1].provenance["input_sha256"] != records[0].provenance["input_sha256"]
    capsys.readouterr()
    assert check_records(["check", str(out)]) == 0
    assert capsys.readouterr().out == "2 of 2 records ok, 1 not applicable\n"


def test_a_missing_checkpoint_is_a_failed_record_that_says_where_to_get_it(place):
    write_tier(place / "gone.yaml", models={LIDAR: {"checkpoint": "data/gone.pth"}})
    record = read_records(run(place, "gone.yaml", "gone"))[0]
    assert record.status == "failed" and record.provenance.get("checkpoint_sha256") is None
    for part in ("gone.yaml", f"models.{LIDAR}.checkpoint", "data/gone.pth", "junjie18/CMT"):
        assert part in record.reason


def test_a_checkpoint_of_another_model_is_a_failed_record(place):
    torch.save({"state_dict": {"img_backbone.x": torch.zeros(2)}}, place / "other.pth")
    write_tier(place / "wrong.yaml", models={LIDAR: {"checkpoint": str(place / "other.pth")}})
    record = read_records(run(place, "wrong.yaml", "wrong"))[0]
    assert record.status == "failed" and f"does not fit {LIDAR}" in record.reason


def test_without_any_checkpoint_nothing_runs(place, tmp_path):
    study = load_study(
        write_study(tmp_path / "two.yaml", **{m: {"model": m, "init": "published"} for m in (LIDAR, CAMERA)})
    )
    models = {LIDAR: {"checkpoint": "data/l.pth"}, CAMERA: {"checkpoint": "data/c.pth"}}
    with pytest.raises(UserError, match=r"none of the published checkpoints is there \(data/c.pth, data/l.pth\).*CMT"):
        require_inputs(load_tier(write_tier(tmp_path / "none.yaml", models=models)), [study])
    models[LIDAR]["checkpoint"] = str(place / "published.pth")
    require_inputs(load_tier(write_tier(tmp_path / "one.yaml", models=models)), [study])
    models["cmt_lidr"] = models[LIDAR]
    with pytest.raises(UserError, match="models: no 'cmt_lidr' in aqr_bench/cmt/configs; did you mean 'cmt_lidar"):
        require_inputs(load_tier(write_tier(tmp_path / "typo.yaml", models=models)), [study])


def test_only_the_image_backbone_is_taken_from_a_backbone_file(tmp_path):
    path, weight = tmp_path / "detector.pth", torch.rand(3)
    schedule = Schedule(None, backbone=path, model=CAMERA)
    tier = load_tier("paper_train")
    with pytest.raises(RuntimeError, match=rf"paper_train.yaml: models.{CAMERA}.backbone: no file {path}"):
        initial_checkpoint(tier, schedule)
    torch.save({"state_dict": {"img_backbone.stem.weight": weight, "bbox_head.weight": torch.zeros(1)}}, path)
    result, facts = load_initial_weights(initial_checkpoint(tier, schedule), schedule, CAMERA, tmp_path, ())
    state = torch.load(result, weights_only=True)["state_dict"]
    assert list(state) == ["img_backbone.stem.weight"] and torch.equal(state["img_backbone.stem.weight"], weight)
    assert facts["kind"] == "backbone" and facts["sha256"] == sha256_file(path)
    torch.save({"state_dict": {"backbone.weight": weight}}, path)
    with pytest.raises(RuntimeError, match=r"no weights of an image backbone \('img_backbone\.\*'\)"):
        load_initial_weights(path, schedule, CAMERA, tmp_path, ())


def test_a_new_decoder_starts_on_the_branches_of_a_published_checkpoint(place, tmp_path):
    tier = load_tier(write_tier(tmp_path / "new.yaml", models={LIDAR: {"branches": str(place / "published.pth")}}))
    result, facts = load_initial_weights(initial_checkpoint(tier, tier.base), tier.base, LIDAR, tmp_path, ())
    state, official = torch.load(result, weights_only=True)["state_dict"], official_state(LIDAR)
    assert list(state) == [name for name in official if not name.startswith("pts_bbox_head.")]
    assert all(torch.equal(state[name], official[name]) for name in state if name.startswith("pts_backbone."))
    assert facts["kind"] == "branches" and facts["sha256"] == sha256_file(place / "published.pth")
    with pytest.raises(UserError, match="models"):
        write_tier(tmp_path / "two.yaml", models={LIDAR: {"branches": "a.pth", "checkpoint": "b.pth"}})
        load_tier(tmp_path / "two.yaml")


# ---------------------------------------------------------------- schedules


def test_where_a_variant_with_a_model_of_its_own_starts(tmp_path):
    path = tmp_path / "own.yaml"
    study = load_study(write_study(path, a={"model": CAMERA, "init": "published"}, b={"init": "published"}, c={}))
    given = {CAMERA: {"checkpoint": "c.pth"}, LIDAR: {"backbone": "l.pth"}}
    changes = {"base": {"epochs": 3, "config": {"train_dataloader.batch_size": 1}}}
    tier = load_tier(write_tier(tmp_path / "mixed.yaml", models=given, **changes))
    a, b = (variant_schedule(tier, study, v) for v in "ab")
    assert (a.init, a.iterations, a.model, a.checkpoint, a.config) == ("published", 0, CAMERA, Path("c.pth"), {})
    # No checkpoint of the tier's own model is named: it is trained, like a base model.
    assert (b.init, b.iterations, b.epochs, b.backbone) == ("scratch", None, 3, Path("l.pth"))
    assert b.config == changes["base"]["config"]
    assert [r.folder for r in base_runs(tier, [study])] == ["mixed/base/seed0"]  # of c
    with pytest.raises(UserError, match="base: has a length, but models"):
        load_tier(write_tier(tmp_path / "both.yaml", models={LIDAR: {"checkpoint": "x"}}, **changes))
    wrong = load_study(write_study(path, a={"model": CAMERA, "init": "base"}))
    with pytest.raises(UserError, match="'a' has another model than the tier: init must be 'published' or 'scratch'"):
        variant_schedule(tier, wrong, "a")


def test_the_paper_evaluates_or_trains_the_four_models():
    study = load_study("paper_cmt")
    for name, init in (("paper", "published"), ("paper_train", "scratch")):
        tier = load_tier(name)
        result = [variant_schedule(tier, study, v) for v in study.variants]
        assert tier.studies[0] == "paper_cmt" and [s.init for s in result] == [init] * 4
        assert len({s.model for s in result}) == 4 and base_runs(tier, [study]) == []
        assert all((s.iterations, s.epochs, s.config) == (0 if init == "published" else None, None, {}) for s in result)


def test_the_paper_evaluates_mome_beside_the_cmt_that_it_is_built_on():
    study, tier = load_study("paper_mome"), load_tier("paper")
    result = {name: variant_schedule(tier, study, name) for name in study.variants}
    assert tier.studies == ("paper_cmt", "paper_mome") and load_tier("paper_train").studies == ("paper_cmt",)
    assert {s.model for s in result.values()} == {"mome", "cmt_voxel0075_vov_1600x640_cbgs"}
    assert all((s.init, s.iterations) == ("published", 0) for s in result.values())
