"""Configs of mmdet3d become ours: where conditions stand, what is refused, and that our own stay as they are."""

from __future__ import annotations

import copy
import sys

import pytest
from mmengine.config import Config, ConfigDict

from aqr_bench import compat
from aqr_bench.engine.adapt_config import adapt, with_condition
from aqr_bench.engine.config import open_config
from aqr_bench.engine.job import one_line
from aqr_bench.engine.third_party import build_model, building_model
from aqr_bench.errors import UserError
from aqr_bench.study.model_files import CONFIGS, shipped_models

POINTS = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5)
SWEEPS = dict(type="LoadPointsFromMultiSweeps", sweeps_num=3, use_dim=[0, 1, 2, 4])
IMAGES = dict(type="LoadMultiViewImageFromFiles", to_float32=True)
RANGE = dict(type="PointsRangeFilter", point_cloud_range=[-32, -32, -5, 32, 32, 3])
PACK = dict(type="Pack3DDetInputs", keys=["points"])
STOCK = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py"


def types(steps) -> list[str]:
    return [step["type"] for step in steps]


@pytest.mark.parametrize("name", [name for name in shipped_models() if not name.endswith("_model")])
def test_our_own_configs_stay_as_they_are(name):
    config = Config.fromfile(CONFIGS / f"{name}.py", import_custom_modules=False)
    before = copy.deepcopy(config.to_dict())
    adapt(config, name)
    assert config.to_dict() == before


def test_conditions_stand_behind_the_loaders_and_before_the_sweeps():
    steps = with_condition([POINTS, SWEEPS, IMAGES, RANGE, PACK], "x")
    assert types(steps) == [
        "CheckFrame",
        "LoadPointsFromFile",
        "LoadMultiViewImageFromFiles",
        "SensorCondition",
        "LoadPoseCorrectedSweeps",
        "EqualizeViews",
        "AddProjections",
        "PointsRangeFilter",
        "InputFingerprint",
        "Pack3DDetInputs",
    ]
    assert steps[0] == {"type": "CheckFrame", "lidar": True, "cameras": True, "load_dim": 5}
    assert steps[2]["color_type"] == "color_ignore_orientation", "grey and RGBA files become BGR"
    assert steps[3]["sweeps_num"] == 3 and steps[4]["test_mode"] is True
    assert {"token", "input_proof", "box_type_3d", "pcd_rotation"} <= set(steps[-1]["meta_keys"])
    assert SWEEPS["type"] == "LoadPointsFromMultiSweeps" and "meta_keys" not in PACK, "the config's own are copied"


def test_views_that_a_loader_pads_are_scaled_by_themselves_in_training_too():
    from aqr_bench.engine.adapt_config import _with_equal_sizes

    assert types(_with_equal_sizes([POINTS, IMAGES, RANGE, PACK]))[1:3] == [
        "LoadMultiViewImageFromFiles",
        "EqualizeViews",
    ]
    ours = [POINTS, dict(type="LoadViewImages"), PACK]
    assert _with_equal_sizes(ours) == ours and "EqualizeViews" not in types(with_condition(ours, "x"))
    assert "EqualizeViews" not in types(with_condition([POINTS, PACK], "x"))


