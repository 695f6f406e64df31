"""A detector that is not ours (mmdet3d's CenterPoint) goes the same way: training, conditions, cost, pictures."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml
from worlds import as_mmdet3d_writes, copy_infos, linked_copy

from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.cli.main import main as aqr_bench
from aqr_bench.cli.pictures import main as pictures
from aqr_bench.compat import load_safe_pickle
from aqr_bench.cost.measure import main as measure
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.train import main as train
from aqr_bench.records.record import read_records
from aqr_bench.study.load import load_study, load_tier

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "centerpoint"
WORLD = dict(seed=4, train_scenes=8, val_scenes=2, frames_per_scene=2, lidar_sweeps=1)
SUITE = """\
name: three
summary: One condition that concerns a LiDAR detector, one that takes its sensor away, one that does not concern it.
conditions:
  - {name: clean}
  - {name: no_lidar_absent}
  - {name: beams, corruption: multicorrupt.beamsreducing, severity: 3}
  - {name: no_cameras}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny world with its infos, a tier of two iterations, the example's study, and a suite."""
    folder = tmp_path_factory.mktemp("second")
    copy_infos(folder / "infos", **WORLD)
    tier = yaml.safe_load((EXAMPLE / "centerpoint.yaml").read_text())
    tier |= {"name": "tiny", "data": {"kind": "synthetic", "version": "v1.0-mini"}, "world": WORLD}
    tier |= {"model": str(EXAMPLE / tier["model"]), "base": {"iterations": 2}, "evaluate": {"batch_size": 2}}
    tier["measure"] = {"batch_size": 1, "warmup": 1, "rounds": 2, "batch_sizes": [1], "train_rounds": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tier))
    (folder / "three.yaml").write_text(SUITE)
    study = yaml.safe_load((EXAMPLE / "lidar_damage.yaml").read_text()) | {"conditions": "three.yaml"}
    (folder / "lidar_damage.yaml").write_text(yaml.safe_dump(study))
    return folder


@pytest.fixture(scope="module")
def trained(place) -> Path:
    arguments = ["--tier", str(place / "tiny.yaml"), "--infos", str(place / "infos"), "--seed", "0"]
    out = place / "base" / "seed0" / "train.jsonl"
    assert train([*arguments, "--out", str(out), "--work", str(place / "work")]) == 0
    return out


def test_it_trains_and_its_files_are_part_of_the_record(trained):
    (record,) = read_records(trained)
    assert record.ok, record.reason
    assert record.cost["iterations"] == 2 and record.cost["parameters"] > 100_000
    assert len(record.curve) == 1 and record.curve[0][1] > 0


def test_it_is_evaluated_under_conditions(place, trained):
    out = place / "base" / "seed0" / "evaluate.three.jsonl"
    arguments = ["--tier", str(place / "tiny.yaml"), "--infos", str(place / "infos"), "--train", str(trained)]
    assert (
        evaluate([*arguments, "--suite", str(place / "three.yaml"), "--work", str(place / "work"), "--out", str(out)])
        == 0
    )
    result = {record.condition: record for record in read_records(out)}
    assert {name: record.status for name, record in result.items()} == {
        "clean": "ok",
        "no_lidar_absent": "ok",
        "beams": "ok",
        "no_cameras": "not_applicable",
    }
    assert "does not use cameras" in result["no_cameras"].reason
    assert len({record.provenance["code_sha256"] for record in result.values()}) == 1
    seen = {name: record.extra["inputs"] for name, record in result.items() if record.ok}
    assert seen["no_lidar_absent"]["points"] == 0 < seen["beams"]["points"] < seen["clean"]["points"]
    assert "router" not in result["clean"].extra

    drawn = place / "pictures"
    more = ["--evaluation", str(out), "--work", str(place / "work"), "--out", str(drawn)]
    assert pictures([*arguments, "--suite", str(place / "three.yaml"), *more]) == 0
    assert (drawn / "clean.best.png").stat().st_size > 20_000


def test_a_variant_is_one_yaml(place, trained):
    study = place / "lidar_damage.yaml"
    arguments = ["--tier", str(place / "tiny.yaml"), "--infos", str(place / "infos"), "--seed", "0"]
    arguments += ["--study", str(study), "--variant", "damaged", "--base", str(trained)]
    out = place / "damaged.jsonl"
    short = yaml.safe_load((place / "tiny.yaml").read_text())
    short["variant"]["iterations"] = 1
    (place / "tiny.yaml").write_text(yaml.safe_dump(short))
    assert train([*arguments, "--out", str(out), "--work", str(place / "work")]) == 0
    (record,) = read_records(out)
    assert record.ok and record.variant == "damaged", record.reason


def test_its_cost_is_measured_by_stage(place):
    arguments = ["--tier", str(place / "tiny.yaml"), "--infos", str(place / "infos"), "--variant", "clean"]
    arguments += ["--study", str(place / "lidar_damage.yaml"), "--parts", "stages", "latency", "--out"]
    assert measure([*arguments, str(place / "measure.jsonl")]) == 0
    (record,) = read_records(place / "measure.jsonl")
    assert record.ok, record.reason
    stages = record.cost["stages"]["median_ms"]
    assert {"voxelise", "lidar_backbone", "head", "decode"} <= set(stages) and "router" not in stages
    assert record.cost["without_voxelisation"]["status"] == "not_applicable"


