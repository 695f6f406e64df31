"""Spoiled records, detections, matches, checkpoints: compared, reported, read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_cases import as_json, explore, refuses, refuses_command
from fuzz_mutations import spoiled_bytes, spoiled_tree
from hypothesis import strategies as st
from worlds import linked_copy, replace, smallest_world

from aqr_bench.data.infos import open_nuscenes
from aqr_bench.engine.checkpoint import read_checkpoint
from aqr_bench.engine.weights import load_weights as load_into
from aqr_bench.engine.weights import trained_checkpoint
from aqr_bench.errors import UserError
from aqr_bench.metrics.detection import score_detections
from aqr_bench.metrics.matches import ClassMatches, Matches
from aqr_bench.records import record
from aqr_bench.records.summary import count_file
from aqr_bench.report import page
from aqr_bench.report.routers import load_weights, queries_of
from aqr_bench.report.scene_bootstrap import resampled_run
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.schema import schema_for

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "quick_0.1.0" / "records"


@pytest.fixture
def results(tmp_path) -> Path:
    """A results folder with two variants of a study and its base models."""
    for part in ("base", "bias_site/none", "bias_site/cross"):
        linked_copy(REFERENCE / part, tmp_path / "results" / "quick" / part)
    return tmp_path / "results"


def spoiled_lines(content: bytes) -> st.SearchStrategy[bytes]:
    """Records with other values in one of them, or other bytes."""
    lines = content.decode().splitlines()

    def put(number: int) -> st.SearchStrategy[bytes]:
        spoiled = as_json(spoiled_tree(json.loads(lines[number])))
        return spoiled.map(lambda line: "\n".join([*lines[:number], line, *lines[number + 1 :]]).encode())

    return st.integers(0, len(lines) - 1).flatmap(put) | spoiled_bytes(content, b"\x80\x04N.")


def spoiled_records(results: Path) -> st.SearchStrategy[tuple[Path, bytes]]:
    files = sorted(results.rglob("*.jsonl"))
    return st.sampled_from(files).flatmap(lambda p: st.tuples(st.just(p), spoiled_lines(p.read_bytes())))


def test_spoiled_records_are_compared_counted_and_reported(results, tmp_path, monkeypatch):
    other = linked_copy(results, tmp_path / "other")
    study, tier = load_study("bias_site"), load_tier("quick")
    # Figures take minutes; the numbers that they show are those of the tables.
    monkeypatch.setattr(page, "draw_study", lambda *_: [])
    rounds = iter(range(10**9))
    statuses = schema_for("record").schema["properties"]["status"]["enum"]

    def check(case: tuple[Path, bytes]) -> bool:
        path, content = case
        full = path.read_bytes()
        replace(path, content)
        try:
            result = record.read_run(path)
            assert result and all(one.status in statuses for one in result)
            count_file(path)
            refused = refuses_command("compare", results / "quick", other / "quick", "--force")
            refuses_command("studies", "cost", "bias_site", "--tier", "quick", "--records", results)
            if next(rounds) % 8 == 5:
                page.build_report(tier, [study], results, tmp_path / "report")
        finally:
            replace(path, full)
        return refused or any(one.extra.get("damaged") for one in result)

    explore("records", 12, spoiled_records(results), check)


def test_a_spoiled_train_record_is_no_model(results, tmp_path):
    path = results / "quick" / "base" / "seed0" / "train.jsonl"
    folder = tmp_path / "keyframe"
    folder.mkdir()
    (folder / "infos.pkl").write_bytes(b"\x80\x04N.")

    def check(content: bytes) -> bool:
        replace(path, content)
        try:
            trained_checkpoint(path)
        except RuntimeError as error:
            assert str(error)
        command = ("evaluate", "--tier", "quick", "--train", path, "--keyframe", folder, "--pictures", tmp_path / "out")
        return refuses_command(*command)

    explore("train record of an evaluation", 6, spoiled_lines(path.read_bytes()), check)


def test_spoiled_matches_and_router_weights_are_left_out(tmp_path):
    ones = np.ones((2, 3), np.float32)
    cars = ClassMatches(ones[0], np.zeros(3, np.int64), np.ones((3, 4), bool), np.array([3]))
    matches = Matches(("scene",), (0.5, 1.0, 2.0, 4.0), min_recall=0.1, min_precision=0.1, classes={"car": cars}).save(
        tmp_path / "matches.npz"
    )
    router = tmp_path / "router.npz"
    np.savez_compressed(router, weight=np.ones((2, 3, 2)), token=["a", "b"], score=ones, centre=np.ones((2, 3, 2)))
    assert load_weights(router) is not None and queries_of(router) is not None
    full = {matches: matches.read_bytes(), router: router.read_bytes()}
    cases = st.sampled_from(sorted(full)).flatmap(lambda p: st.tuples(st.just(p), spoiled_bytes(full[p], full[router])))

    def check(case: tuple[Path, bytes]) -> bool:
        path, content = case
        path.write_bytes(content)
        if path == router:
            return load_weights(path) is None or queries_of(path) is None
        return resampled_run(path, 1.0) is None

    explore("matches.npz and router.npz", 20, cases, check)


def test_spoiled_submissions_are_refused_or_scored(tmp_path):
    nusc = open_nuscenes(smallest_world() / "world", "v1.0-mini")
    scene = next(s for s in nusc.scene if s["name"] == "scene-0103")
    tokens = [s["token"] for s in nusc.sample if s["scene_token"] == scene["token"]]
    box = dict(translation=[1.0, 2.0, 3.0], size=[1.0, 2.0, 3.0], rotation=[1.0, 0.0, 0.0, 0.0], velocity=[0.0, 0.0])
    box |= dict(detection_name="car", detection_score=0.5, attribute_name="vehicle.parked")
    full = {"meta": {}, "results": {token: [{"sample_token": token, **box}] for token in tokens}}
    path = tmp_path / "results_nusc.json"
    path.write_text(json.dumps(full))
    assert score_detections(path, nusc, tmp_path)["mAP"] is not None
    content = path.read_bytes()
    trees = as_json(spoiled_tree(full)).map(str.encode)

    def check(case: bytes) -> bool:
        path.write_bytes(case)
        return refuses(lambda: score_detections(path, nusc, tmp_path), names=path.name, paths=(path, *tokens))

    explore("submissions", 12, trees | spoiled_bytes(content, b"PK\x03\x04"), check)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_spoiled_checkpoints_are_refused_or_read(legacy, tmp_path):
    path = tmp_path / "model.pth"
    layer = torch.nn.Linear(2, 2)
    content = {"state_dict": layer.state_dict(), "meta": {"epoch": 3, "CLASSES": ("car",)}, "optimizer": {"a": 1}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    full = path.read_bytes()

    def check(case: bytes) -> bool:
        path.write_bytes(case)
        try:
            load_into(torch.nn.Linear(2, 2), path)
        except RuntimeError as error:
            assert str(error)
        return refuses(lambda: read_checkpoint(path), names=path.name, paths=(path,))

    explore(f"checkpoints ({'legacy' if legacy else 'zip'})", 12, spoiled_bytes(full, b"\x80\x02N."), check)


def test_a_keyframe_with_spoiled_files_is_refused(tmp_path):
    """Everything that ``evaluate --keyframe`` is given but the model: one line each."""
    (tmp_path / "two").mkdir()
    for name in ("a.pkl", "b.pkl"):
        (tmp_path / "two" / name).write_bytes(b"")
    from aqr_bench.data.dataset import keyframe_data

    for folder in (tmp_path, tmp_path / "two", tmp_path / "none"):
        with pytest.raises(UserError):
            keyframe_data(folder)
