"""Custom splits: those of splits.json, as nuscenes-devkit 1.2 reads it; the official ones without it."""

from __future__ import annotations

import json

import pytest
from nuscenes.utils.splits import create_splits_scenes

from aqr_bench.errors import UserError
from aqr_bench.metrics.splits import FILE, OFFICIAL, evaluation_split, read_splits

VERSION = "v1.0-mini"


def write(root, content) -> None:
    folder = root / VERSION
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content))


def test_official_splits_without_a_file(tmp_path):
    for version, (train, val) in OFFICIAL.items():
        splits = read_splits(tmp_path, version)
        assert (splits["train"].name, splits["val"].name) == (train, val)
        assert list(splits["val"].scenes) == create_splits_scenes()[val] and not splits["val"].custom
        assert evaluation_split(tmp_path, version) == evaluation_split(None, version) == val


def test_a_file_takes_the_place_of_the_splits_that_it_has(tmp_path):
    write(tmp_path, {"my_train": ["a", "b"], "my_val": ["c"], "night": ["a", "c"]})
    splits = read_splits(tmp_path, VERSION)
    assert [(s.name, s.scenes, s.custom) for s in splits.values()] == [
        ("my_train", ("a", "b"), True),
        ("my_val", ("c",), True),
    ]
    assert evaluation_split(tmp_path, VERSION) == "my_val"
    write(tmp_path, {"my_val": ["c"], "mini_val": create_splits_scenes()["mini_val"]})
    splits = read_splits(tmp_path, VERSION)
    assert (splits["train"].name, splits["val"].name) == ("mini_train", "my_val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "splits.json cannot be read"),
        ([], "no object of lists of scene names.*Write an object"),
        ({"my_val": "scene-0001"}, "no object of lists of scene names"),
        ({"my_val": [1]}, "no object of lists of scene names"),
        ({"val": ["a"]}, "'val' is an official split, which nuscenes-devkit does not read.*such as 'my_val'"),
        ({"a_val": ["a"], "b_val": ["b"]}, "more than one split for val: a_val, b_val.*one alone end in 'val'"),
        ({"my_train": ["a"], "my_val": ["a"]}, "scenes of both 'my_train' and 'my_val': a"),
        ({"my_val": ["scene-0061"]}, "scenes of both 'mini_train' and 'my_val': scene-0061"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, message):
    write(tmp_path, content)
    with pytest.raises(UserError, match=message):
        read_splits(tmp_path, VERSION)
    with pytest.raises(UserError, match=r"v1\.0-mini/splits\.json"):
        evaluation_split(tmp_path, VERSION)


def test_the_test_split_is_the_one_that_is_evaluated(tmp_path):
    splits = read_splits(tmp_path, "v1.0-test")
    assert splits["train"].scenes == () and len(splits["val"].scenes) == 150
    assert splits["val"].name == evaluation_split(tmp_path, "v1.0-test") == "test"
    with pytest.raises(UserError, match=r"'v1.0-all' has no train and val split; known: v1.0-trainval, v1.0-mini, v1"):
        read_splits(tmp_path, "v1.0-all")
