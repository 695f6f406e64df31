"""Identical work is done once: who counts as a twin, and what is taken over."""

from __future__ import annotations

from pathlib import Path

from aqr_bench.engine.evaluate_suite import _reused_records
from aqr_bench.records.cache import find_cached, reuse_file, save_cache_entry
from aqr_bench.records.record import Record


def test_a_twin_has_the_same_identity_and_is_not_oneself(tmp_path):
    own, twin, base = (tmp_path / name for name in ("b/none/seed0", "a/none/seed0", "base/seed0"))
    for folder in (own, twin, base):
        folder.mkdir(parents=True)
        save_cache_entry(folder, "train", ["x", "y"], {"run": folder.name})
    assert find_cached(tmp_path, own, "train", ["x", "y"])[0] == twin
    assert find_cached(tmp_path, own, "train", ["x", "z"]) is None
    assert find_cached(tmp_path, own, "evaluate.s", ["x", "y"]) is None
    (twin / "train.done.json").write_text("{cut")
    assert find_cached(tmp_path, own, "train", ["x", "y"]) is None


def test_a_twin_without_its_files_is_none(tmp_path):
    own, twin = tmp_path / "b" / "none" / "seed0", tmp_path / "a" / "none" / "seed0"
    twin.mkdir(parents=True)
    (twin / "final.pth").write_bytes(b"weights")
    save_cache_entry(twin, "train", ["x"], {"run": "a"}, ["final.pth"])
    assert find_cached(tmp_path, own, "train", ["x"]) == (twin, {"run": "a"})
    (twin / "final.pth").write_bytes(b"others")
    assert find_cached(tmp_path, own, "train", ["x"]) is None
    (twin / "final.pth").unlink()
    assert find_cached(tmp_path, own, "train", ["x"]) is None


def test_files_are_put_in_place_also_over_older_ones(tmp_path):
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    assert reuse_file(tmp_path / "a", tmp_path / "b").read_text() == "new"
    assert reuse_file(tmp_path / "a", tmp_path / "c" / "d").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_twin_evaluation_gets_its_own_name_and_files(tmp_path):
    folder, work = tmp_path / "a" / "none" / "seed1", tmp_path / "b" / "plain" / "seed1"
    remaining = folder / "detections" / "s" / "clean" / "matches.npz"
    remaining.parent.mkdir(parents=True)
    remaining.write_bytes(b"matches")
    record = Record(
        "evaluate", "ok", "quick", "a", "none", 1, "clean", "s", scores={"mAP": 0.5},
        extra={"matches": {"file": "matches.npz"}},
    )  # fmt: skip
    trained = Record("train", "ok", "quick", "b", "plain", 1)
    result = {"run": "a/none/seed1", "records": [record.to_dict()]}
    taken = _reused_records(Path(folder), result, work, trained)[0]
    assert (taken.study, taken.variant, taken.seed, taken.scores["mAP"]) == ("b", "plain", 1, 0.5)
    assert taken.extra["same_as"] == "a/none/seed1"
    assert (work / "detections" / "s" / "clean" / "matches.npz").read_bytes() == b"matches"
