"""Submissions as arrays: two readers that say the same, floats to the last bit, and what is refused."""

from __future__ import annotations

import io
import json
import random
import struct
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox

from aqr_bench.errors import UserError
from aqr_bench.metrics import json_stream, submission_scan
from aqr_bench.metrics.boxes import Boxes, from_eval_boxes, from_results, read_submission, submitted
from aqr_bench.metrics.json_stream import items_of
from aqr_bench.metrics.submission_kernels import _POWERS, _number

NUMBER = {"a": 0, "b": 1, "c": 2}


def entry(token: str, **changes) -> dict:
    box = {"sample_token": token, "translation": [1.5, -2e-7, 0.1], "size": [1, 2.25, 3], "rotation": [1.0, 0, 0, 0.3]}
    box |= {"velocity": [0.0, -0.1], "detection_name": "car", "detection_score": 0.30000000000000004}
    return {**box, "attribute_name": "vehicle.parked", **changes}


def written(tmp_path, results, **more):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": {"use_lidar": True}, "results": results, **more}))
    return path


def same(a: Boxes, b: Boxes) -> None:
    for field in fields(Boxes):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True), field.name


def many() -> dict:
    rng = random.Random(0)
    numbers = [rng.uniform(-2000, 2000), 1e-30, rng.random() * 1e-6, 123456789012345678, 5e-324, 0.1, -0.0, 1e22]
    some = lambda n: [rng.choice(numbers) for _ in range(n)]  # noqa: E731
    return {
        token: [
            entry(token, translation=some(3), size=some(3), rotation=some(4), velocity=some(2), detection_score=s)
            for s in (0.5, 1, 0)
        ]
        for token in ("b", "a", "c")
    }


@pytest.mark.parametrize("chunk", [1 << 20, 700, 97])
def test_both_readers_and_the_devkit_read_the_same(tmp_path, monkeypatch, chunk):
    """Whole, and in pieces that end anywhere."""
    monkeypatch.setattr(submission_scan, "CHUNK", chunk)
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    results = {**many(), "c": []}
    path = written(tmp_path, results)
    boxes = read_submission(path, NUMBER, 500)
    assert submission_scan.scan(path, NUMBER) is not None and boxes.sample.tolist() == [1, 1, 1, 0, 0, 0]
    same(boxes, from_results(submitted(path), NUMBER, 500))
    same(boxes, from_results(results.items(), NUMBER))
    same(boxes, from_eval_boxes(load_prediction(str(path), 500, DetectionBox)[0], NUMBER))


@pytest.mark.parametrize(
    "odd",
    [
        {"velocity": [float("nan"), 1.0]},
        {"num_pts": 0},
        {"detection_score": 1e400},
        {"note": {"any": ["thing"]}},
        {"size": [1.2345678901234567e30, 1, 1.5]},
    ],
)
def test_what_the_scanner_does_not_know_the_other_reader_takes(tmp_path, odd):
    results = {"a": [entry("a", **odd)], "b": [entry("b")], "c": []}
    path = written(tmp_path, results)
    same(read_submission(path, NUMBER), from_results(results.items(), NUMBER))
    same(read_submission(path, NUMBER), from_eval_boxes(load_prediction(str(path), 500, DetectionBox)[0], NUMBER))


def test_keys_in_another_order_spaces_and_names_with_escapes(tmp_path):
    box = dict(reversed(entry("a").items()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"results": {"a": [box, box], "b": [], "c": []}, "meta": {}}, indent=3))
    assert submission_scan.scan(path, NUMBER) is not None
    expected = from_results({"a": [box, box], "b": [], "c": []}.items(), NUMBER)
    same(read_submission(path, NUMBER), expected)
    path.write_text(path.read_text().replace('"a"', '"\\u0061"'))
    assert submission_scan.scan(path, NUMBER) is None
    same(read_submission(path, NUMBER), expected)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"a": [], "b": []}, "not in the submission, c"),
        ({"a": [], "b": [], "c": [], "d": []}, "d of the submission"),
        ({"a": [entry("a")] * 3, "b": [], "c": []}, "only 2 are allowed"),
        ({"a": [entry("b")], "b": [], "c": []}, "says it is of sample b"),
        ({"a": [entry("a", detection_name="dog")], "b": [], "c": []}, "dog"),
        ({"a": [entry("a", attribute_name="x")], "b": [], "c": []}, "KeyError"),
        ({"a": [entry("a", size=[1, 2])], "b": [], "c": []}, "size of a detection needs 3"),
        ({"a": [entry("a", rotation=[1, 0, 0, float("nan")])], "b": [], "c": []}, "rotation of a detection is NaN"),
        ({"a": [entry("a", detection_score=float("nan"))], "b": [], "c": []}, "detection_score is NaN"),
        ({"a": [{"sample_token": "a"}], "b": [], "c": []}, "detection_name"),
    ],
)
def test_submissions_that_are_refused(tmp_path, results, message):
    with pytest.raises(UserError, match=message):
        read_submission(written(tmp_path, results), NUMBER, 2)


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_file_that_was_cut_off_is_refused(tmp_path, cut):
    path = written(tmp_path, {"a": [entry("a")], "b": [], "c": []})
    path.write_text(path.read_text()[:-cut])
    with pytest.raises(UserError, match="cannot be read"):
        read_submission(path, NUMBER)


def test_files_that_are_no_submission_are_refused(tmp_path):
    path = tmp_path / "results.json"
    for text in ("", "[]", "{}", '{"results": {}} x', '{"results": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"results\.json"):
            read_submission(path, NUMBER)
    with pytest.raises(UserError, match="gone"):
        read_submission(tmp_path / "gone.json", NUMBER)


def test_a_sample_that_comes_twice_counts_the_second_time(tmp_path):
    path = written(tmp_path, {"a": [entry("a", detection_score=0.1)], "b": [], "c": []})
    again = json.dumps([entry("a", detection_score=0.7)])
    path.write_text(path.read_text().replace('"c": []', f'"c": [], "a": {again}'))
    assert read_submission(path, NUMBER).score.tolist() == [0.7]


def test_the_members_of_an_object_come_one_by_one(monkeypatch):
    value = {"x": [1, {"results": 2}], "results": {"a": 12, "b": [1.5, "}"], "c": {}}, "y": None}
    for chunk in (1, 2, 7, 1000):
        monkeypatch.setattr(json_stream, "CHUNK", chunk)
        assert dict(items_of(io.StringIO(json.dumps(value)), "results")) == value["results"]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("<d", struct.pack("<Q", b))[0]), st.floats(-1e4, 1e4)
    )
)
def test_numbers_are_read_to_the_last_bit_or_left_to_python(value):
    if not np.isfinite(value):
        return
    for text in (repr(value), f"{value:.17e}", f"{value:.20f}", f"{value:.3f}"):
        data = np.frombuffer(f"{text},".encode(), dtype=np.uint8)
        got, end, sure = _number(data, 0, len(data), _POWERS)
        assert end == len(text)
        if sure:
            assert struct.pack("<d", got) == struct.pack("<d", float(text)), text
    if 1e-4 < abs(value) < 1e15:
        assert _number(np.frombuffer(f"{value!r},".encode(), dtype=np.uint8), 0, 40, _POWERS)[2]
