"""Corrupted evaluations from files to records: same input whatever the loader, and no condition that did nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from worlds import shared_world

from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.corruptions import CORRUPTIONS, FrameError, corrupt
from aqr_bench.data import conditions
from aqr_bench.data.dataset import DataSet, load_data
from aqr_bench.engine.config import base_config
from aqr_bench.engine.evaluate import other_data
from aqr_bench.engine.evaluate_suite import emptied_lines
from aqr_bench.engine.loader import build_loader
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_tier, resolve_condition
from aqr_bench.study.spec import Suite

SPEC = dict(version="v1.0-mini", seed=4, train_scenes=8, val_scenes=2, frames_per_scene=3, lidar_sweeps=2)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(shared_world(**SPEC) / "infos")


def inputs(data, name, workers=0, batch_size=1, order=None, after=None):
    """What the detector would get: {token: (sha256, points, images)}; the loader of every evaluation.

    ``after``: the condition that was evaluated before, whose data set is used again.
    """
    config = base_config(load_tier("smoke"), data)
    import_modules_from_strings(**config.custom_imports)
    init_default_scope("mmdet3d")
    config.test_dataloader.num_workers = workers

    read = None if after is None else build_loader(config, resolve_condition("x", after), 1).dataset
    loader = build_loader(config, resolve_condition("x", name), batch_size, read)
    if order is None:
        batches = loader
    else:
        batches = (loader.collate_fn([loader.dataset[index]]) for index in order(len(loader.dataset)))
    result = {}
    for batch in batches:
        for number, sample in enumerate(batch["data_samples"]):
            points = batch["inputs"]["points"][number] if "points" in batch["inputs"] else None
            images = batch["inputs"]["img"][number] if "img" in batch["inputs"] else None
            result[sample.token] = (sample.input_proof["sha256"], points, images)
    return result


# One that draws for the whole sample, one per pixel, one per sweep, one that needs earlier frames.
EVERYDAY = ("random_cameras@2", "multicorrupt.snow_scatter@3", "nuscenes_c.motion_compensation@5",
            "multicorrupt.temporalmisalignment@3")  # fmt: skip
SAMPLED = [str(entries[-1]) for entries in CORRUPTIONS.values() if entries[0].modality != "none"][::5]


@pytest.mark.parametrize(
    "name", [*EVERYDAY, *(pytest.param(n, marks=pytest.mark.slow) for n in SAMPLED if n not in EVERYDAY)]
)
def test_workers_order_and_batch_size_change_nothing(data, name):
    reference = {token: sha256 for token, (sha256, _, _) in inputs(data, name).items()}
    assert len(reference) == 6 and len(set(reference.values())) == 6
    for kwargs in (
        dict(workers=2, batch_size=2),
        dict(order=lambda count: range(count)[::-1]),
        dict(after="no_lidar_absent"),
    ):
        assert {t: p for t, (p, _, _) in inputs(data, name, **kwargs).items()} == reference, kwargs


def test_absent_sensors_are_not_in_the_batch(data):
    assert all(points is None for _, points, _ in inputs(data, "no_lidar_absent").values())
    assert all(images is None for _, _, images in inputs(data, "no_cameras_absent").values())
    clean = inputs(data, "clean")
    assert all(len(points) > 500 and images.shape[0] == 6 for _, points, images in clean.values())


SUITE = """\
name: broken
summary: A suite of missing sensors.
conditions:
  - {name: clean}
  - {name: no_back, corruption: no_back_cameras}
  - {name: absent_lidar, corruption: no_lidar_absent}
  - {name: absent_cameras, corruption: no_cameras_absent}
  - {name: five, corruption: no_cam_back, options: {form: absent}}
"""


@pytest.fixture
def untrained(data, tmp_path) -> Path:
    """Train record of a model that has learnt nothing."""
    from mmdet3d.registry import MODELS

    import aqr_bench.cmt  # noqa: F401

    torch.manual_seed(0)
    model = MODELS.build(base_config(load_tier("smoke"), data).model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "final.pth")
    source = dict(checkpoint="final.pth", checkpoint_sha256=sha256_file(tmp_path / "final.pth"))
    return write_records(tmp_path / "train.jsonl", [Record("train", "ok", "smoke", seed=0, provenance=source)])


def test_a_condition_that_did_nothing_is_refused(data, untrained, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.yaml").write_text(SUITE)
    real = corrupt

    def broken(condition, frame, seed=0):
        """A transform that forgets to hand one condition's result on."""
        return frame if condition.key == "no_back_cameras" else real(condition, frame, seed)

    monkeypatch.setattr(conditions, "corrupt", broken)
    out = tmp_path / "evaluate.broken.jsonl"
    arguments = ["--tier", "smoke", "--infos", str(data.infos), "--suite", str(tmp_path / "broken.yaml")]
    assert evaluate([*arguments, "--train", str(untrained), "--work", str(tmp_path / "work"), "--out", str(out)]) == 3
    records = {record.condition: record for record in read_records(out)}
    assert records["no_back"].status == "failed" and not records["no_back"].scores
    assert "left the inputs equal to 'clean'" in records["no_back"].reason
    assert [n for n, r in records.items() if not r.ok] == ["no_back"], {n: r.reason for n, r in records.items()}
    seen = {name: record.extra["inputs"] for name, record in records.items() if record.ok}
    assert seen["clean"]["samples"] == 6 and seen["clean"]["views"] == 6 and seen["five"]["views"] == 5
    assert seen["absent_lidar"]["points"] == 0 and seen["absent_cameras"]["views"] == 0
    assert seen["clean"]["brightness"] > 10 and seen["clean"]["range_m"] > 3
    assert "no_back: condition" in capsys.readouterr().out


