"""A failure keeps the state of the sensor file that it names; once that has changed, its record is not current."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from asked_records import selected, states, write_asked

from aqr_bench.data.raw_frames import BadFrameError, read_cloud, read_image
from aqr_bench.data.transforms import CheckFrame
from aqr_bench.engine.job import one_line
from aqr_bench.records.blamed_file import BLAMED, blamed_file, blamed_file_change
from aqr_bench.records.provenance import provenance
from aqr_bench.records.record import read_records, write_records


@pytest.fixture
def folder(tmp_path):
    """A folder whose name has what a pattern may stumble on."""
    folder = tmp_path / "my data, 2.jpgs (new)"
    folder.mkdir()
    return folder


def reason_of(action) -> str:
    """The reason in the record of a job that ends so."""
    with pytest.raises(BadFrameError) as error:
        action()
    return one_line(error.value)


def test_every_message_about_a_file_names_it_so_that_it_is_recognised(folder):
    cloud, image = folder / "a+08__LIDAR_TOP.pcd.bin", folder / "b.jpg"
    sample = {"token": "t", "lidar_points": {"lidar_path": str(cloud)}, "images": {"CAM": {"img_path": str(image)}}}
    reasons = [(reason_of(lambda: CheckFrame()(dict(sample))), cloud), (reason_of(lambda: read_cloud(cloud)), cloud)]
    reasons += [(reason_of(lambda: CheckFrame(lidar=False)(dict(sample))), image)]
    reasons += [(reason_of(lambda: read_image(image)), image)]
    for content in (
        b"1234567",
        b"version https://git-lfs.github.com/spec/v1\n",
        np.full(5, np.nan, np.float32).tobytes(),
    ):
        cloud.write_bytes(content)
        reasons += [(reason_of(lambda: read_cloud(cloud)), cloud)]
    for content in (b"<html>", cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()[:-9]):
        image.write_bytes(content)
        reasons += [(reason_of(lambda: read_image(image)), image)]
    assert len({reason for reason, _ in reasons}) == len(reasons) == 9
    for reason, path in reasons:
        assert blamed_file(reason)["path"] == str(path), reason
        assert blamed_file(f"not started: base training failed: {reason}")["path"] == str(path)


@pytest.mark.parametrize(
    "reason",
    [None, "", "DivergedError: loss is nan at iteration 3", "RuntimeError: /work/final.pth cannot be read", "x: a.jpg"],
)
def test_other_reasons_blame_no_file(reason):
    assert blamed_file(reason) is None and BLAMED not in provenance(reason=reason)


def test_a_change_is_described(folder):
    path = folder / "a.jpg"
    facts = provenance(reason=f"BadFrameError: image is missing: {path} (sample t)")
    assert facts[BLAMED] == {"path": str(path), "size": None, "mtime_ns": None}
    assert blamed_file_change(facts) is None
    path.write_bytes(b"1")
    assert blamed_file_change(facts) == f"{path}, which it failed on, is there again"
    facts = provenance(reason=f"BadFrameError: image is cut short: {path}, 1 bytes")
    assert facts[BLAMED]["size"] == 1 and blamed_file_change(facts) is None
    os.utime(path, ns=(0, 0))
    assert blamed_file_change(facts) == f"{path}, which it failed on, has changed"
    path.unlink()
    assert blamed_file_change(facts) == f"{path}, which it failed on, is gone"
    for damaged in ({}, {BLAMED: None}, {BLAMED: {}}, {BLAMED: {"path": 3}}):
        assert blamed_file_change(damaged) is None


def test_a_failure_is_stale_once_its_file_has_changed(tmp_path):
    path, results = tmp_path / "a.pcd.bin", tmp_path / "results"
    reason = f"BadFrameError: LiDAR file is missing: {path} (sample t)"
    write_asked(results, selected(), lambda verdict: "failed")
    file = results / "smoke/base/seed0/evaluate.missing_sensors.jsonl"
    records = read_records(file)
    records[1].provenance[BLAMED] = blamed_file(reason)
    write_records(file, records)
    assert {state for state, _ in states(selected(), results).values()} == {"fresh"}, (
        "failures stay while nothing changes"
    )
    path.write_bytes(b"1")
    stale = {name: reasons for name, (state, reasons) in states(selected(), results).items() if state == "stale"}
    assert stale == {"evaluate base seed 0 missing_sensors": (f"{path}, which it failed on, is there again",)}
