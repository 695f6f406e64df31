"""The router's telemetry: what is recorded is what the head used, and the summary is its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cmt_small import features, metas, small_head, wake_router

from aqr_bench.engine.router_log import RouterLog, summary

AQR = dict(site="cross", bev_window=3, camera_window=3, ffn_dims=32)


def run(head, batch=2):
    x, x_img = features(batch)
    samples = [dict(meta, token=f"frame{i}") for i, meta in enumerate(metas(batch))]
    with torch.no_grad():
        return head.eval()([x], [x_img], samples)[0][0]


def test_weights_scores_and_centres_of_every_query_are_recorded(tmp_path):
    head = small_head(aqr=AQR, attention_backend="window")
    wake_router(head)
    with RouterLog(head) as log:
        outputs = [run(head), run(head, batch=1)]
    run(head)  # outside: not recorded
    result = log.save(tmp_path / "deep" / "router.npz")
    remaining = np.load(tmp_path / "deep" / "router.npz", allow_pickle=False)
    assert remaining["token"].tolist() == ["frame0", "frame1", "frame0"]
    assert (
        remaining["weight"].shape == (3, 20, 2)
        and remaining["score"].shape == (3, 20)
        and remaining["centre"].shape == (3, 20, 2)
    )
    weights = [out["aqr"][0].weights for out in outputs]
    lidar, camera = (torch.cat(parts) for parts in zip(*weights, strict=True))
    torch.testing.assert_close(torch.from_numpy(remaining["weight"]), torch.stack([lidar, camera], -1).half())
    assert result["all"]["queries"] == 60
    assert result["all"]["lidar"]["mean"] == pytest.approx(lidar.mean().item(), abs=2e-3)
    assert result["guarded_share"] == log.guard.share and log.guard.rows == 60 * 2  # two decoder layers


def test_a_head_without_a_router_leaves_nothing(tmp_path):
    head = small_head()
    with RouterLog(head) as log:
        run(head)
    assert log.save(tmp_path / "router.npz") == {}
    assert not (tmp_path / "router.npz").exists()


def test_the_hook_is_gone_after_an_error():
    head = small_head(aqr=AQR)
    with pytest.raises(RuntimeError, match="stop"), RouterLog(head) as log:
        raise RuntimeError("stop")
    run(head)
    assert log.tokens == []


def test_summary_of_all_and_of_confident_queries():
    weight = np.array([[[1.0, -1.0], [0.5, 0.0], [0.0, 1.0]]])
    result = summary(weight, np.array([[0.9, 0.3, 0.1]]))
    assert result["all"]["queries"] == 3 and result["confident"]["queries"] == 2
    assert result["all"]["lidar"]["mean"] == 0.5 and result["confident"]["camera"]["mean"] == -0.5
    assert result["all"]["camera"] == {"mean": 0.0, "sd": 0.8165, "p5": -0.9, "p50": 0.0, "p95": 0.9}
    assert summary(weight, np.zeros((1, 3)))["confident"] == {"queries": 0}
