"""Submissions become records: numbers, names of conditions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import smallest_world

from aqr_bench.cli.score import main
from aqr_bench.engine.score_submission import NO_SUITE, find_submissions, find_target
from aqr_bench.errors import UserError
from aqr_bench.metrics.matches import Matches
from aqr_bench.records.record import read_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_suite

MINI_VAL_MAP = 0.07551617930781714  # of the official summary


def save(path: Path, results: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"meta": {}, "results": results}))
    return path


def box(token: str) -> dict:
    geometry = {"translation": [0, 0, 0], "size": [1, 1, 1], "rotation": [1, 0, 0, 0], "velocity": [0, 0]}
    names = {"detection_name": "car", "attribute_name": "", "detection_score": 0.5}
    return {"sample_token": token, **geometry, **names}


@pytest.fixture
def world() -> Path:
    return smallest_world() / "world"


@pytest.fixture
def tokens(world) -> list[str]:
    """Samples of the split mini_val."""
    tables = {name: json.loads((world / "v1.0-mini" / f"{name}.json").read_text()) for name in ("scene", "sample")}
    scenes = {scene["token"] for scene in tables["scene"] if scene["name"] in ("scene-0103", "scene-0916")}
    return [sample["token"] for sample in tables["sample"] if sample["scene_token"] in scenes]


def test_mini_val_has_the_map_of_the_official_summary(shared, tmp_path, capsys):
    folder = shared / "data" / "nuscenes_mini_val"
    if not folder.is_dir():
        pytest.skip("the tables of mini_val ../shared/data/nuscenes_mini_val are not here")
    out = tmp_path / "trelpy.jsonl"
    options = ["--root", str(folder), "--condition", "clean", "--name", "TRELPy", "--out", str(out)]
    assert main([str(folder / "results_nusc.json"), *options]) == 0
    (record,) = read_records(out)
    assert record.scores["mAP"] == MINI_VAL_MAP and record.ok and record.without_tier
    assert (record.kind, record.tier, record.condition, record.suite) == ("evaluate", "trelpy", "clean", NO_SUITE)
    facts = record.provenance
    assert facts["predictions_sha256"] == sha256_file(folder / "results_nusc.json")
    assert len(facts["data_sha256"]) == len(facts["code_sha256"]) == 64 and facts["infos_sha256"] is None
    assert record.cost["samples"] == 81 and record.extra["submission"]["split"] == "mini_val"
    matches = Matches.load(tmp_path / "trelpy" / "clean" / record.extra["matches"]["file"])
    assert matches.map()[0] == pytest.approx(MINI_VAL_MAP, abs=1e-12)
    assert "clean: mAP 0.076, NDS 0.102" in capsys.readouterr().out


def test_a_folder_is_a_record_for_each_condition(world, tokens, tmp_path, capsys):
    folder, results = tmp_path / "MoME v2", {token: [] for token in tokens}
    for name in ("no_lidar", "clean"):
        save(folder / f"{name}.json", results)
    out = tmp_path / "out" / "mome.jsonl"
    assert main([str(folder), "--root", str(world), "--suite", "missing_sensors", "--out", str(out)]) == 0
    records = read_records(out)
    assert [(r.tier, r.suite, r.condition) for r in records] == [
        ("mome_v2", "missing_sensors", "clean"),
        ("mome_v2", "missing_sensors", "no_lidar"),
    ]
    assert all(r.ok and r.scores["mAP"] == 0 for r in records)
    printed = capsys.readouterr().err
    assert "warning: no_lidar: the submission is the same file as that of 'clean'" in printed
    assert "warning: suite 'missing_sensors': no submission of no_cameras" in printed


def test_other_rules_are_in_the_record_and_named_as_no_official_numbers(world, tokens, tmp_path, capsys):
    file, out = save(tmp_path / "clean.json", {token: [] for token in tokens}), tmp_path / "mine.jsonl"
    arguments = [str(file), "--root", str(world), "--out", str(out), "--classes", "present", "--ranges"]
    assert main([*arguments, "car=30"]) == 0
    assert "no official numbers: car within 30 m, mean over the classes with objects" in capsys.readouterr().out
    (record,) = read_records(out)
    assert record.extra["scoring"] == {"ranges": {"car": 30.0}, "classes": "present"}
    assert 0 < len(record.scores["classes"]) <= 10
    with pytest.raises(UserError, match="range of 'cra': no detection class of that name; did you mean 'car'"):
        main([*arguments, "cra=30"])


def test_names_of_conditions(tmp_path):
    files = [save(tmp_path / f"{name}.json", {}) for name in ("fog_3", "clean", "dark")]
    assert [s.condition for s in find_submissions([tmp_path], None, None)] == ["clean", "dark", "fog_3"]
    (one,) = find_submissions(files[:1], "rain", None)
    assert (one.condition, one.path) == ("rain", files[0])
    refused = (
        ((files, "rain", None), "there are 3 submissions"),
        ((files, None, load_suite("missing_sensors")), "suite 'missing_sensors' has no condition 'fog_3'"),
        (([files[0], files[0]], None, None), "two submissions of condition 'fog_3'"),
        ((files[:1], "a/b", None), "must not have a slash"),
    )
    for arguments, message in refused:
        with pytest.raises(UserError, match=message):
            find_submissions(*arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no submission in it"):
        find_submissions([tmp_path / "empty"], None, None)


def test_the_version_is_the_one_that_is_there(world, tmp_path):
    assert find_target(world, None, None).split == "mini_val" == find_target(world, None, "mini_val").split
    assert find_target(world, "v1.0-mini", "mini_train").split == "mini_train"
    for arguments, message in (((world, "v1.0-test", None), "v1.0-test"), ((world, None, "val"), "no split 'val'")):
        with pytest.raises(UserError, match=message):
            find_target(*arguments)
    for version in ("v1.0-mini", "v1.0-trainval"):
        (tmp_path / version).mkdir()
    with pytest.raises(UserError, match="choose one with --version"):
        find_target(tmp_path, None, None)
    assert find_target(tmp_path, None, "val").version == "v1.0-trainval"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: dict(list(results.items())[1:]), "a partial submission: 1 of 2 samples"),
        (lambda results: {f"{token}x": [] for token in results}, "choose that one"),
        (lambda results: {token: [box(token)] * 501 for token in results}, "501 detections, only 500 are allowed"),
        (lambda results: {token: [{"tracking_name": "car"}] for token in results}, "a nuScenes tracking submission"),
    ],
    ids=["partial", "other split", "too many boxes", "tracking"],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(world, tokens, tmp_path, change, message):
    path, out = save(tmp_path / "clean.json", change({token: [] for token in tokens})), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=message) as refused:
        main([str(path), "--root", str(world), "--out", str(out)])
    assert str(path) in str(refused.value) and "\n" not in str(refused.value) and not out.exists()
