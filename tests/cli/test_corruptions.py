"""aqr-bench corruptions: the table, one condition, picture sheets of the real keyframe and of an info folder."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from aqr_bench.cli.corruptions import describe, load_frame, main, preview, table
from aqr_bench.corruptions import CORRUPTIONS
from aqr_bench.errors import UserError


def test_the_table_has_every_condition_of_the_suite():
    everything, part = table(), table("missing_sensors")
    assert len(everything.splitlines()) == len(CORRUPTIONS) + 1
    assert "random_cameras" in part and "1, 2, 3, 4, 5" in part and "multicorrupt." not in part
    lines = table("missing_sensors", markdown=True).splitlines()
    assert {line.count("|") for line in lines} == {6}
    with pytest.raises(UserError, match="unknown suite 'nuscenes_q'; did you mean 'nuscenes_"):
        table("nuscenes_q")


def test_a_condition_is_described_with_its_numbers():
    text = describe("random_cameras")
    assert "cameras = 1 | 2 | 3 | 4 | 5" in text and "form = zero" in text and "source" in text
    with pytest.raises(UserError, match="did you mean 'no_lidar'"):
        describe("no_lidr")


def test_json_has_every_condition_with_its_numbers(capsys):
    assert main(["list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["corruptions"]}
    assert listed.keys() == dict(CORRUPTIONS.items()).keys()
    assert main(["show", "random_cameras@2", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["corruptions"]
    assert shown == listed["random_cameras"] and shown["changes"] == "camera"
    assert [level["parameters"]["cameras"] for level in shown["severities"]] == [1, 2, 3, 4, 5]


def test_sheets_of_the_real_keyframe(keyframe, tmp_path, capsys):
    assert main(["preview", "no_cam_back", "no_lidar", "--keyframe", str(keyframe), "--out", str(tmp_path)]) == 0
    names = ["no_cam_back.jpg", "no_lidar.jpg", "overview.jpg"]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    sheets = [cv2.imread(str(tmp_path / name)) for name in names]
    # The black image covers a good part of one sheet and nothing of the other.
    black = [float((sheet.max(2) < 8).mean()) for sheet in sheets]
    assert black[0] > black[1] + 0.03 and sheets[2].shape[0] > sheets[0].shape[0]


def test_sheets_of_some_cameras(keyframe, tmp_path):
    options = ["preview", "no_cam_back", "--keyframe", str(keyframe), "--sweeps", "0", "--out", str(tmp_path)]
    assert main([*options, "--cameras", "CAM_BACK"]) == 0
    sheet = cv2.imread(str(tmp_path / "no_cam_back.jpg"))
    assert sheet.shape[1] < 600 and (sheet.max(2) < 8).mean() > 0.1  # one camera and the LiDAR; that camera is black
    with pytest.raises(UserError, match="--cameras: the sample has no 'CAM_BAK'; did you mean 'CAM_BACK'"):
        main([*options, "--cameras", "CAM_BAK"])


def test_a_condition_that_cannot_be_shows_its_reason(keyframe, tmp_path, monkeypatch):
    from aqr_bench.cli import corruptions as module
    from aqr_bench.corruptions import Corruption, Registry

    lonely = Corruption("lonely", "test", 0, "lidar", "needs a past", {}, "-", lambda f, d, p: f, needs=("history",))
    monkeypatch.setattr(module, "CORRUPTIONS", Registry([lonely]))
    frame = load_frame(None, str(keyframe), "0", 0)
    assert frame.history is None and len(frame.views) == 6
    rows = module._row(lonely, frame, 0)
    assert rows.frame is None and "aqr-bench data" in rows.reason
    assert [path.name for path in preview(["lonely"], frame, tmp_path)] == ["test.lonely.jpg"]


def test_mistakes_are_named(keyframe):
    with pytest.raises(UserError, match="one of them"):
        load_frame(None, None, "0", 0)
    with pytest.raises(UserError, match="has 1 samples, there is no number 7"):
        load_frame(None, str(keyframe), "7", 0)
    with pytest.raises(UserError, match="has no sample 'abc'"):
        load_frame(None, str(keyframe), "abc", 0)


def test_the_loaded_keyframe_is_what_the_files_say(keyframe):
    frame = load_frame(None, str(keyframe), "0", 10)
    points = np.fromfile(next(keyframe.glob("*.bin")), np.float32).reshape(-1, 5)
    assert np.array_equal(frame.clouds[0].points, points) and frame.boxes.shape[1] == 7
