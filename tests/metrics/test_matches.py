"""Matches against nuscenes-devkit: AP of the full set, the file, and the scores of both engines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from metrics_boxes import CONFIG, devkit_aps, random_boxes
from metrics_devkit import match_boxes
from nuscenes.eval.common.data_classes import EvalBoxes

from aqr_bench.metrics.cross_check import check_submission, cross_check
from aqr_bench.metrics.detection import empty_submission_scores, score_detections
from aqr_bench.metrics.matches import Matches


def aps(matches: Matches) -> dict[str, list[float]]:
    return {name: list(matches.ap(name)[0]) for name in matches.classes}


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_ap_is_the_devkits(seed, ties):
    truth, detections, scene_of = random_boxes(seed=seed, ties=ties)
    expected = devkit_aps(truth, detections)
    matches = match_boxes(truth, detections, scene_of, CONFIG)
    assert 0.3 < max(expected["car"]) < 1 and expected["bus"] == expected["truck"] == expected["barrier"] == [0] * 4
    for name, values in aps(matches).items():
        assert values == pytest.approx(expected[name], abs=1e-12), name
    assert matches.map()[0] == pytest.approx(np.mean([np.mean(v) for v in expected.values()]), abs=1e-12)
    cars = matches.classes["car"]
    assert ((len(np.unique(cars.score)) < len(cars.score)) == ties) and (np.diff(cars.score) <= 0).all()
    assert cars.positives.sum() == sum(b.detection_name == "car" for b in truth.all)


def test_no_detection_and_no_object():
    truth, detections, scene_of = random_boxes()
    assert match_boxes(truth, EvalBoxes(), scene_of, CONFIG).map(np.full((2, 6), 1)).tolist() == [0, 0]
    assert match_boxes(EvalBoxes(), detections, scene_of, CONFIG).map().tolist() == [0]


def test_a_file_is_loaded_as_it_was_saved(tmp_path):
    truth, detections, scene_of = random_boxes()
    matches = match_boxes(truth, detections, scene_of, CONFIG)
    again = Matches.load(matches.save(tmp_path / "new" / "matches.npz"))
    assert again.scores().nds == matches.scores().nds and again.samples == matches.samples
    assert again.by_sample().map() == matches.map()
    assert aps(again) == aps(matches) and again.scenes == matches.scenes and again.distances == (0.5, 1.0, 2.0, 4.0)
    assert all((again.classes[n].score == matches.classes[n].score).all() for n in matches.classes)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["matches.npz"]


def test_a_file_without_errors_still_gives_map(tmp_path):
    """As older evaluations wrote them."""
    truth, detections, scene_of = random_boxes()
    matches = match_boxes(truth, detections, scene_of, CONFIG)
    path = matches.save(tmp_path / "matches.npz")
    with np.load(path) as file:
        older = {k: v for k, v in file.items() if not k.startswith(("errors", "sample", "objects", "scene_of"))}
    np.savez(path, **{**older, "rule": older["rule"][:2]})
    old = Matches.load(path)
    assert aps(old) == aps(matches) and not old.has_errors and old.scores().nds is None
    with pytest.raises(ValueError, match="no sample indices"):
        old.by_sample()


@pytest.mark.parametrize("weights", [[[1, 2]], [1] * 6, [[0.5] * 6], [[-1] + [1] * 5]])
def test_weights_that_are_no_counts_are_refused(weights):
    truth, detections, scene_of = random_boxes()
    with pytest.raises(ValueError, match="integers of shape"):
        match_boxes(truth, detections, scene_of, CONFIG).map(np.array(weights))


def test_scores_of_both_engines_and_the_saved_matches_of_a_small_world(tmp_path):
    """The devkit loads and filters a small world; detections are its objects, moved, and some that are not there."""
    from nuscenes import NuScenes

    from aqr_bench.world.spec import WorldSpec
    from aqr_bench.world.write import write_world

    spec = {"version": "v1.0-mini", "train_scenes": 1, "val_scenes": 2, "frames_per_scene": 2, "seed": 3}
    write_world(WorldSpec.from_dict(spec), tmp_path / "world")
    nusc = NuScenes("v1.0-mini", str(tmp_path / "world"), verbose=False)
    results, rng = {}, np.random.default_rng(0)
    validation = {s["token"] for s in nusc.scene if s["name"] in ("scene-0103", "scene-0916")}
    for sample in (s for s in nusc.sample if s["scene_token"] in validation):
        rows = results[sample["token"]] = []
        for annotation in (nusc.get("sample_annotation", token) for token in sample["anns"]):
            name = "pedestrian" if annotation["category_name"].startswith("human") else "car"
            centre = np.add(annotation["translation"], (*rng.normal(0, 0.6, 2), 0))
            row = {"sample_token": sample["token"], "translation": centre.tolist(), "size": annotation["size"]}
            row |= {"rotation": annotation["rotation"], "velocity": [0.0, 0.0], "detection_name": name}
            rows.append({**row, "detection_score": round(rng.uniform(), 1), "attribute_name": ""})
    meta = {f"use_{m}": True for m in ("camera", "lidar", "radar", "map", "external")}
    (tmp_path / "results.json").write_text(json.dumps({"meta": meta, "results": results}))
    scores = score_detections(tmp_path / "results.json", nusc, tmp_path, matches=tmp_path / "matches.npz")
    for engine, how in (("devkit", {}), ("fast", {"results": results})):
        other = score_detections(tmp_path / "results.json", nusc, tmp_path, engine=engine, **how)
        assert cross_check(scores, other).agrees and list(other) == list(scores), engine
        assert list(other["classes"]["car"]) == list(scores["classes"]["car"])
    assert check_submission(tmp_path / "results.json", scores, nusc).agrees
    assert not check_submission(tmp_path / "results.json", {**scores, "NDS": scores["NDS"] + 1e-8}, nusc).agrees
    saved = Matches.load(tmp_path / "matches.npz")
    assert saved.scenes == ("scene-0103", "scene-0916") and saved.map()[0] == pytest.approx(scores["mAP"], abs=1e-12)
    assert scores["mAP"] > 0.001
    for name, values in aps(saved).items():
        assert values == pytest.approx(list(scores["classes"][name]["AP_dist"].values()), abs=1e-12), name
    # Without any detection the positives are counted as well.
    (tmp_path / "none.json").write_text(json.dumps({"meta": meta, "results": {token: [] for token in results}}))
    for engine in ("devkit", "fast"):
        empty = score_detections(tmp_path / "none.json", nusc, tmp_path, matches=tmp_path / "none.npz", engine=engine)
        assert empty == empty_submission_scores(CONFIG.class_names), engine
    none = Matches.load(tmp_path / "none.npz")
    assert none.map()[0] == 0 and none.scenes == saved.scenes
    assert all((none.classes[n].positives == saved.classes[n].positives).all() for n in saved.classes)