def test_augmentation_that_does_nothing_is_opened():
    inner = [dict(type="GlobalRotScaleTrans", rot_range=[0, 0]), dict(type="RandomFlip3D"), RANGE]
    wrapped = dict(type="MultiScaleFlipAug3D", img_scale=(1333, 800), pts_scale_ratio=1, flip=False, transforms=inner)
    steps = with_condition([POINTS, wrapped, PACK], "x")
    assert types(steps)[3:6] == ["GlobalRotScaleTrans", "PointsRangeFilter", "InputFingerprint"]
    with pytest.raises(UserError, match=r"x: test-time augmentation .* is not supported; set flip=False"):
        with_condition([POINTS, {**wrapped, "flip": True}, PACK], "x")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([POINTS, RANGE, IMAGES, PACK], "PointsRangeFilter stands before a loader"),
        ([dict(POINTS, use_dim=4), PACK], "has to load the five columns as they are"),
        ([dict(POINTS, norm_intensity=True), PACK], "has to load the five columns as they are"),
        ([RANGE, PACK], "loads neither points nor images"),
        ([POINTS, RANGE], "needs exactly one Pack3DDetInputs, it has 0"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(steps, message):
    with pytest.raises(UserError, match=f"^x: .*{message}"):
        with_condition(steps, "x")


def test_a_config_of_mmdet3d_as_it_is(monkeypatch, capsys):
    monkeypatch.setattr(compat, "has_compiled_mmcv", lambda: False)
    config = open_config(STOCK)
    assert types(config.test_dataloader.dataset.pipeline)[:4] == [
        "CheckFrame",
        "LoadPointsFromFile",
        "SensorCondition",
        "LoadPoseCorrectedSweeps",
    ]
    train = config.train_dataloader.dataset.dataset  # inside CBGSDataset
    assert train.pipeline[0] == {"type": "CheckFrame", "lidar": True, "cameras": False, "load_dim": 5}
    assert train.ann_file == "infos_train.pkl" and "LoadPoseCorrectedSweeps" in types(train.pipeline)
    assert types(config.custom_hooks) == ["SeedEpochs", "LossCurve", "Progress"]
    assert config.val_dataloader is None
    part = config.model.data_preprocessor
    assert part.type == "SpconvDataPreprocessor" and part.voxel_layer.num_point_features == 5
    assert "voxelised by spconv" in capsys.readouterr().err  # stdout may be a printed config
    monkeypatch.setattr(compat, "has_compiled_mmcv", lambda: True)
    assert open_config(STOCK).model.data_preprocessor.type == "Det3DDataPreprocessor"


def test_other_data_sets_and_boxes_are_refused():
    with pytest.raises(UserError, match="reads KittiDataset; only mmdet3d's NuScenesDataset is scored here"):
        open_config("mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py")
    config = Config.fromfile(CONFIGS / "cmt_aqr_quick.py", import_custom_modules=False)
    config.test_dataloader.dataset.pipeline = [ConfigDict(step) for step in (POINTS, SWEEPS, PACK)]
    config.test_dataloader.dataset.load_type = "mv_image_based"
    with pytest.raises(UserError, match="y: one sample has to be all sensors of a frame"):
        adapt(config, "y")


def test_a_failed_import_is_reported_by_its_cause(tmp_path, monkeypatch):
    """mmengine wraps it twice, and its last words are on PYTHONPATH."""
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "detector_parts.py").write_text("\nfrom json import no_such_name\n")
    config = tmp_path / "careful.py"
    config.write_text("custom_imports = dict(imports=['detector_parts'])\n")
    with pytest.raises(UserError) as caught:
        open_config(str(config))
    text = str(caught.value)
    assert f"{config}: ImportError: cannot import name 'no_such_name' from 'json'" in text and "PYTHONPATH" not in text
    assert f"({tmp_path / 'detector_parts.py'}, line 2)" in text
    assert one_line(caught.value.__cause__).startswith("ImportError: cannot import name 'no_such_name'")
    config.write_text("custom_imports = dict(imports=['detector_part'])\n")
    with pytest.raises(UserError, match=r"ModuleNotFoundError: No module named 'detector_part'\. Correct"):
        open_config(str(config))


UNFIT = {
    "model = dict(type='X'": r"mine\.py, line 1: SyntaxError: '\(' was never closed",
    "\n\nmodel = dict(depth=1/0)": r"mine\.py: ZeroDivisionError: division by zero \(.*mine\.py, line 3\)",
    "custom_imports = dict(imports=['my_pkg.not_there'], allow_failed_imports=False)": "No module named 'my_pkg'",
    "from mmengine.config import read_base\nwith read_base():\n    from .x import *": r"mine\.py: .*x\.py",
    "_base_ = ['x.py']": r"x\.py",
    "_base_ = ['mmdet3d::not/there.py']": "not/there",
    "model = dict(type='X')": "no train_dataloader; a config that can be evaluated",
    "train_dataloader = dict(batch_size=1)": "train_dataloader has no 'dataset'",
    "train_dataloader = dict(dataset=dict(type='NuScenesDataset', ann_file='x'))": "train_dataloader has no 'pipeline'",
    "train_dataloader = dict(dataset=dict(type='NuScenesDataset', ann_file='x', pipeline=[{1: 2}]))": "has no 'type'",
    "train_dataloader = 3": "train_dataloader has no 'dataset'",
    "raise RuntimeError('stop')": r"RuntimeError: stop \(.*mine\.py, line 1\)",
}


@pytest.mark.parametrize("text", UNFIT)
def test_a_config_that_cannot_be_opened_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "mine.py").write_text(text + "\n")
    with pytest.raises(UserError, match=UNFIT[text]) as caught:
        open_config(str(tmp_path / "mine.py"))
    assert str(tmp_path) in str(caught.value)


def test_a_syntax_error_is_named_with_the_config_that_has_it(tmp_path):
    (tmp_path / "base.py").write_text("a = 1\nb = = 2\n")
    (tmp_path / "mine.py").write_text("_base_ = ['./base.py']\n")
    with pytest.raises(UserError, match=r"base\.py, line 2: SyntaxError: invalid syntax"):
        open_config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            dict(type="NoSuchDetector"),
            r"x: the model cannot be built: no 'NoSuchDetector' is reg",
        ),
        (dict(type="CmtDetector", pts_bbox_head=dict(type="CmtHed")), "no 'CmtHed' is registered in mmdet3d::model"),
        (dict(type="CenterPoint", mistake=1), "x: the model cannot be built: TypeError: .*mistake"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(model, message):
    config = Config(dict(model=model, custom_imports=dict(imports=["aqr_bench.cmt"]), default_scope="mmdet3d"))
    with pytest.raises(UserError, match=message), building_model("x"):
        build_model(config)


def test_lack_of_memory_is_no_mistake_of_the_model():
    with pytest.raises(MemoryError), building_model("x"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="CUDA out of memory"), building_model("x"):
        raise RuntimeError("CUDA out of memory")
