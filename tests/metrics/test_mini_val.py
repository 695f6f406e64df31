"""Real detections on the real mini_val tables: the numbers of their official summary and of nuscenes-devkit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import link_tables

from aqr_bench.errors import UserError
from aqr_bench.metrics.cross_check import cross_check
from aqr_bench.metrics.detection import score_detections
from aqr_bench.metrics.scoring_rules import ScoringRules

VERSION = "v1.0-mini"


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    folder = shared / "data" / "nuscenes_mini_val"
    if not folder.is_dir():
        pytest.skip("the tables of mini_val ../shared/data/nuscenes_mini_val are not here")
    return folder


@pytest.fixture(scope="module")
def nusc(folder, tmp_path_factory):
    from nuscenes import NuScenes

    root = link_tables(folder, tmp_path_factory.mktemp("mini_val") / "root")
    return NuScenes(VERSION, str(root), verbose=False)


def test_the_official_summary_of_a_result_is_met(folder, nusc, tmp_path):
    """Orientation and attribute errors differ: boxes of the rebuilt tables lie flat, their attributes are by rule."""
    official = json.loads((folder / "metrics_summary.json").read_text())
    scores = score_detections(folder / "results_nusc.json", nusc, tmp_path)
    assert scores["mAP"] == official["mean_ap"] == 0.07551617930781714
    for name, devkit_name in {"mATE": "trans_err", "mASE": "scale_err", "mAVE": "vel_err"}.items():
        assert scores[name] == pytest.approx(official["tp_errors"][devkit_name], rel=1e-14)
    for name, by_distance in official["label_aps"].items():
        assert scores["classes"][name]["AP_dist"] == by_distance


def test_fast_bev_scores_as_by_the_devkit(folder, nusc, tmp_path):
    scores = score_detections(folder / "fastbev_mini_val_results_nusc.json", nusc, tmp_path)
    assert (scores["mAP"], scores["NDS"]) == (0.3528120132818282, 0.41382821545468607)


def test_a_custom_split_is_scored_as_by_the_devkit(folder, tmp_path):
    from nuscenes import NuScenes

    root = link_tables(folder, tmp_path / "root")
    (root / VERSION / "splits.json").write_text(json.dumps({"my_val": ["scene-0916"]}))
    nusc = NuScenes(VERSION, str(root), verbose=False)
    scene = next(row["token"] for row in nusc.scene if row["name"] == "scene-0916")
    tokens = {sample["token"] for sample in nusc.sample if sample["scene_token"] == scene}
    submission = json.loads((folder / "results_nusc.json").read_text())
    submission["results"] = {token: boxes for token, boxes in submission["results"].items() if token in tokens}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(submission))
    fast, devkit = (score_detections(path, nusc, tmp_path, engine=engine) for engine in ("fast", "devkit"))
    assert fast["mAP"] == devkit["mAP"] > 0 and cross_check(fast, devkit, 1e-12).mismatches == ()
    with pytest.raises(UserError, match="sample"):
        score_detections(folder / "results_nusc.json", nusc, tmp_path)


def test_other_rules_are_scored_as_by_the_devkit(folder, nusc, tmp_path):
    rules = ScoringRules({"car": 30.0, "pedestrian": 60.0}, "present")
    path = folder / "results_nusc.json"
    fast, devkit = (score_detections(path, nusc, tmp_path, engine=e, rules=rules) for e in ("fast", "devkit"))
    assert cross_check(fast, devkit).agrees and fast["mAP"] != 0.07551617930781714
    assert 0 < len(fast["classes"]) <= 10
