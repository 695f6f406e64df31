"""Detection scores in the record's shape; the real devkit runs are in tests/world and the end-to-end test."""

from __future__ import annotations

import json

import pytest

from aqr_bench.errors import UserError
from aqr_bench.metrics.detection import empty_submission_scores, flatten_summary, metric_engine, score_detections

UNDEFINED = ["orient_err", "vel_err", "attr_err"]
CLASSES = ["car", "traffic_cone", "barrier"]


def test_summary_keeps_every_number_and_none_for_undefined():
    summary = {
        "mean_ap": 0.25,
        "nd_score": 0.4,
        "tp_errors": {"trans_err": 0.5, "scale_err": 0.2, "orient_err": 0.1, "vel_err": 0.3, "attr_err": 0.6},
        "mean_dist_aps": {"car": 0.5, "traffic_cone": 0.0},
        "label_aps": {"car": {0.5: 0.4, 1.0: 0.6}, "traffic_cone": {0.5: 0.0, 1.0: 0.0}},
        "label_tp_errors": {
            "car": {"trans_err": 0.5, "scale_err": 0.2, "orient_err": 0.1, "vel_err": 0.3, "attr_err": 0.6},
            "traffic_cone": {
                "trans_err": 1.0,
                "scale_err": 1.0,
                "orient_err": float("nan"),
                "vel_err": float("nan"),
                "attr_err": float("nan"),
            },
        },
    }
    scores = flatten_summary(summary)
    assert (scores["mAP"], scores["NDS"], scores["mATE"], scores["mAAE"]) == (0.25, 0.4, 0.5, 0.6)
    assert scores["classes"]["car"]["AP_dist"] == {"0.5": 0.4, "1.0": 0.6}
    assert scores["classes"]["traffic_cone"]["AOE"] is None


def test_a_submission_without_a_box_scores_zero(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": {}, "results": {"a": [], "b": []}}))
    scores = score_detections(path, nusc=None, out_dir=tmp_path, engine="devkit")
    assert scores["mAP"] == scores["NDS"] == 0 and scores["mATE"] == 1 and len(scores["classes"]) == 10
    assert empty_submission_scores(CLASSES)["classes"]["traffic_cone"]["AOE"] is None


def test_the_engine_is_the_argument_the_environment_or_the_fast_one(monkeypatch):
    monkeypatch.delenv("AQR_BENCH_METRIC", raising=False)
    assert metric_engine() == "fast" and metric_engine("devkit") == "devkit"
    monkeypatch.setenv("AQR_BENCH_METRIC", "devkit")
    assert metric_engine() == "devkit" and metric_engine("fast") == "fast"
    monkeypatch.setenv("AQR_BENCH_METRIC", "slow")
    with pytest.raises(UserError, match="AQR_BENCH_METRIC"):
        metric_engine()
