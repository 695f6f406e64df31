"""The recording for the Rerun viewer, read back with the reader of rerun-sdk itself; skipped without the extra."""

from __future__ import annotations

import builtins
from dataclasses import replace

import numpy as np
import pytest
from sample_views import BOX, made_up_view

from aqr_bench.errors import UserError
from aqr_bench.report.figures.detections import DrawnBoxes
from aqr_bench.report.viewer.rrd import _blueprint, _heat, _pixels, require_rerun, write_recording
from aqr_bench.report.viewer.rrd import _escaped as escaped


def test_without_the_extra_the_message_names_it(monkeypatch):
    importing = builtins.__import__

    def no_rerun(name, *args, **kwargs):
        if name == "rerun":
            raise ImportError("No module named 'rerun'")
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_rerun)
    with pytest.raises(UserError, match=r"aqr-bench\[viewer\]"):
        require_rerun()


@pytest.fixture(scope="module")
def frames():
    """Three samples; in the third nothing is detected."""
    view = made_up_view(100)
    nothing = dict(detections=DrawnBoxes(np.zeros((0, 7)), [], np.zeros(0)), true_positive_D=np.zeros(0, bool))
    frames = [
        [replace(view, timestamp_s=1.5e9 + 0.5 * n), replace(view, condition="no cameras", images={}, queries=None)]
        for n in range(3)
    ]
    first = dict([next(iter(view.attention.items()))])
    frames[2][0] = replace(frames[2][0], **nothing, detected_T=np.zeros(2, bool), attention=first)
    return frames


@pytest.fixture(scope="module")
def recording(tmp_path_factory, frames):
    rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra viewer)")
    path = write_recording(tmp_path_factory.mktemp("rrd") / "new" / "x.rrd", frames)
    return rerun.dataframe.load_recording(path)


def column(recording, path: str, name: str) -> list:
    """A component of an entity at every key frame."""
    table = recording.view(index="keyframe", contents=path).select().read_all()
    (match,) = [c for c in table.column_names if c.endswith(f":{name}")]
    return table.column(match).to_pylist()


ROOT = r"/cross\ seed\ 0/clean"


def test_the_samples_are_on_a_time_line(recording):
    assert {"keyframe", "time"} <= {c.name for c in recording.schema().index_columns()}
    table = recording.view(index="keyframe", contents=f"{ROOT}/lidar/cloud").select().read_all()
    assert table.column("keyframe").to_pylist() == [0, 1, 2]
    seconds = [time.timestamp() for time in table.column("time").to_pylist()]
    assert np.diff(seconds).tolist() == [0.5, 0.5]
    assert [len(points) for points in column(recording, f"{ROOT}/lidar/cloud", "Position3D")] == [100] * 3


def test_boxes_are_there_by_outcome(recording):
    names = {
        "true_positives": "car 0.90",
        "false_positives": "bus 0.40",
        "false_negatives": "car",
        "detected_objects": "car",
    }
    for name, label in names.items():
        # The third sample has no detections: those of the second are gone.
        last = ["car", "car"] if name == "false_negatives" else []
        assert column(recording, f"{ROOT}/lidar/{name}", "Text") == [[label], [label], last]
    (centre,) = column(recording, f"{ROOT}/lidar/true_positives", "PoseTranslation3D")[0]
    (half,) = column(recording, f"{ROOT}/lidar/true_positives", "HalfSize3D")[0]
    assert centre == BOX[:3] and half == [size / 2 for size in BOX[3:6]]


def test_queries_have_their_weights_and_windows(recording):
    path = f"{ROOT}/lidar/queries"
    assert column(recording, path, "lidar_weight")[0] == [1.0, 0.25]
    assert column(recording, path, "camera_weight")[0] == [-1.0, 0.5]
    (window,) = column(recording, f"{ROOT}/lidar/windows", "LineStrip3D")[0]  # of the query that detects something
    (other,) = column(recording, f"{ROOT}/lidar/other_windows", "LineStrip3D")[0]
    assert other[0] == [4, 4, 0]
    assert window == [[-1, 9, 0], [1, 9, 0], [1, 11, 0], [-1, 11, 0], [-1, 9, 0]]
    # The window is in the second camera of the network, of 160 x 90 pixels.
    assert column(recording, f"{ROOT}/CAM_FRONT/windows", "HalfSize2D")[0] == [[20.0, 11.25]]
    with pytest.raises(ValueError, match="not enough values"):  # an empty column does not come back
        column(recording, f"{ROOT}/CAM_BACK/windows", "HalfSize2D")


