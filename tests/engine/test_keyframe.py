"""A real nuScenes keyframe through the same data set class, transforms and detector, drawn on all views."""

from __future__ import annotations

import copy
import json
import pickle
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from aqr_bench.cli.main import main
from aqr_bench.data.dataset import DataSet, keyframe_data, point_at_keyframe
from aqr_bench.engine.config import base_config
from aqr_bench.engine.loader import build_loader
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, write_records
from aqr_bench.report.figures.detections import DrawnBoxes, corners, projected_edges
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_tier, resolve_condition


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """Train record of a model that has learnt nothing: its pictures show the way, not the quality."""
    from mmdet3d.registry import MODELS
    from mmengine.config import Config

    import aqr_bench.cmt  # noqa: F401
    from aqr_bench.study.model_files import CONFIGS

    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIGS / "cmt_aqr_quick_model.py").model)
    folder = tmp_path_factory.mktemp("model")
    torch.save({"state_dict": model.state_dict()}, folder / "final.pth")
    source = dict(checkpoint="final.pth", checkpoint_sha256=sha256_file(folder / "final.pth"))
    return write_records(folder / "train.jsonl", [Record("train", "ok", "quick", seed=0, provenance=source)])


def test_the_keyframe_is_detected_on_and_drawn(keyframe, untrained, tmp_path, capsys):
    command = ["evaluate", "--tier", "quick_prior", "--keyframe", str(keyframe), "--train", str(untrained)]
    assert main([*command, "--pictures", str(tmp_path)]) == 0
    picture = cv2.imread(str(tmp_path / "keyframe.0.png"))
    assert picture.shape[1] > 1200 and picture.std() > 20
    green = (np.abs(picture[..., ::-1].astype(int) - [0x00, 0x9E, 0x73]) < 12).all(-1)
    assert green.sum() > 2000  # the annotated boxes
    result = json.loads((tmp_path / "detections.json").read_text())["ca9a282c9e77460f8360f564131a8af5"]
    assert len(result["scores"]) == len(result["boxes_lidar"]) > 0
    assert str(tmp_path / "keyframe.0.png") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keyframe", "kf", "--out", "x"], "give their folder with --pictures, not --out"),
        (["--keyframe", "kf"], "give their folder with --pictures"),
        (["--infos", "x", "--pictures", "x", "--out", "x"], "--pictures belongs to --keyframe"),
        (["--infos", "x"], "evaluate needs --out, the record file"),
    ],
)
def test_a_record_file_and_a_folder_of_pictures_are_two_options(options, message, capsys):
    assert main(["evaluate", "--tier", "quick", "--train", "x", *options]) == 2
    assert message in capsys.readouterr().err


