"""What stands in several places of a config is compared: one place changed alone is named with another, with values."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from aqr_bench.data.dataset import DataSet
from aqr_bench.data.infos import INFO_CLASSES
from aqr_bench.engine.config import base_config, build_config, open_config
from aqr_bench.engine.config_facts import check_facts, detection_classes
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_tier
from aqr_bench.study.model_files import CONFIGS, shipped_models
from aqr_bench.study.overrides import config_entry

TRAIN, TEST = "train_dataloader.dataset", "test_dataloader.dataset"
HEAD, CODER = "model.pts_bbox_head", "model.pts_bbox_head.bbox_coder"
HALF = [-16.0, -16.0, -5.0, 16.0, 16.0, 3.0]
QUICK = tuple(Config.fromfile(CONFIGS / "cmt_aqr_quick.py", import_custom_modules=False).class_names)
SWAPPED = [QUICK[1], QUICK[0], *QUICK[2:]]
CENTERPOINT = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


@cache
def opened(name: str) -> dict:
    return open_config(name, import_modules=False).to_dict()


def changed(values: dict, name: str = "cmt_aqr_quick") -> dict:
    config = copy.deepcopy(opened(name))
    for key, value in values.items():
        node, (*path, last) = config, key.split(".")
        for part in path:
            node = node[config_entry(node, part)]
        node[config_entry(node, last)] = value
    return config


@pytest.mark.parametrize("name", [n for n in shipped_models() if not n.endswith("_model")] + [CENTERPOINT])
def test_configs_that_ship_do_not_contradict_themselves(name):
    check_facts(opened(name), name)


@pytest.mark.parametrize(
    ("key", "value", "what", "other"),
    [
        ("model.pts_voxel_layer.point_cloud_range", HALF, "point cloud range", "model.pts_voxel_encoder.point_cloud_"),
        (f"{CODER}.pc_range", HALF, "point cloud range", "model.pts_voxel_layer.point_cloud_range"),
        (f"{TEST}.pipeline.PointsRangeFilter.point_cloud_range", HALF, "point cloud range", "model.pts_voxel_layer"),
        (f"{TRAIN}.pipeline.ObjectRangeFilter.point_cloud_range", HALF, "point cloud range", "model.pts_voxel_layer"),
        ("model.pts_voxel_layer.voxel_size", [0.2, 0.2, 8.0], "voxel size", "model.pts_voxel_encoder.voxel_size"),
        ("model.pts_middle_encoder.output_shape", [80, 160], "number of BEV cells .x, y.", "model.pts_voxel_layer"),
        ("model.train_cfg.pts.grid_size", [80, 80, 1], "number of BEV cells", "model.pts_middle_encoder.output_shape"),
        (f"{TEST}.pipeline.ResizeViews.size", (192, 352), "image size", f"{TRAIN}.pipeline.ResizeViews.size"),
        (f"{TRAIN}.pipeline.LoadPoseCorrectedSweeps.sweeps_num", 3, "number of LiDAR sweeps", f"{TEST}.pipeline"),
        (f"{TEST}.pipeline.SensorCondition.sweeps_num", 0, "number of LiDAR sweeps", f"{TRAIN}.pipeline.LoadPose"),
        (f"{TRAIN}.metainfo.classes", SWAPPED, "class list", f"{TEST}.metainfo.classes"),
        (f"{TRAIN}.pipeline.ObjectNameFilter.classes", SWAPPED[1:4], "class list", f"{TEST}.metainfo.classes"),
        (f"{HEAD}.tasks.0.class_names", SWAPPED, "class list", f"{TEST}.metainfo.classes"),
        (f"{CODER}.num_classes", 3, "number of classes", f"{TEST}.metainfo.classes"),
    ],
)
def test_one_place_changed_alone_is_named_with_another(key, value, what, other):
    with pytest.raises(UserError) as caught:
        check_facts(changed({key: value}), "mine.yaml: variants.x")
    text = str(caught.value)
    assert text.startswith("mine.yaml: variants.x: the ")
    for part in (what.replace(".x, y.", "(x, y)"), key.replace(".0.class_names", " (class_names)"), other):
        assert part in text


def test_all_keys_that_have_to_change_together_are_listed_and_do():
    with pytest.raises(UserError) as caught:
        check_facts(changed({"model.pts_voxel_layer.point_cloud_range": HALF}), "x")
    keys = caught.value.remedy.removeprefix("Change them together: ").removesuffix(".").replace("and ", "").split(", ")
    assert len(keys) == 8
    cells = {"model.pts_middle_encoder.output_shape": [80, 80]}
    cells |= {f"model.{name}.pts.grid_size": [80, 80, 1] for name in ("train_cfg", "test_cfg")}
    check_facts(changed(dict.fromkeys(keys, HALF) | cells), "x")


def test_places_of_foreign_heads_are_compared_as_far_as_they_go():
    check_facts(changed({f"{CODER}.pc_range": [-51.2, -51.2]}, CENTERPOINT), "x")  # x0 and y0 alone
    with pytest.raises(
        UserError, match=r"range differs: model\.pts_bbox_head\.bbox_coder\.pc_range is \[-50, -50\], but"
    ):
        check_facts(changed({f"{CODER}.pc_range": [-50, -50]}, CENTERPOINT), "x")
    filtered = f"{TRAIN}.dataset.pipeline.ObjectNameFilter.classes"
    check_facts(changed({filtered: opened(CENTERPOINT)["class_names"][::-1]}, CENTERPOINT), "x")  # it counts them
    with pytest.raises(UserError, match=r"class list differs: model\.pts_bbox_head\.tasks \(class_names\)"):
        check_facts(changed({f"{HEAD}.tasks.0.class_names": ["bus"]}, CENTERPOINT), "x")


def test_without_classes_they_are_those_of_mmdet3d():
    from mmdet3d.datasets import NuScenesDataset

    assert NuScenesDataset.METAINFO["classes"] == INFO_CLASSES
    config = changed({f"{TEST}.metainfo": {}, f"{TRAIN}.dataset.metainfo": {}}, CENTERPOINT)
    assert detection_classes(config) == list(INFO_CLASSES)
    with pytest.raises(UserError, match="class list differs"):  # from those of the head
        check_facts(config, "x")


def test_names_that_nuscenes_does_not_have_and_classes_that_are_left_out(capsys):
    lists = [f"{TRAIN}.metainfo.classes", f"{TEST}.metainfo.classes", f"{TRAIN}.pipeline.ObjectNameFilter.classes"]
    lists.append(f"{HEAD}.tasks.0.class_names")
    numbers = [f"{CODER}.num_classes", f"{HEAD}.tasks.0.num_class", "model.auxiliary.num_classes"]
    three = changed({key: ["car", "bus", "pedestrian"] for key in lists} | dict.fromkeys(numbers, 3))
    check_facts(three, "x")
    assert (
        "warning: x: not among the classes, and so AP 0 in the mAP: truck, trailer, constr" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="'cars' is no class of nuScenes; did you mean 'car'"):
        check_facts(changed({lists[1]: ["cars", *QUICK[1:]]}), "x")


def test_a_detector_that_may_give_too_many_boxes_is_refused_with_the_key():
    with pytest.raises(
        UserError, match=r"x: model\.pts_bbox_head\.bbox_coder\.max_num is 900, but .* 500 boxes"
    ) as caught:
        check_facts(changed({f"{CODER}.max_num": 900}), "x")
    assert caught.value.remedy == f"Set {CODER}.max_num to 500 or less."
    check_facts(changed({f"{CODER}.max_num": 500}), "x")
    check_facts(changed({f"{CODER}.max_num": 900}, CENTERPOINT), "x")  # suppression behind it leaves 83 of each task


def test_every_config_passes_the_check():
    tier, data = load_tier("smoke"), DataSet(Path("w"), Path("w"), "v1.0-mini", "")
    broken = open_config("cmt_aqr_quick", import_modules=False)
    broken.model.pts_voxel_layer.point_cloud_range = HALF
    for build in (base_config, lambda *args, opened: build_config(*args, 0, "w", None, None, opened=opened)):
        with pytest.raises(UserError, match="the point cloud range differs"):
            build(tier, data, opened=copy.deepcopy(broken))