def test_attention_has_the_weights_of_the_engine(recording, frames):
    """Points at the cells, with their weights; of the full model's many cells those that matter."""
    for reason, attention in frames[0][0].attention.items():
        weights_K = attention.layers[1].biased_K
        bev = attention.maps(weights_K)[0]
        path = f"{ROOT}/lidar/attention/{escaped(reason)}/layer\\ 2/with\\ bias"
        assert column(recording, path, "weight")[0] == pytest.approx(bev.ravel().tolist())
        points = column(recording, path, "Position3D")[0]
        assert points[1] == pytest.approx([-2, -6, -1.8])  # the second cell of the first row, of 4 m
        path = f"{ROOT}/CAM_FRONT/attention/{escaped(reason)}/layer\\ 2/without\\ bias"
        plain = attention.maps(attention.layers[1].plain_K)[1]
        assert column(recording, path, "weight")[0] == pytest.approx(plain[1].ravel().tolist())
        (corner, *_, last) = column(recording, path, "Position2D")[0]  # 160 x 90 pixels, 3 x 2 cells
        assert corner == pytest.approx([160 / 6, 90 / 4]) and last == pytest.approx([160 * 5 / 6, 90 * 3 / 4])
        assert column(recording, f"{ROOT}/lidar/attention/{escaped(reason)}", "query")[0] == [attention.query]


def test_attention_of_one_sample_is_not_shown_with_the_next(recording):
    """The second query is not in the third sample."""
    path = f"{ROOT}/lidar/attention/{escaped('highest false positive')}/layer\\ 1/with\\ bias"
    contents = {path: ["weight"], f"{ROOT}/lidar/cloud": ["Position3D"]}
    table = recording.view(index="keyframe", contents=contents).fill_latest_at().select().read_all()
    (name,) = [c for c in table.column_names if c.endswith(":weight")]
    assert [bool(weights) for weights in table.column(name).to_pylist()] == [True, True, False]


def test_the_viewer_opens_with_a_tab_for_each_question(frames):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra viewer)")
    tabs = _blueprint(frames[0]).root_container.contents
    assert [tab.name for tab in tabs] == ["detections", "queries", "attention"]
    plain = [replace(view, queries=None, attention={}) for view in frames[0]]
    assert [tab.name for tab in _blueprint(plain).root_container.contents] == ["detections"]


def test_cells_with_almost_no_attention_are_left_out():
    weights = np.array([[1.0, 0.5], [1e-4, 0.0]])
    share_n2, weight_n, colours = _heat(weights, 1.0)
    assert share_n2.tolist() == [[0.25, 0.25], [0.75, 0.25]] and weight_n.tolist() == [1.0, 0.5]
    assert colours[0].tolist() == [177, 0, 38, 255] and colours[1][3] < 255
    assert [len(part) for part in _heat(np.zeros((2, 2)), 0.0)] == [0, 0, 0]


def test_windows_are_on_what_the_network_gets_of_an_image():
    view = made_up_view(10, input_area={"CAM_FRONT": np.array([0, 0.5, 1, 1])})
    assert _pixels(view, "CAM_FRONT", np.array([[0.5, 0], [1, 1]])).tolist() == [[80, 45], [160, 90]]
    assert _pixels(view, "CAM_BACK", np.array([[0.5, 0.5]])).tolist() == [[80, 45]]


def test_images_are_those_of_the_conditions_that_have_any(recording):
    paths = {c.entity_path for c in recording.schema().component_columns()}
    assert f"{ROOT}/CAM_FRONT/true_positives" in paths and r"/cross\ seed\ 0/no\ cameras/lidar/cloud" in paths
    assert not [path for path in paths if "no" in path and "CAM" in path]
    assert bytes(column(recording, f"{ROOT}/CAM_FRONT", "Blob")[0][0])[:2] == b"\xff\xd8"
