"""A folder to publish: what is in it, and which results are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from asked_records import selected, with_config, write_asked

from aqr_bench.cli.publish import main
from aqr_bench.errors import UserError
from aqr_bench.records.freshness import page_records
from aqr_bench.records.record import read_records, write_records
from aqr_bench.report.data_card import size_category
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study


@pytest.fixture
def layout(tmp_path) -> RunLayout:
    """Results of the smoke tier that are asked for now, with a stand-in for their report."""
    selection = selected()
    write_asked(tmp_path / "results", selection)
    layout = RunLayout("smoke", tmp_path / "results")
    for name in ("index.html", "tables/smoke_scores.csv", "smoke/index.html", "smoke/figures/a.png", "old/index.html"):
        (layout.report / name).parent.mkdir(parents=True, exist_ok=True)
        (layout.report / name).write_text(name)
    report(layout, selection)
    return layout


def report(layout: RunLayout, selection) -> None:
    note = {"studies": ["smoke"], "records": page_records(layout.root, selection.studies)}
    layout.page_note.write_text(json.dumps(note))


def publish(layout: RunLayout, *more: str) -> Path:
    out = layout.results.parent / "out"
    assert main([str(layout.root), "--out", str(out), "--license", "cc-by-4.0", *more]) == 0
    return out


def edit(path: Path, **changes) -> None:
    write_records(path, [replace(record, **changes) for record in read_records(path)])


def test_the_folder_has_report_numbers_records_and_a_card(layout, capsys):
    out = publish(layout)
    assert (out / "index.html").read_text() == "index.html" and not (out / "old").exists()
    assert (out / "smoke/figures/a.png").is_file() and (out / ".nojekyll").is_file()
    records = sorted(path.relative_to(out / "records") for path in out.rglob("*.jsonl"))
    assert records == sorted(Path(name) for name in page_records(layout.root, selected().studies))
    sums = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in sums}
    assert {*sums, "SHA256SUMS"} == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    numbers = pd.read_csv(out / "data/numbers.csv")
    assert set(numbers["file"]) == {f"records/{path.as_posix()}" for path in records}
    printed = capsys.readouterr().out
    assert f"hf upload USER/NAME {out} --repo-type dataset" in printed and f"{len(numbers)} rows" in printed


def test_the_card_has_front_matter_provenance_and_how_to_reproduce(layout):
    _, front, text = (publish(layout, "--title", "Our results") / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0" and front["task_categories"] == ["object-detection"]
    assert front["size_categories"] == ["n<1K"] and front["pretty_name"] == "Our results"
    assert (layout.results.parent / "out" / front["configs"][0]["data_files"]).is_file()
    assert "# Our results" in text and "| [smoke](smoke/index.html) |" in text and "caution" not in text
    assert "| Reproduce | aqr-bench run --tier smoke --study smoke |" in text and "| Seeds | 0 |" in text
    assert [size_category(rows) for rows in (999, 1000, 10**8)] == ["n<1K", "1K<n<10K", "10M<n<100M"]


def test_stale_and_mixed_results_are_refused_by_name(layout):
    study = with_config(load_study("smoke"), "cross", {"model.pts_bbox_head.aqr.bev_window": 9})
    write_asked(layout.results, selected(study=study))
    edit(layout.root / "smoke/none/seed0/evaluate.missing_sensors.jsonl", provenance={"data_sha256": "a"})
    edit(layout.root / "smoke/cross/seed0/evaluate.missing_sensors.jsonl", provenance={"data_sha256": "b"})
    report(layout, selected())
    with pytest.raises(UserError, match=r"stale or mixed results: stale: .*cross/seed0/train.*--as-is"):
        publish(layout)
    assert not (layout.results.parent / "out").exists()
    card = (publish(layout, "--as-is") / "README.md").read_text()
    assert "with caution" in card and "- stale: " in card and "come from 2 different data sets" in card


def test_a_report_of_other_records_is_refused(layout):
    edit(layout.root / "smoke/cross/measure.jsonl", cost={"latency_ms": {"median": 3.0}})
    with pytest.raises(UserError, match=r"not of the records that are there: smoke/cross/measure.jsonl.*aqr-bench rep"):
        publish(layout)
    layout.page_note.write_text('{"identity": "of an earlier version"}')
    with pytest.raises(UserError, match="does not say which records"):
        publish(layout)
    shutil.rmtree(layout.report)
    with pytest.raises(UserError, match="no report in"):
        publish(layout)


def test_only_what_an_earlier_publish_wrote_is_replaced(layout):
    out = publish(layout)
    (out / ".git").mkdir()
    shutil.rmtree(layout.report / "tables")
    publish(layout)
    assert (out / ".git").is_dir() and not list(out.rglob("*_scores.csv"))
    (out / "SHA256SUMS").write_text("0  ../results/smoke/report/index.html\n")
    with pytest.raises(UserError, match=r"files of another origin: index.html"):
        publish(layout)
    shutil.rmtree(out)
    publish(layout)
    with (out / "SHA256SUMS").open("a") as sums:
        sums.write("0  ../results/smoke/report/index.html\n")
    assert publish(layout) and layout.page.is_file()


def test_a_data_set_of_others_stays(layout):
    out = layout.results.parent / "out"
    out.mkdir()
    for name in ("README.md", "images.tar"):
        (out / name).write_text("theirs")
    (out / "SHA256SUMS").write_text("0  README.md\n0  images.tar\n")
    with pytest.raises(UserError, match=r"another origin: README.md, SHA256SUMS"):
        publish(layout)
    assert (out / "images.tar").read_text() == (out / "README.md").read_text() == "theirs"


@pytest.mark.parametrize("link", ["tables", "index.html"])
def test_nothing_is_written_through_links_to_other_folders(link, layout):
    elsewhere, out = layout.results.parent / "elsewhere", layout.results.parent / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / link).symlink_to(elsewhere if link == "tables" else elsewhere / "new.html")
    with pytest.raises(UserError, match=f"another origin: {link}"):
        publish(layout)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("out", [".", "published", "..", "../.."])
def test_published_files_are_not_mixed_with_the_results(out, layout):
    before = sorted(layout.results.parent.rglob("*"))
    with pytest.raises(UserError, match="would mix the published files with"):
        main([str(layout.root), "--out", str(layout.root / out), "--license", "mit"])
    assert sorted(layout.results.parent.rglob("*")) == before


def test_what_the_page_links_to_is_published_and_hidden_files_are_not(layout):
    for name in ("viewers/clean.best.html", "tables/.snakemake_timestamp"):
        (layout.report / name).parent.mkdir(exist_ok=True)
        (layout.report / name).write_text("")
    out = publish(layout)
    assert (out / "viewers/clean.best.html").is_file() and not list(out.rglob(".snake*"))


def test_a_folder_of_several_tiers_is_refused_with_their_names(layout):
    with pytest.raises(UserError, match=rf"no report in .*Name the folder of one tier: {layout.root}\.$"):
        main([str(layout.results), "--out", str(layout.results.parent / "out"), "--license", "mit"])
