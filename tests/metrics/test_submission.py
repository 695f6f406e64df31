"""Submissions: written as mmdet3d's NuScenesMetric writes them, read as the devkit reads them, or refused."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_boxes import assert_equal
from metrics_devkit import from_eval_boxes
from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox
from scipy.spatial.transform import Rotation

from aqr_bench.errors import UserError
from aqr_bench.metrics import submission
from aqr_bench.metrics.submission import (
    check_leaderboard_file,
    from_results,
    load_results,
    read_submission,
    sample_detections,
    write_submission,
)

NAMES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip

SAMPLE_INDEX = {"a": 0, "b": 1, "c": 2}


# ---------------------------------------------------------------- writing


def pose(rng):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zyx", rng.uniform([-3, -0.1, -0.1], [3, 0.1, 0.1])).as_matrix()
    matrix[:3, 3] = rng.uniform(-5, 5, 3)
    return matrix


def detections(rng, count=120):
    boxes = rng.uniform([-50, -50, -3, 0.3, 0.3, 0.3, -4, -3, -3], [50, 50, 2, 9, 3, 4, 4, 3, 3], (count, 9))
    boxes[::3, 7:] = rng.uniform(-0.1, 0.1, (len(boxes[::3]), 2))  # not moving
    return boxes.astype(np.float32), rng.random(count).astype(np.float32), rng.integers(0, len(NAMES), count)


def test_equals_mmdet3d(tmp_path):
    from aqr_bench import compat

    compat.prepare()
    from mmdet3d.evaluation import NuScenesMetric
    from mmdet3d.structures import LiDARInstance3DBoxes
    from nuscenes.eval.common.config import config_factory

    rng = np.random.default_rng(0)
    lidar2ego, ego2global = pose(rng), pose(rng)
    boxes, scores, labels = detections(rng)
    config = config_factory("detection_cvpr_2019")
    ours = sample_detections("t0", boxes, scores, labels, NAMES, lidar2ego, ego2global, config.class_range)

    metric = NuScenesMetric(data_root="", ann_file="", format_only=True, jsonfile_prefix=str(tmp_path))
    metric.data_infos = [{"token": "t0", "lidar_points": {"lidar2ego": lidar2ego}, "ego2global": ego2global}]
    bottom = boxes.copy()
    bottom[:, 2] -= bottom[:, 5] / 2
    predicted = {
        "bboxes_3d": LiDARInstance3DBoxes(torch.from_numpy(bottom), 9),
        "scores_3d": torch.from_numpy(scores),
        "labels_3d": torch.from_numpy(labels),
    }
    written = Path(metric._format_lidar_bbox([predicted], [0], NAMES, str(tmp_path)))
    reference = json.loads(written.read_text())["results"]["t0"]

    assert 0 < len(ours) < len(boxes) and len(ours) == len(reference)  # some are out of range
    for entry, other in zip(ours, reference, strict=True):
        for key in ("sample_token", "detection_name", "attribute_name"):
            assert entry[key] == other[key]
        for key in ("translation", "size", "velocity", "detection_score"):
            assert entry[key] == pytest.approx(other[key], abs=2e-5)
        sign = np.sign(np.dot(entry["rotation"], other["rotation"]))  # q and -q are one rotation
        assert np.multiply(entry["rotation"], sign) == pytest.approx(other["rotation"], abs=1e-6)


def test_no_detection_is_an_empty_list_and_files_are_written_atomically(tmp_path):
    none = sample_detections(
        "t", np.zeros((0, 9)), np.zeros(0), np.zeros(0, int), NAMES, np.eye(4), np.eye(4), dict.fromkeys(NAMES, 50)
    )
    assert none == []
    path = write_submission(tmp_path / "a" / "results_nusc.json", {"t": none})
    assert json.loads(path.read_text())["results"] == {"t": []}
    assert [p.name for p in path.parent.iterdir()] == ["results_nusc.json"]


def test_a_leaderboard_file_is_checked_by_nuscenes_devkit(tmp_path):
    path = tmp_path / "results.json"
    write_submission(path, {"a": [entry("a")], "b": []}, camera=False)
    meta = json.loads(path.read_text())["meta"]
    assert meta == dict(use_camera=False, use_lidar=True, use_radar=False, use_map=False, use_external=False)
    check_leaderboard_file(path, ["a", "b"], 500)
    for samples, message in {
        ("a", "b", "c"): "1 samples of the split are missing, 0",
        ("a",): "are missing, 1 are",
    }.items():
        with pytest.raises(RuntimeError, match=message):
            check_leaderboard_file(path, samples, 500)
    for change, message in (
        ({"meta": {"use_lidar": True}}, "meta has use_lidar"),
        ({"results": {"a": [entry("a")] * 2, "b": []}}, "nuscenes-devkit does not take it .*Only <= 1 boxes"),
        ({"results": {"a": [entry("a", detection_name="tree")], "b": []}}, "nuscenes-devkit does not take it"),
    ):
        path.write_text(json.dumps({"meta": meta, "results": {"a": [entry("a")], "b": []}} | change))
        with pytest.raises(RuntimeError, match=message):
            check_leaderboard_file(path, ["a", "b"], 1)


# ---------------------------------------------------------------- reading


def entry(token: str, **changes) -> dict:
    box = {"sample_token": token, "translation": [1.5, -2e-7, 0.1], "size": [1, 2.25, 3], "rotation": [1.0, 0, 0, 0.3]}
    box |= {"velocity": [0.0, -0.1], "detection_name": "car", "detection_score": 0.30000000000000004}
    return {**box, "attribute_name": "vehicle.parked", **changes}


def save(tmp_path, results) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": {"use_lidar": True}, "results": results}))
    return path


@pytest.fixture
def decoder_alone(monkeypatch):
    """The typed decoder without the general reader that takes what it refuses."""
    monkeypatch.setattr(submission, "_parse", lambda *_: pytest.fail("the typed decoder refused the file"))


def random_results() -> dict:
    """Numbers of many magnitudes, some with more digits than a float holds; sample c without a detection."""
    rng = random.Random(0)
    numbers = [rng.uniform(-2000, 2000), 1e-30, rng.random() * 1e-6, 123456789012345678, 5e-324, 0.1, -0.0, 1e22]
    numbers += [-7, 1.2345678901234567e30]

    def some(count: int) -> list:
        return [rng.choice(numbers) for _ in range(count)]

    def box(token: str, score: float) -> dict:
        numbers = {"translation": some(3), "size": some(3), "rotation": some(4), "velocity": some(2)}
        return entry(token, **numbers, detection_score=score, detection_name=rng.choice(NAMES))

    return {**{token: [box(token, score) for score in (0.5, 1, 0)] for token in ("b", "a")}, "c": []}


def assert_read_as_the_devkit_reads(path: Path, results: dict) -> None:
    boxes = read_submission(path, SAMPLE_INDEX, 500)
    assert_equal(boxes, from_results(results, SAMPLE_INDEX))
    assert_equal(boxes, from_eval_boxes(load_prediction(str(path), 500, DetectionBox)[0], SAMPLE_INDEX))


@pytest.mark.parametrize("indent", [None, 3])
def test_a_file_is_read_as_the_devkit_reads_it(tmp_path, decoder_alone, indent):
    """Samples and detections in their order, keys in any order, with and without white space."""
    results = random_results()
    results["b"][1] = dict(reversed(results["b"][1].items()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"results": results, "meta": {}}, indent=indent))
    assert read_submission(path, SAMPLE_INDEX).sample.tolist() == [1, 1, 1, 0, 0, 0]
    assert_read_as_the_devkit_reads(path, results)


def test_escapes_and_other_keys_are_json_like_any_other(tmp_path, decoder_alone):
    results = {"a": [entry("a", note={"any": ["thing"]}, num_pts=0)], "b": [entry("b")], "c": []}
    path = save(tmp_path, results)
    path.write_text(path.read_text().replace('"a"', '"\\u0061"').replace('"car"', '"c\\u0061r"'))
    assert_read_as_the_devkit_reads(path, results)


@pytest.mark.parametrize(
    "changes",
    [
        {"velocity": [float("nan"), 1.0]},
        {"detection_score": 1e400},
        {"detection_score": "0.5"},
        {"velocity": [float("-inf"), 1.0]},
    ],
)
def test_what_is_not_standard_json_is_read_as_the_devkit_reads_it(tmp_path, changes):
    results = {"a": [entry("a", **changes)], "b": [entry("b")], "c": []}
    assert_read_as_the_devkit_reads(save(tmp_path, results), results)


def test_numbers_are_read_to_the_last_bit(tmp_path, decoder_alone):
    rng = random.Random(1)
    values = [struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0] for _ in range(600)]
    values = [v for v in values if np.isfinite(v)] + [rng.uniform(-1e4, 1e4) for _ in range(600)]
    texts = [form(v) for v in values for form in (repr, "{:.17e}".format, "{:.20f}".format, "{:.3f}".format)]
    texts = [text for text in texts if len(text) < 60]
    path = save(tmp_path, {"a": [entry("a", translation=[0, 0, f"#{i}"]) for i in range(len(texts))], "b": [], "c": []})
    content = path.read_text()
    path.write_text("".join(part + text for part, text in zip(_split_at_marks(content), [*texts, ""], strict=True)))
    read = read_submission(path, SAMPLE_INDEX).translation[:, 2]
    assert len(texts) > 2000 and read.tobytes() == np.array([float(text) for text in texts]).tobytes()


def _split_at_marks(content: str) -> list[str]:
    first, *others = content.split('"#')
    return [first, *(part.split('"', 1)[1] for part in others)]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"a": [], "b": []}, "partial submission: 1 of 3 samples .* not in the submission, for example c"),
        ({"a": [], "b": [], "c": [], "d": []}, "1 of 4 samples of the submission are not in the split, .* d"),
        ({"d": [], "e": []}, "no sample of the submission is in the split: it has 2, .* d, and the split has 3"),
        ({"a": [entry("a")] * 3, "b": [], "c": []}, "3 detections, only 2 are allowed"),
        ({"a": [entry("b")], "b": [], "c": []}, "names sample b"),
        ({"a": [entry("a", detection_name="dog")], "b": [], "c": []}, "dog"),
        ({"a": [entry("a", attribute_name="x")], "b": [], "c": []}, "KeyError: 'x'"),
        ({"a": [entry("a", size=[1, 2])], "b": [], "c": []}, "size of a box must be 3 numbers"),
        ({"a": [entry("a", rotation=[1, 0, 0, float("nan")])], "b": [], "c": []}, "rotation of a box is NaN"),
        ({"a": [entry("a", detection_score=float("nan"))], "b": [], "c": []}, "detection_score is NaN"),
        ({"a": [entry("a", num_pts=float("inf"))], "b": [], "c": []}, "OverflowError"),
        ({"a": [{"sample_token": "a"}], "b": [], "c": []}, "detection_name"),
        ({"a": [3], "b": [], "c": []}, "invalid detection"),
        ({"a": 3, "b": [], "c": []}, "int instead of a list"),
    ],
)
def test_invalid_submissions_are_refused_with_file_and_reason(tmp_path, results, message):
    path = save(tmp_path, results)
    with pytest.raises(UserError, match=message) as refused:
        read_submission(path, SAMPLE_INDEX, 2)
    assert str(path) in str(refused.value)
    with pytest.raises(UserError, match=message):
        from_results(results, SAMPLE_INDEX, 2)


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_truncated_file_is_refused(tmp_path, cut):
    path = save(tmp_path, {"a": [entry("a")], "b": [], "c": []})
    path.write_text(path.read_text()[:-cut])
    with pytest.raises(UserError, match="cannot be read"):
        read_submission(path, SAMPLE_INDEX)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"meta": {}}', '{"results": {}} x', '{"results": 3}'),
        *('{"results": {"a": [\udcff]}}', '{"results": {"a": ' + "[" * 100_000),
    ],
    ids=range(9),
)
def test_files_that_are_not_submissions_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    for read in (load_results, lambda path: read_submission(path, SAMPLE_INDEX)):
        with pytest.raises(UserError, match=r"results\.json"):
            read(path)
        with pytest.raises(UserError, match=r"gone\.json"):
            read(tmp_path / "gone.json")


def test_of_a_sample_that_is_listed_twice_the_second_list_counts(tmp_path, decoder_alone):
    path = save(tmp_path, {"a": [entry("a", detection_score=0.1)], "b": [], "c": []})
    again = json.dumps([entry("a", detection_score=0.7)])
    path.write_text(path.read_text().replace('"c": []', f'"c": [], "a": {again}'))
    assert read_submission(path, SAMPLE_INDEX).score.tolist() == [0.7]
