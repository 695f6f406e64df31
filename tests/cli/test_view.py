"""aqr-bench view: the pages, figures and messages for a record of a tiny training and of its evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import RUN, tiny_checkout

from aqr_bench.cli import view
from aqr_bench.cli.main import main
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, write_records
from aqr_bench.study.load import load_tier, resolve_condition


@pytest.fixture
def here(monkeypatch) -> Path:
    checkout = tiny_checkout()
    monkeypatch.chdir(checkout)
    return checkout


def test_two_conditions_and_two_models_are_beside_each_other(here, tmp_path, capsys):
    """The model against itself: the same sample, detections and images four times, under two conditions."""
    out, record = tmp_path / "x.html", f"{RUN}/evaluate.two.jsonl"
    command = (
        f"view {record} --against {RUN}/train.jsonl --condition clean no_lidar --sample 2 --attention 3 --out {out}"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out  # and nothing else, as a table of the data set
    assert re.fullmatch(rf"sample 2: detections with a score of at least [0-9.]+ -> {out}\n", printed)
    page = out.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [f"{name} · base seed 0" for name in ("clean", "no_lidar")] * 2
    assert "--columns: 2" in page
    assert page.count("query 3: as asked</option>") == 4 and len(page) < 1_000_000
    data = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)]
    assert data[0] == data[2] and data[1] == data[3] and data[0]["points"] != data[1]["points"]
    assert [panel["attention"]["camera"] for panel in data] == [[6, 12, 22]] * 4
    assert [panel["attention"]["bev"][:2] for panel in data] == [[40, 40]] * 4
    objects = [sum(box[0] in ("gt", "fn") for box in panel["boxes"]) for panel in data]
    assert len(set(objects)) == 1 and objects[0] > 0


def test_the_attention_of_a_train_record(here, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert main(f"view {RUN}/train.jsonl --attention 3 --sample 0 --out {out}".split()) == 0
    assert "Query 3: the model has no bias" in capsys.readouterr().out and out.stat().st_size > 10_000


def test_a_recording_has_the_scene_of_the_sample_under_both_conditions(here, tmp_path, capsys):
    rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra viewer)")
    out = tmp_path / "x.rrd"
    command = f"view {RUN}/evaluate.two.jsonl --sample 0 --condition clean no_lidar --out {out}"
    assert main(command.split()) == 0
    assert "sample 0, 2 samples of its scene: " in capsys.readouterr().out
    recording = rerun.dataframe.load_recording(out)
    entities = {column.entity_path for column in recording.schema().component_columns()}
    for condition in ("clean", "no_lidar"):
        root = rf"/base\ seed\ 0/{condition}"
        parts = ("lidar/cloud", "CAM_FRONT", r"lidar/attention/highest\ score/layer\ 2/with\ bias")
        assert {f"{root}/{part}" for part in parts} <= entities
        table = recording.view(index="keyframe", contents=f"{root}/CAM_FRONT").select().read_all()
        assert table.column("keyframe").to_pylist() == [0, 1]


def test_each_model_is_seen_at_the_threshold_that_suits_it(monkeypatch):
    detections = {"strong": "a", "weak": "b", "without": None}
    monkeypatch.setattr(view.ViewedModel, "detections_under", lambda self, _: detections[self.name])
    monkeypatch.setattr(view, "chosen_samples", lambda _, file, *__: ([], {"a": 0.4, "b": 0.1}[file]))
    condition, tier = resolve_condition("clean"), SimpleNamespace(tier=load_tier("smoke"))

    def of(name: str, asked: float | None = None) -> float:
        return view.threshold_beside([{}], condition, asked, 0.3, view.ViewedModel(name, tier))

    assert [of(name) for name in detections] == [0.4, 0.1, 0.3]
    assert of("weak", asked=0.3) == 0.3  # the first has what the user asked for


def test_a_split_without_objects_has_no_worst_sample(monkeypatch):
    monkeypatch.setattr(view.ViewedModel, "detections_under", lambda *_: "a")
    monkeypatch.setattr(view, "chosen_samples", lambda *_: ([], 0.4))
    model = view.ViewedModel("a", SimpleNamespace(tier=load_tier("smoke")))
    with pytest.raises(UserError, match=r"--sample worst: no sample of the split has an object.*Give --sample N"):
        view.viewed_sample(model, [{}], resolve_condition("clean"), "worst", None)
    assert view.viewed_sample(model, [{}], resolve_condition("clean"), 0, None)[1] == 0.4


def test_the_scene_of_a_sample_is_what_the_time_line_has():
    class Samples(list):
        def get_data_info(self, index: int) -> dict:
            return self[index]

    scenes = Samples({"scene_token": name, "timestamp": time} for name, time in (("a", 2), ("b", 1), ("a", 1)))
    assert view.scene_of(scenes, 0) == [2, 0] and view.scene_of(scenes, 1) == [1]
    assert view.scene_of(Samples([{}, {}]), 1) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--out x.pdf", "--out x.pdf: its suffix says what to write"),
        ("--out x.png", ".png is for --attention"),
        ("--attention --against r.jsonl --out x.png", "Leave --against out"),
        ("--sample last --out x.html", "--sample last: .*Give an index, from 0, or best or worst"),
        ("--attention -1 --out x.png", "--attention -1: .*Give an index, from 0, or no value at all"),
        ("--out x.html", "r.jsonl is a measure record, which is of no trained model"),
    ],
)
def test_what_cannot_be_viewed_is_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_records("r.jsonl", [Record("measure", "ok", "t", "s", "v")])
    with pytest.raises(UserError, match=message):
        view.main(["r.jsonl", *options.split()])