def test_without_a_tier_a_config_and_a_checkpoint_do(place, trained, capsys):
    import torch

    checkpoint = trained.parent / read_records(trained)[0].provenance["checkpoint"]
    # As mmengine writes it: with the state of the training beside the weights.
    full = torch.load(checkpoint, weights_only=True) | {"optimizer": {"state": {}}, "message_hub": {}}
    torch.save(full, place / "epoch_1.pth")
    arguments = ["evaluate", "--config", str(EXAMPLE / "centerpoint_pillar.py"), "--infos", str(place / "infos")]
    arguments += [
        "--suite",
        str(place / "three.yaml"),
        "--work",
        str(place / "bare"),
        "--out",
        str(place / "bare.jsonl"),
    ]
    assert aqr_bench([*arguments, "--checkpoint", str(place / "epoch_1.pth"), "--batch-size", "2"]) == 0
    bare = {record.condition: record for record in read_records(place / "bare.jsonl")}
    of_tier = {record.condition: record for record in read_records(trained.parent / "evaluate.three.jsonl")}
    assert bare["clean"].tier == "centerpoint_pillar" and bare["clean"].study is None
    for name in ("clean", "beams"):
        assert bare[name].scores["mAP"] == of_tier[name].scores["mAP"]
        assert bare[name].provenance["input_sha256"] == of_tier[name].provenance["input_sha256"]

    assert aqr_bench(arguments) == 2
    assert "--checkpoint is missing" in capsys.readouterr().err
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, place / "other.pth")
    assert aqr_bench([*arguments, "--checkpoint", str(place / "other.pth")]) == 2
    assert "does not fit" in capsys.readouterr().err


CUSTOM = '''"""A custom detector class."""

from mmdet3d.models.detectors import CenterPoint
from mmdet3d.registry import MODELS


@MODELS.register_module()
class QuietPoint(CenterPoint):
    """CenterPoint that believes half of what it sees."""

    def predict(self, *args, **kwargs):
        samples = super().predict(*args, **kwargs)
        for sample in samples:
            sample.pred_instances_3d.scores_3d = sample.pred_instances_3d.scores_3d / 2
        return samples
'''


def test_a_class_of_ones_own_lies_beside_its_config(place, trained):
    folder = place / "own"
    folder.mkdir()
    (folder / "quiet_point.py").write_text(CUSTOM)
    (folder / "config.py").write_text(
        f'_base_ = ["{EXAMPLE / "centerpoint_pillar.py"}"]\n'
        'custom_imports = dict(imports=["aqr_bench.cmt", "aqr_bench.cmt.preprocessor", "aqr_bench.data.conditions", '
        '"quiet_point"], allow_failed_imports=False)\nmodel = dict(type="QuietPoint")\n'
    )
    checkpoint = trained.parent / read_records(trained)[0].provenance["checkpoint"]
    infos = load_data(place / "infos")
    root = linked_copy(infos.root, folder / "root")
    as_written = as_mmdet3d_writes(load_safe_pickle(infos.infos / "infos_val.pkl"))
    (root / "nuscenes_infos_val.pkl").write_bytes(pickle.dumps(as_written))
    (folder / "counts.py").write_text("def counts(d, a, s): return {'objects': len(a)}\n")
    (place / "one.yaml").write_text("name: one\nsummary: x\nconditions:\n  - {name: clean}\n")
    arguments = ["evaluate", "--config", str(folder / "config.py"), "--checkpoint", str(checkpoint)]
    arguments += ["--infos", str(root / "nuscenes_infos_val.pkl"), "--metrics", f"{folder / 'counts.py'}:counts"]
    arguments += ["--suite", str(place / "one.yaml"), "--work", str(folder / "work")]
    assert aqr_bench([*arguments, "--out", str(folder / "out.jsonl")]) == 0
    (record,) = read_records(folder / "out.jsonl")
    assert record.ok, record.reason
    (before,) = [r for r in read_records(trained.parent / "evaluate.three.jsonl") if r.condition == "clean"]
    assert record.provenance["code_sha256"] != before.provenance["code_sha256"]
    # mmdet3d's info file gives the same input, and half of every score the same ranking.
    assert record.provenance["input_sha256"] == before.provenance["input_sha256"]
    assert record.scores["mAP"] == before.scores["mAP"] and record.scores["custom"]["objects"] > 0
    detections = (folder / "work" / "detections" / "one" / "clean" / "results_nusc.json").read_text()
    import json

    scores = [d["detection_score"] for result in json.loads(detections)["results"].values() for d in result]
    assert scores and max(scores) <= 0.5


@pytest.mark.slow
def test_a_config_of_mmdet3d_as_it_ships_is_evaluated(place):
    """Full size, nine sweeps, CBGS in training, augmentation wrappers in its test pipeline; weights untrained."""
    import torch
    from mmdet3d.registry import MODELS

    from aqr_bench.engine.config import open_config

    name = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py"
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS.build(open_config(name).model).state_dict()}, place / "stock.pth")
    arguments = [
        "evaluate",
        "--config",
        name,
        "--checkpoint",
        str(place / "stock.pth"),
        "--infos",
        str(place / "infos"),
    ]
    arguments += [
        "--suite",
        str(place / "three.yaml"),
        "--work",
        str(place / "stock"),
        "--out",
        str(place / "stock.jsonl"),
    ]
    assert aqr_bench(arguments) == 0
    result = {record.condition: record for record in read_records(place / "stock.jsonl")}
    assert not any(record.failed for record in result.values()), [record.reason for record in result.values()]
    assert result["no_cameras"].status == "not_applicable" and result["clean"].extra["inputs"]["points"] > 1000


def test_the_example_is_sound():
    tier = load_tier(EXAMPLE / "centerpoint.yaml")
    study = load_study(EXAMPLE / "lidar_damage.yaml")
    assert tier.kind == "synthetic" and study.suite.name == "severe"
    assert {c.settings["corruption"].partition(".")[0] for c in study.suite.conditions} >= {
        "multicorrupt",
        "nuscenes_c",
        "nuscenes_r",
    }
