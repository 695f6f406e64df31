"""Model configs by name, by file and from a package, and what belongs to a custom config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from aqr_bench.errors import UserError
from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.model_files import (
    config_files,
    make_importable,
    model_file,
    named_beside,
    own_sources,
    shipped_models,
    source_hashes,
)
from aqr_bench.study.requirements import missing_inputs

ROOT = Path(__file__).resolve().parents[2]


def test_a_shipped_config_goes_by_name_and_a_typo_names_the_nearest():
    assert model_file("cmt_aqr_quick").name == "cmt_aqr_quick.py" and "cmt_aqr_quick" in shipped_models()
    with pytest.raises(UserError, match=r"no 'cmt_aqr_quik' in aqr_bench/cmt/configs; did you mean 'cmt_aqr_quick'"):
        model_file("cmt_aqr_quik")
    assert own_sources("cmt_aqr_quick") == []


def test_configs_of_mmdet3d_go_by_package_and_file():
    name = "centerpoint/centerpoint_pillar02_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py"
    assert model_file(f"mmdet3d::{name}").is_file() and own_sources(f"mmdet3d::{name}") == []
    with pytest.raises(UserError, match=r"did you mean 'centerpoint/centerpoint_pillar02"):
        model_file(f"mmdet3d::{name.replace('circle', 'cricle')}")
    with pytest.raises(UserError, match="the package 'mmdet9d' is not installed"):
        model_file("mmdet9d::a.py")


def tier_beside(folder: Path, model: str, **more) -> Path:
    tier = yaml.safe_load((ROOT / "ablations" / "tiers" / "smoke.yaml").read_text())
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**tier, "name": "mine", "model": model, **more}))
    return path


def test_a_file_counts_from_the_yaml_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text("model = dict()\n")
    tier = load_tier(tier_beside(tmp_path, "configs/mine.py", models={"configs/mine.py": {"backbone": "b.pth"}}))
    assert model_file(tier.model) == tmp_path / "configs" / "mine.py"
    assert tier.base.backbone == Path("b.pth")  # of the same model, however it is written
    assert list(missing_inputs(tier)) == []
    # Relative, so that a record of it holds nothing of this machine.
    monkeypatch.chdir(tmp_path)
    assert load_tier("./mine.yaml").model == "configs/mine.py"
    assert named_beside("cmt_aqr_quick", tmp_path / "x.yaml") == "cmt_aqr_quick"
    assert named_beside(None, tmp_path / "x.yaml") is None


def test_a_missing_file_is_reported_with_tier_and_key(tmp_path):
    path = tier_beside(tmp_path, "gone.py")
    (problem,) = missing_inputs(load_tier(path))
    assert problem.message == f"{path}: model: no model config {tmp_path / 'gone.py'}"
    assert problem.remedy.startswith("A relative path counts from")


def test_a_variant_may_name_a_file_too(tmp_path):
    study = yaml.safe_load((ROOT / "ablations" / "smoke.yaml").read_text())
    study["variants"]["cross"] = {"summary": "another model", "model": "other.py", "init": "scratch", "config": {}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**study, "name": "mine"}))
    assert load_study(path).variants["cross"].model == (tmp_path / "other.py").as_posix()


def test_the_files_beside_a_config_are_part_of_its_code(tmp_path):
    config, part = tmp_path / "mine.py", tmp_path / "head.py"
    config.write_text("model = dict()\n")
    part.write_text("WIDTH = 1\n")
    assert own_sources(str(config)) == [part, config]
    before = code_hash_for("train", str(config), {})
    assert before == code_hash_for("train", str(config), {}) and set(source_hashes(str(config))) == {
        "mine.py",
        "head.py",
    }
    part.write_text("WIDTH = 2\n")
    assert code_hash_for("train", str(config), {}) != before


def test_the_base_chain_and_sub_packages_are_part_of_a_custom_config(tmp_path):
    folder, bases = tmp_path / "detectors", tmp_path / "base"
    for name in ("parts/deep", ".venv/lib", "env/lib", "parts/__pycache__"):
        (folder / name).mkdir(parents=True)
    bases.mkdir()
    (folder / "env" / "pyvenv.cfg").touch()
    for name in (".venv/lib/a.py", "env/lib/b.py", "parts/__pycache__/c.py"):
        (folder / name).touch()
    config, head, deep = folder / "mine.py", folder / "parts" / "head.py", folder / "parts" / "deep" / "loss.py"
    config.write_text('_base_ = ["../base/pillar.py", "mmdet3d::pointpillars/x.py"]\n')
    (bases / "pillar.py").write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .data import *\n"
    )
    (bases / "data.py").write_text('_base_ = "./pillar.py"\n')  # a circle, which mmengine refuses later
    (bases / "other.py").touch()
    for file in (head, deep):
        file.touch()
    assert own_sources(str(config)) == sorted([config, head, deep, bases / "data.py", bases / "pillar.py"])
    config.write_text("model = dict(\n")
    assert own_sources(str(config)) == sorted([config, head, deep])


def test_a_shipped_config_is_its_chain():
    assert [path.name for path in config_files("cmt_aqr_standard")] == [
        "dataset.py",
        "cmt_aqr_quick.py",
        "cmt_aqr_quick_model.py",
        "cmt_aqr_standard.py",
    ]
    assert config_files("mmdet3d::a/b.py") == [] == own_sources("cmt_aqr_standard")


def test_modules_beside_a_config_can_be_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text("model = dict()\n")
    (tmp_path / "head_of_mine.py").write_text("WIDTH = 3\n")
    make_importable("cmt_aqr_quick")
    assert str(tmp_path) not in sys.path
    make_importable(str(tmp_path / "mine.py"))
    import head_of_mine

    assert head_of_mine.WIDTH == 3
