"""A written condition, evaluated without any: the input and the detections of the condition itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aqr_bench.cli.corruptions import main as corruptions
from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.cli.score import main as score
from aqr_bench.data.__main__ import main as make_infos
from aqr_bench.data.dataset import load_data
from aqr_bench.data.manifest import read_manifest
from aqr_bench.engine.config import base_config
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_tier
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

SPEC = dict(version="v1.0-mini", seed=4, train_scenes=1, val_scenes=1, frames_per_scene=2)
SUITE = "name: written\nsummary: One condition of each kind.\nconditions:\n  - {name: clean}\n"
CONDITIONS = """\
  - {name: fewer_beams, corruption: nuscenes_r.beam_reduction, severity: 2}
  - {name: dark, corruption: multicorrupt.dark, severity: 3}
  - {name: extrinsics, corruption: nuscenes_r.extrinsic_noise, severity: 2}
  - {name: stuck, corruption: multicorrupt.temporalmisalignment, severity: 3}
"""
NAMES = ["fewer_beams", "dark", "extrinsics", "stuck"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A world with its info files, an untrained model, and the suite written as roots."""
    folder = tmp_path_factory.mktemp("written")
    write_world(WorldSpec.from_dict(SPEC), folder / "world", workers=1, quiet=True)
    (folder / "clean").mkdir()
    (folder / "written.yaml").write_text(SUITE + CONDITIONS)
    (folder / "clean" / "written.yaml").write_text(SUITE)
    make_info_files(folder / "world", folder / "infos")
    from mmdet3d.registry import MODELS

    config = base_config(load_tier("smoke"), load_data(folder / "infos")).model
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS.build(config).state_dict()}, folder / "final.pth")
    source = dict(checkpoint="final.pth", checkpoint_sha256=sha256_file(folder / "final.pth"))
    write_records(folder / "train.jsonl", [Record("train", "ok", "smoke", seed=0, provenance=source)])
    words = ["--root", str(folder / "world"), "--out", str(folder / "roots"), "--sweeps", "1"]
    assert corruptions(["write", str(folder / "written.yaml"), *words]) == 0
    return folder


def make_info_files(root: Path, out: Path) -> None:
    assert make_infos(["--version", "v1.0-mini", "--root", str(root), "--out", str(out), "--quiet"]) == 0


def evaluated(folder: Path, suite: str, infos: Path) -> list[Record]:
    out = infos.parent / f"{infos.name}.jsonl"
    words = ["--tier", "smoke", "--suite", str(folder / suite), "--train", str(folder / "train.jsonl")]
    assert evaluate([*words, "--infos", str(infos), "--work", str(out.with_suffix(".work")), "--out", str(out)]) == 0
    return read_records(out)


@pytest.fixture(scope="module")
def on_the_fly(folder) -> dict[str, Record]:
    return {record.condition: record for record in evaluated(folder, "written.yaml", folder / "infos")}


@pytest.mark.parametrize("name", NAMES)
def test_a_written_condition_is_the_condition_itself(folder, on_the_fly, tmp_path, name):
    make_info_files(folder / "roots" / name, tmp_path / "infos")
    (record,) = evaluated(folder, "clean/written.yaml", tmp_path / "infos")
    expected = on_the_fly[name]
    assert record.provenance["input_sha256"] == expected.provenance["input_sha256"]
    assert record.provenance["predictions_sha256"] == expected.provenance["predictions_sha256"]
    assert record.scores == expected.scores and record.extra["inputs"] == expected.extra["inputs"]
    assert record.provenance["input_sha256"] != on_the_fly["clean"].provenance["input_sha256"]


def test_detections_are_scored_with_the_manifest(folder, on_the_fly, tmp_path):
    (made,) = (folder / "infos.work").rglob("dark/results_nusc.json")
    words = [str(made), "--root", str(folder / "world"), "--out", str(tmp_path / "scored.jsonl")]
    assert score([*words, "--manifest", str(folder / "roots" / "dark")]) == 0
    (record,) = read_records(tmp_path / "scored.jsonl")
    assert (record.condition, record.suite) == ("dark", "written")
    assert record.scores["mAP"] == on_the_fly["dark"].scores["mAP"]
    sha256 = sha256_file(folder / "roots" / "dark" / "manifest.json")
    assert record.extra["submission"]["manifest_sha256"] == sha256 == read_manifest(folder / "roots" / "dark")[1]
    words[words.index("--root") + 1] = str(folder / "roots" / "dark")  # the written tables have the same objects
    assert score([*words, "--manifest", str(folder / "roots"), "--condition", "dark"]) == 0
    with pytest.raises(UserError, match="the manifest of 'stuck' is of other tables than"):
        score([*words, "--manifest", str(folder / "roots" / "stuck")])
    with pytest.raises(UserError, match="--condition: 'fog' is not 'dark'"):
        score([*words, "--manifest", str(folder / "roots" / "dark"), "--condition", "fog"])
