"""aqr-bench gc: what is stored, how much of the disk it takes, and that nothing else is deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aqr_bench.cli.gc import freed_bytes, main, stored_entries
from aqr_bench.errors import UserError


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for tier in ("smoke", "quick"):
        root = tmp_path / "results" / tier
        for name in ("store/s/cross/seed0/train/0123", "work/.aside/s/cross/seed0/abcd", "s/cross/seed0", "work/s"):
            (root / name).mkdir(parents=True)
        (root / "store/s/cross/seed0/train/0123/records.stored").write_bytes(bytes(1000))
        (root / "work/.aside/s/cross/seed0/abcd/final.pth").write_bytes(bytes(2_000_000))
        (root / "s/cross/seed0/train.jsonl").write_text("{}\n")
        (root / "work/s/final.pth").touch()
    return tmp_path / "results"


def test_it_lists_and_deletes_nothing_by_itself(results, capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1] == "       4.0 MB in all; --delete removes them"
    assert "       2.0 MB  results/quick/work/.aside/s/cross/seed0/abcd" in lines
    assert len(list(results.rglob("records.stored"))) == 2


def test_json_has_what_the_lines_say(results, capsys):
    assert main(["--tier", "quick", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["deleted"], facts["bytes"]) == (False, 2_001_000)
    work = "results/quick/work/.aside/s/cross/seed0/abcd"
    assert {"tier": "quick", "path": work, "bytes": 2_000_000} in facts["entries"] and len(facts["entries"]) == 2


def test_it_deletes_the_stored_of_a_tier_alone(results, capsys):
    assert main(["--tier", "smoke", "--delete"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "       2.0 MB deleted"
    left = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    remaining = {"s/cross/seed0/train.jsonl", "work/s/final.pth"}
    stored = {"store/s/cross/seed0/train/0123/records.stored", "work/.aside/s/cross/seed0/abcd/final.pth"}
    assert left == {f"smoke/{name}" for name in remaining} | {f"quick/{name}" for name in remaining | stored}
    assert main(["--tier", "smoke"]) == 0 and capsys.readouterr().out.splitlines()[0].endswith(
        "0.0 MB in all; --delete removes them"
    )


def test_a_tier_without_results_is_named(results, capsys):
    with pytest.raises(UserError, match="--tier: no results of 'smok' in results; did you mean 'smoke'"):
        main(["--tier", "quick", "smok", "--delete"])
    assert len(list(results.rglob("records.stored"))) == 2 and not capsys.readouterr().out


def test_files_that_are_linked_elsewhere_free_nothing(results):
    folder = results / "smoke/work/.aside/s/cross/seed0/abcd"
    assert freed_bytes(folder) == 2_000_000
    os.link(folder / "final.pth", results / "smoke/work/s/linked.pth")
    assert freed_bytes(folder) == 0
    assert stored_entries(results / "smoke/work/.aside") == [folder] and stored_entries(results / "none") == []


def test_features_of_frozen_branches_are_listed_and_deleted(results, capsys):
    folder = results / "smoke/work/.features"
    folder.mkdir()
    (folder / "0123.features").write_bytes(bytes(3_000_000))
    assert main(["--tier", "smoke"]) == 0 and folder.is_dir()
    assert "       3.0 MB  results/smoke/work/.features" in capsys.readouterr().out.splitlines()
    assert main(["--tier", "smoke", "--delete"]) == 0 and not folder.exists()
