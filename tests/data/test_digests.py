"""Whether info files and tables are still those that results were made from: contents decide, not times."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from aqr_bench.cli.current import current_state
from aqr_bench.data import digests
from aqr_bench.data.__main__ import main
from aqr_bench.data.dataset import load_data
from aqr_bench.data.digests import file_digests, infos_digest, table_digests
from aqr_bench.errors import UserError
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.plan import select
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import write_world

WORLD = dict(version="v1.0-mini", train_scenes=1, val_scenes=1, frames_per_scene=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with a world and its info files."""
    folder = tmp_path_factory.mktemp("digests")
    write_world(WorldSpec.from_dict(WORLD), folder / "world")
    assert prepare(folder) == 0
    return folder


def prepare(folder: Path, *more: str) -> int:
    root, out = str(folder / "world"), str(folder / "infos")
    return main(["--version", "v1.0-mini", "--root", root, "--out", out, "--quiet", *more])


@pytest.fixture
def place(prepared, tmp_path) -> Path:
    """A copy whose files are all newer than the original."""
    return Path(shutil.copytree(prepared, tmp_path / "place", copy_function=shutil.copyfile))


def edit_table(place: Path) -> Path:
    table = place / "world" / "v1.0-mini" / "sample_annotation.json"
    rows = json.loads(table.read_text())
    rows[0]["size"][0] += 1.0
    table.write_text(json.dumps(rows))
    return table


def test_a_copy_is_the_same_data(prepared, place):
    before, after = load_data(prepared / "infos"), load_data(place / "infos")
    assert (before.sha256, before.infos_sha256) == (after.sha256, after.infos_sha256)
    assert len(before.infos_sha256) == 64


def test_an_edited_table_is_named_until_the_info_files_are_made_again(place):
    table = edit_table(place)
    with pytest.raises(UserError, match=rf"{table.name} is not what .*data\.json describes.*Run aqr-bench data again"):
        load_data(place / "infos")
    prepare(place)
    load_data(place / "infos")


def test_edited_tables_of_a_nuscenes_tier_make_its_results_stale(place, tmp_path):
    """A real data set has no world.json: what its tables hold decides. Here annotations are added."""
    tier = tmp_path / "my_data.yaml"
    data = f"{{kind: nuscenes, version: v1.0-mini, root: {place / 'world'}}}"
    lengths = "base: {iterations: 4}\nvariant: {iterations: 2, init: base}"
    tier.write_text(f"name: my_data\nsummary: Own data.\ndata: {data}\nmodel: cmt_aqr_quick\n{lengths}\n")
    selection, results = select(tier, ["smoke"]), tmp_path / "results"
    shutil.copytree(place / "infos", RunLayout("my_data", results).infos)
    (base,) = (v for v in current_state(selection, results).verdicts if v.asked.label == "train base seed 0")
    base.path.parent.mkdir(parents=True)
    provenance = {"request": base.requests[None].to_dict(), "checkpoint_sha256": "0" * 64}
    base.path.write_text(json.dumps({"condition": None, "provenance": provenance}) + "\n")
    assert (current_state(selection, results).stale, current_state(selection, results).others) == ([], {})
    table = place / "world" / "v1.0-mini" / "sample_annotation.json"
    rows = json.loads(table.read_text())
    table.write_text(json.dumps([*rows, {**rows[0], "token": "added", "prev": "", "next": ""}]))
    state = current_state(selection, results)
    summary = RunLayout("my_data", results).info_summary
    assert state.stale == [base.path, summary] and state.others == {summary: "tables of the data set changed"}
    assert state.stale_records[0].reasons == ("info files rebuilt (tables of the data set changed)",)
    with pytest.raises(UserError, match=r"sample_annotation\.json is not what .* was edited after the info files"):
        load_data(place / "infos")


def test_results_that_are_a_link_to_another_depth_know_their_root(place, tmp_path):
    target = tmp_path / "another" / "disk"
    target.mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tier").symlink_to(target)
    out = tmp_path / "results" / "tier" / "infos"
    assert main(["--version", "v1.0-mini", "--root", str(place / "world"), "--out", str(out), "--quiet"]) == 0
    for infos in (out, target / "infos"):
        assert load_data(infos).root == (place / "world").resolve()


def test_other_sweeps_are_other_info_files_of_the_same_tables(place):
    before = load_data(place / "infos")
    prepare(place, "--max-sweeps", "1")
    after = load_data(place / "infos")
    assert after.sha256 == before.sha256 and after.infos_sha256 != before.infos_sha256


def test_a_replaced_info_file_is_named(place):
    shutil.copyfile(place / "infos" / "infos_val.pkl", place / "infos" / "infos_train.pkl")
    with pytest.raises(UserError, match=r"infos_train\.pkl is not the file that .*data\.json describes"):
        load_data(place / "infos")


def test_a_summary_of_an_earlier_version_still_knows_its_tables(place):
    path = place / "infos" / "data.json"
    summary = json.loads(path.read_text())
    del summary["sha256"]
    path.write_text(json.dumps(summary))
    assert load_data(place / "infos").infos_sha256 == infos_digest(place / "infos")
    edit_table(place)
    with pytest.raises(UserError, match="is not what"):
        load_data(place / "infos")


def test_files_are_read_again_only_where_size_or_time_changed(place, monkeypatch):
    read = []
    monkeypatch.setattr(digests, "sha256_file", lambda path: read.append(path.name) or "0" * 64)
    infos = place / "infos"
    notes = infos / digests.NOTES
    notes.unlink()
    tables = table_digests(place / "world", "v1.0-mini", infos)
    assert sorted(read) == sorted(tables) and len(tables) == 13
    read.clear()
    table_digests(place / "world", "v1.0-mini", infos)
    assert not read
    scene = place / "world" / "v1.0-mini" / "scene.json"
    os.utime(scene, ns=(0, 0))
    table_digests(place / "world", "v1.0-mini", infos)
    assert read == ["scene.json"]
    for damage in ("[", "[]", '{"scene.json": {"stamp": null, "sha256": "x"}}', '{"scene.json": 3}'):
        notes.write_text(damage)
        read.clear()
        assert file_digests([scene], infos) == {"scene.json": "0" * 64} and read == ["scene.json"]