def test_network_input_of_the_keyframe_keeps_boxes_on_their_points(keyframe):
    """After resizing and cropping, LiDAR points inside a box still project into the drawn box."""
    config = base_config(load_tier("quick"), keyframe_data(keyframe)[0])
    point_at_keyframe(config.test_dataloader.dataset, keyframe)
    sample = build_loader(config, resolve_condition("clean"), 1).dataset[0]
    points, lidar2img = sample["inputs"]["points"].numpy(), np.asarray(sample["data_samples"].metainfo["lidar2img"])
    assert sample["inputs"]["img"].shape == (6, 3, 96, 176) and len(points) > 20_000
    truth = sample["data_samples"].eval_ann_info["gt_bboxes_3d"]
    boxes = np.concatenate([truth.gravity_center.numpy(), truth.tensor[:, 3:7].numpy()], 1)
    checked = 0
    for box in boxes:
        local = points[:, :3] - box[:3]
        turn = np.array([[np.cos(box[6]), np.sin(box[6]), 0], [-np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        inside = points[(np.abs(local @ turn.T) < box[3:6] / 2).all(1), :3]
        for matrix in lidar2img:
            seen = np.c_[inside, np.ones(len(inside))] @ matrix.T
            hull = np.c_[corners(box[None])[0], np.ones(8)] @ matrix.T
            if len(seen) < 5 or (hull[:, 2] < 0.5).any():
                continue
            pixels, outline = seen[:, :2] / seen[:, 2:3], hull[:, :2] / hull[:, 2:3]
            assert (pixels >= outline.min(0) - 1e-3).all() and (pixels <= outline.max(0) + 1e-3).all()
            checked += 1
    assert checked > 10


def test_edges_behind_the_camera_are_cut():
    camera = np.array([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    ahead, across, behind = ([0, 0, z, 2.0, 2.0, 2.0, 0.3] for z in (10.0, 0.5, -10.0))
    assert len(projected_edges(np.array([ahead]), camera)) == 12
    assert 0 < len(projected_edges(np.array([across]), camera)) <= 12
    assert projected_edges(np.array([behind]), camera) == []
    assert np.isfinite(np.array(projected_edges(np.array([across]), camera))).all()


def test_boxes_are_filtered_by_score():
    boxes = DrawnBoxes(np.zeros((3, 7)), ["a", "b", "c"], np.array([0.9, 0.1, 0.5]))
    assert boxes.above(0.5).labels == ["a", "c"]


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="keyframe folder not found"):
        keyframe_data(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exactly one info file"):
        keyframe_data(tmp_path)


# ---------------------------------------------------------------- info files from elsewhere


@cache
def quick_config():
    """Its modules are registered, as by an evaluator that has built the model."""
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
    return base_config(load_tier("quick"), DataSet(Path("x"), Path("x"), "v1.0-mini", ""))


UNFIT = {
    "0.x": (lambda _, c: {"infos": c["data_list"], "metadata": {"version": "v1.0-mini"}}, "info file of mmdet3d"),
    "0.x list": (lambda _, c: c["data_list"], "info file of mmdet3d"),
    "no metainfo": (lambda _, c: c.pop("metainfo") and None, "it has no 'metainfo'"),
    "no data_list": (lambda _, c: c.pop("data_list") and None, "it has no 'data_list'"),
    "no samples": (lambda _, c: c["data_list"].clear(), "has no samples"),
    "results": (lambda _, c: {"results": {}}, "it has no 'metainfo'"),
    "no instances": (lambda s, _: s.pop("instances") and None, "KeyError: 'instances'"),
    "no images": (lambda s, _: s.pop("images") and None, "KeyError: 'images'"),
    "no points": (lambda s, _: s.pop("lidar_points") and None, "KeyError: 'lidar_points'"),
    "no token": (lambda s, _: s.pop("token") and None, "KeyError: 'token'"),
    "no counts": (lambda s, _: s["instances"][0].pop("num_lidar_pts") and None, "num_lidar_pts"),
    "no velocity": (lambda s, _: s["instances"][0].pop("velocity") and None, "velocities"),
    "a folder": (lambda s, _: s["lidar_points"].update(lidar_path="there/x.bin"), "kf/x.bin (sample"),
    "no image": (lambda s, _: s["images"]["CAM_BACK"].update(img_path="none.jpg"), "none.jpg"),
    "wrong type": (lambda s, _: s.update(instances=3), "TypeError"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_info_file_that_does_not_fit_is_one_line(case, keyframe, untrained, tmp_path, monkeypatch, capsys):
    change, message = UNFIT[case]
    (tmp_path / "kf").mkdir()
    for file in keyframe.iterdir():
        if file.suffix != ".pkl":
            (tmp_path / "kf" / file.name).symlink_to(file)
        else:
            content = pickle.loads(file.read_bytes())
            result = change(content["data_list"][0], content)
            (tmp_path / "kf" / "a.pkl").write_bytes(pickle.dumps(content if result is None else result))
    evaluator = SimpleNamespace(config=copy.deepcopy(quick_config()))
    monkeypatch.setattr("aqr_bench.cli.pictures.load_evaluator", lambda *_: evaluator)
    command = ["evaluate", "--tier", "quick", "--keyframe", str(tmp_path / "kf"), "--train", str(untrained)]
    assert main([*command, "--pictures", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and "a.pkl" in text
    assert message in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmdet3d_tests_nus_info_0.x.pkl", "info file of mmdet3d"),
        ("mmdet3d_tests_nus_info_1.x.pkl", "is missing"),  # its sensor files are elsewhere
        ("trainval_10samples_val.pkl", "is missing"),
        ("lyft_infos.pkl", ""),
    ],
)
def test_info_files_of_strangers_are_one_line(name, message, shared, untrained, tmp_path, monkeypatch, capsys):
    source = shared / "data" / "strangers" / "infos" / name
    if not source.is_file():
        pytest.skip(f"{source} is not here")
    (tmp_path / "kf").mkdir()
    (tmp_path / "kf" / name).symlink_to(source)
    evaluator = SimpleNamespace(config=copy.deepcopy(quick_config()))
    monkeypatch.setattr("aqr_bench.cli.pictures.load_evaluator", lambda *_: evaluator)
    command = ["evaluate", "--tier", "quick", "--keyframe", str(tmp_path / "kf"), "--train", str(untrained)]
    assert main([*command, "--pictures", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and name in text and message in text
