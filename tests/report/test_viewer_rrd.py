"""The recording for the Rerun viewer, read back with the reader of rerun-sdk itself; skipped without the extra."""

from __future__ import annotations

import builtins
from dataclasses import replace

import numpy as np
import pytest
from sample_views import BOX, made_up_view

from aqr_bench.errors import UserError
from aqr_bench.report.figures.detections import DrawnBoxes
from aqr_bench.report.viewer.rrd import require_rerun, write_recording


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
def recording(tmp_path_factory):
    rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra viewer)")
    view = made_up_view(100)
    nothing = dict(detections=DrawnBoxes(np.zeros((0, 7)), [], np.zeros(0)), true_positive_D=np.zeros(0, bool))
    frames = [
        [replace(view, timestamp_s=1.5e9 + 0.5 * n), replace(view, condition="no cameras", images={}, queries=None)]
        for n in range(3)
    ]
    frames[2][0] = replace(frames[2][0], **nothing, detected_T=np.zeros(2, bool))
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
    names = {"true_positives": "car 0.90", "false_positives": "bus 0.40", "missed": "car", "detected_objects": "car"}
    for name, label in names.items():
        # The third sample has no detections: those of the second are gone.
        last = ["car", "car"] if name == "missed" else []
        assert column(recording, f"{ROOT}/lidar/{name}", "Text") == [[label], [label], last]
    (centre,) = column(recording, f"{ROOT}/lidar/true_positives", "PoseTranslation3D")[0]
    (half,) = column(recording, f"{ROOT}/lidar/true_positives", "HalfSize3D")[0]
    assert centre == BOX[:3] and half == [size / 2 for size in BOX[3:6]]


def test_queries_have_their_weights_and_windows(recording):
    path = f"{ROOT}/lidar/queries"
    assert column(recording, path, "lidar_weight")[0] == [1.0, 0.25]
    assert column(recording, path, "camera_weight")[0] == [-1.0, 0.5]
    windows = column(recording, f"{ROOT}/lidar/windows", "LineStrip3D")[0]
    assert windows[0] == [[-1, 9, 0], [1, 9, 0], [1, 11, 0], [-1, 11, 0], [-1, 9, 0]]
    # The window is in the second camera of the network, of 160 x 90 pixels.
    assert column(recording, f"{ROOT}/CAM_FRONT/windows", "HalfSize2D")[0] == [[20.0, 11.25]]
    with pytest.raises(ValueError, match="not enough values"):  # an empty column does not come back
        column(recording, f"{ROOT}/CAM_BACK/windows", "HalfSize2D")


def test_images_are_those_of_the_conditions_that_have_any(recording):
    paths = {c.entity_path for c in recording.schema().component_columns()}
    assert f"{ROOT}/CAM_FRONT/true_positives" in paths and r"/cross\ seed\ 0/no\ cameras/lidar/cloud" in paths
    assert not [path for path in paths if "no" in path and "CAM" in path]
    assert bytes(column(recording, f"{ROOT}/CAM_FRONT", "Blob")[0][0])[:2] == b"\xff\xd8"
