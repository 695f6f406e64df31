"""Tables opened to score detections: the same ground truth from the keyframes of the LiDAR alone."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
from worlds import smallest_world, with_tables_to_edit

from aqr_bench.data.infos import open_nuscenes
from aqr_bench.metrics.detection import evaluated_truth

VERSION = "v1.0-mini"


def test_the_ground_truth_is_that_of_all_tables():
    full, scoring = (open_nuscenes(smallest_world() / "world", VERSION, scoring=flag) for flag in (False, True))
    assert len(scoring.sample_data) == len(scoring.ego_pose) == len(scoring.sample) == 4 < len(full.sample_data)
    for table in ("sample_data", "ego_pose"):
        assert all(row == full.get(table, row["token"]) for row in getattr(scoring, table))
    one, other = evaluated_truth(full), evaluated_truth(scoring)
    assert one.samples.tokens == other.samples.tokens and len(one.boxes)
    np.testing.assert_array_equal(one.samples.ego, other.samples.ego)
    for field in fields(one.boxes):
        np.testing.assert_array_equal(getattr(one.boxes, field.name), getattr(other.boxes, field.name))
    np.testing.assert_array_equal(one.properties(), other.properties())


def test_tables_that_are_not_as_nuscenes_are_loaded_as_a_whole(tmp_path):
    root = with_tables_to_edit(smallest_world() / "world", tmp_path / "root")
    path = root / VERSION / "sample_data.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**row, "height": float("nan")} for row in rows]))  # Python's, and no JSON
    assert len(open_nuscenes(root, VERSION, scoring=True).sample_data) == len(rows)
    path.write_text(json.dumps([{**row, "is_key_frame": int(row["is_key_frame"])} for row in rows]))
    assert len(open_nuscenes(root, VERSION, scoring=True).sample_data) == len(rows)
