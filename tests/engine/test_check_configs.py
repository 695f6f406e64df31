"""Every variant's config is built before anything runs: keys, types, arguments of the bias; shown by `config show`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from aqr_bench.cli import config as config_command
from aqr_bench.cli.studies import main as studies
from aqr_bench.engine.check_configs import check_configs, check_configs_once
from aqr_bench.engine.config import open_config
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.overrides import type_conflict

LOCALITY = "model.pts_bbox_head.locality"
AQR, LR = "model.pts_bbox_head.aqr", "optim_wrapper.optimizer.lr"


def study_with(folder: Path, config: dict) -> Path:
    data = yaml.safe_load(Path("ablations/smoke.yaml").read_text(encoding="utf-8"))
    data["name"], data["variants"]["mine"] = "mine", {"summary": "mine", "config": config}
    path = folder / "mine.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")  # YAML with all text in quotes
    return path


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model.pts_bbox_hed.aqr": None}, "no 'pts_bbox_hed' in model; did you mean 'pts_bbox_head'"),
        ({AQR: {"sit": "cross"}}, "pts_bbox_head.aqr: unknown argument 'sit'; did you mean 'site'"),
        ({AQR: {"site": "crosss"}}, "aqr.site 'crosss' is not known; choose one of none, cross, self, both"),
        ({AQR: {"bev_window": 4}}, "aqr.bev_window must be 0 or odd, not 4"),
        ({AQR: {"bev_window": "5"}}, "aqr.bev_window: '5' is text, the value that it replaces .5. is a number"),
        ({AQR: {"site": "self", "layers": "first"}}, "changes nothing"),
        (
            {LOCALITY: {"bev_sigm": 2.0}},
            "pts_bbox_head.locality: unknown argument 'bev_sigm'; did you mean 'bev_sigma'",
        ),
        ({LOCALITY: {"angle_sigma": "wide"}}, "locality.angle_sigma: 'wide' is text"),
        ({LOCALITY: {"depth_sigma": -1.0}}, "locality: depth_sigma must be positive or None, not -1.0"),
        ({"model.pts_bbox_head.image_points": {"hiden": 8}}, "image_points: unknown argument 'hiden'; did you mean"),
        ({LR: False}, "False is true or false, .* is a number; YAML reads on, off, yes and no so"),
        ({LR: "1e-4"}, "'1e-4' is text, .* is a number; without quotes it is a number"),
        ({"optim_wrapper.optimizer": {"type": "AdamW", "lr": "fast"}}, "lr: 'fast' is text"),
        ({AQR: {"site": "cross", "router": "no_such.py:Router"}}, "'no_such.py:Router': no file .*no_such.py"),
        ({"optim_wrapper": 3}, "3 is a number, .* is a mapping"),
    ],
)
def test_mistakes_are_named_with_file_and_variant(config, message, tmp_path):
    path = study_with(tmp_path, config)
    with pytest.raises(UserError, match=message) as raised:
        check_configs(load_tier("smoke"), [load_study(path)])
    assert str(raised.value).startswith(f"{path}: variants.mine: ")


def test_values_that_may_replace_each_other():
    for old, new in [(1, 0.5), (5, [5, 3]), (None, 3), ({"a": 1}, None), ("points", False), ([1], (2, 3))]:
        assert type_conflict(old, new) is None, (old, new)
    assert type_conflict({"type": "Adam", "lr": 1.0}, {"type": "SGD", "lr": "x"}) is None  # another part altogether


def test_a_success_is_noted_and_a_change_is_checked_again(tmp_path, monkeypatch):
    marks = tmp_path / "snakemake" / "checked"
    tier, good = load_tier("smoke"), load_study("smoke")
    check_configs_once(tier, [good], marks)
    assert not marks.parent.exists()  # a folder that nothing has run in stays as it is
    marks.parent.mkdir()
    check_configs_once(tier, [good], marks)
    monkeypatch.setattr("aqr_bench.engine.check_configs.check_configs", lambda *_: pytest.fail("checked again"))
    check_configs_once(tier, [good], marks)
    monkeypatch.undo()
    with pytest.raises(UserError, match="unknown argument 'sit'"):
        check_configs_once(tier, [load_study(study_with(tmp_path, {AQR: {"sit": "cross"}}))], marks)


def test_a_config_is_shown_whole_or_by_its_changes(capsys):
    variant = ["show", "--tier", "smoke", "--study", "smoke", "--variant", "cross"]
    assert config_command.main([*variant, "--diff"]) == 0
    assert "model.pts_bbox_head.aqr.site: added 'cross'" in capsys.readouterr().out
    assert config_command.main(variant) == 0
    shown: dict = {}
    exec(capsys.readouterr().out, shown)  # it is Python, as mmdet3d's print_config has it
    assert shown["model"]["pts_bbox_head"]["aqr"]["site"] == "cross"
    with pytest.raises(UserError, match="--study and --variant go together"):
        config_command.main(variant[:-2])


STOCK = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(type='X'", "line 2: SyntaxError"),
        ("custom_imports = dict(imports=['not_there_at_all'])", "No module named 'not_there_at_all'"),
        ("model = dict(_delete_=True, type='NoSuchDetector')", "no 'NoSuchDetector' is registered"),
        ("model = dict(pts_neck=dict(mistake=1))", "the model cannot be built: TypeError: .*mistake"),
        ("model = dict(pts_bbox_head=dict(bbox_coder=dict(pc_range=[-32, -32])))", "the point cloud range differs"),
    ],
)
def test_a_model_from_elsewhere_is_opened_and_built_before_anything_runs(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "mine.py").write_text(f"_base_ = ['{STOCK}']\n{text}\n")
    tier = yaml.safe_load(Path("ablations/tiers/smoke.yaml").read_text(encoding="utf-8"))
    tier |= {"name": "mine", "model": "mine.py", "base": {"epochs": 1}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tier))
    with pytest.raises(UserError, match=message):
        check_configs(load_tier(tmp_path / "mine.yaml"), [])


def test_the_cost_of_a_run_is_that_of_configs_that_can_be_built(tmp_path, capsys):
    assert studies(["cost", "smoke", "--tier", "smoke"]) == 0
    assert "disk: " in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown argument 'sit'"):
        studies(["cost", str(study_with(tmp_path, {AQR: {"sit": "cross"}})), "--tier", "smoke"])


def test_a_variant_that_starts_from_the_base_model_has_its_classes(tmp_path):
    config = open_config("cmt_aqr_quick", import_modules=False)
    swapped = [config.class_names[1], config.class_names[0], *config.class_names[2:]]
    train, test = (f"{loader}_dataloader.dataset" for loader in ("train", "test"))
    keys = [f"{train}.metainfo.classes", f"{test}.metainfo.classes", "model.pts_bbox_head.tasks.0.class_names"]
    path = study_with(tmp_path, {key: swapped for key in keys})
    with pytest.raises(UserError, match=r"variants.mine: the classes are truck, car, .* of the base model car, tr"):
        check_configs(load_tier("smoke"), [load_study(path)])


def test_a_changed_router_of_the_user_is_checked_again(tmp_path):
    text = "import torch\nclass R(torch.nn.Module):\n    def __init__(self, c): super().__init__()\n"
    file, marks = tmp_path / "my_router.py", tmp_path / "snakemake" / "checked"
    file.write_text(text + "    def forward(self, inputs): return torch.zeros(*inputs.query_BQC.shape[:2], 2)\n")
    marks.parent.mkdir()
    tier, study = load_tier("smoke"), study_with(tmp_path, {AQR: {"site": "cross", "router": f"{file}:R"}})
    check_configs_once(tier, [load_study(study)], marks)
    file.write_text(text + "    def forward(self, inputs): return torch.zeros(3)\n")
    for name in [name for name in sys.modules if name.startswith("aqr_plugin_my_router")]:
        del sys.modules[name]  # as in another process
    with pytest.raises(UserError, match=r"mine.yaml: variants.mine: router '.*:R' returned \(3,\), expected a tensor"):
        check_configs_once(tier, [load_study(study)], marks)


def test_imports_of_a_custom_config_are_added_to_those_of_its_base(tmp_path):
    shipped = open_config("cmt_aqr_quick", import_modules=False)
    base = Path("aqr_bench/cmt/configs/cmt_aqr_quick.py").resolve().as_posix()
    (tmp_path / "my_module_of_imports.py").write_text("")
    (tmp_path / "mine.py").write_text(f"_base_ = ['{base}']\ncustom_imports = dict(imports='my_module_of_imports')\n")
    config = open_config(str(tmp_path / "mine.py"), import_modules=False)
    assert config.custom_imports["imports"] == ["my_module_of_imports", *shipped.custom_imports["imports"]]