def test_a_condition_that_empties_a_sensor_is_named():
    """A beam filter on clouds with one ring leaves nothing: no result of that filter, though a score there is."""
    suite = Suite("x", "", tuple(resolve_condition(n, n) for n in ("clean", "no_lidar", "key_frame_only")), Path("x"))
    means = {"samples": 6, "points": 90.0, "range_m": 9.0, "views": 6.0, "brightness": 90.0}
    given = ({}, {"range_m": 0.0}, {"without_points": 2})
    fields = dict(kind="evaluate", status="ok", tier="smoke", suite="x", scores={"mAP": 0.1})
    records = [
        Record(**fields, condition=c.name, extra={"inputs": means | change})
        for c, change in zip(suite.conditions, given, strict=True)
    ]
    assert list(emptied_lines(records, suite)) == ["key_frame_only: lidar gives nothing in 2 of 6 samples"]
    records = [replace(r, extra={"inputs": means | {"points": 0.0}}) if r.condition != "clean" else r for r in records]
    assert list(emptied_lines(records, suite)) == ["key_frame_only: lidar gives nothing in 6 of 6 samples"]


def test_a_frame_that_a_condition_cannot_use_is_named(data, monkeypatch):
    real = conditions.frame_of

    def spoilt(results, sweeps_num, history):
        frame = real(results, sweeps_num, history)
        points = frame.clouds[0].points.copy()
        points[7, 1] = np.nan
        return replace(frame, clouds=(replace(frame.clouds[0], points=points), *frame.clouds[1:]))

    monkeypatch.setattr(conditions, "frame_of", spoilt)
    with pytest.raises(FrameError, match=r"sample \w+, corruption 'no_cam_back', LiDAR .*\.pcd\.bin: 1 of \d+ points"):
        inputs(data, "no_cam_back")


def test_a_share_is_scored_by_the_devkit_as_well_and_a_difference_fails(data, untrained, tmp_path, monkeypatch):
    from aqr_bench.metrics import cross_check, detection

    suite = "name: one\nsummary: x\nconditions:\n  - {name: clean}\n"
    (tmp_path / "one.yaml").write_text(suite)
    arguments = ["--tier", "smoke", "--infos", str(data.infos), "--suite", str(tmp_path / "one.yaml")]
    arguments += ["--train", str(untrained), "--out", str(tmp_path / "out.jsonl")]
    monkeypatch.setattr(cross_check, "SHARE", 1.0)
    assert evaluate([*arguments, "--work", str(tmp_path / "a")]) == 0
    checked = read_records(tmp_path / "out.jsonl")[0].extra["devkit"]
    assert checked["compared"] > 50 and checked["largest"] < 1e-9
    real = detection._score_with_devkit
    monkeypatch.setattr(
        detection, "_score_with_devkit", lambda *a: (s := real(*a)) | {"classes": s["classes"] | {"car": {"AP": 0.5}}}
    )
    assert evaluate([*arguments, "--work", str(tmp_path / "b")]) == 3
    assert evaluate([*arguments, "--work", str(tmp_path / "b"), "--allow-failures"]) == 0
    record = read_records(tmp_path / "out.jsonl")[0]
    assert record.status == "failed" and "our metric and nuscenes-devkit differ" in record.reason


def test_a_model_that_was_trained_on_other_data_is_noted(data):
    facts = {"data_sha256": data.sha256, "infos_sha256": data.infos_sha256}
    trained = Record("train", "ok", "smoke", provenance=facts)
    assert other_data(trained, data) == {}
    other = {"infos_sha256": "0" * 64}
    assert other_data(replace(trained, provenance=facts | other), data) == other
    assert other_data(replace(trained, provenance={}), data) == {}  # a record of an earlier version
