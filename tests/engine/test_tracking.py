"""Trackers of trainings: which are accepted, and the backends that a config gets."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.visualization import TensorboardVisBackend

from aqr_bench.cli.run import main as run
from aqr_bench.engine.tracking import VARIABLE, check_trackers, chosen_trackers, with_trackers
from aqr_bench.errors import UserError


def test_backends_are_added_to_those_of_the_config(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = dict(type="LocalVisBackend")
    config = Config(dict(work_dir=str(tmp_path), visualizer=dict(type="Det3DLocalVisualizer", vis_backends=[local])))
    tracked = with_trackers(config, ["tensorboard", "wandb", "mlflow"], "aqr-bench", "quick/bias_site/cross/seed0")
    first, tensorboard, wandb, mlflow = tracked.visualizer.vis_backends
    assert tracked.visualizer.type == "Det3DLocalVisualizer" and first == local
    assert tensorboard == dict(type="TensorboardVisBackend", save_dir=str(tmp_path / "tensorboard"))
    assert wandb.init_kwargs["id"] == "aqr-bench-quick-bias_site-cross-seed0" and wandb.init_kwargs.resume == "allow"
    assert wandb.init_kwargs["name"] == mlflow.run_name == "quick/bias_site/cross/seed0"
    assert mlflow.tracking_uri == "sqlite:///mlflow.db" and mlflow.exp_name == wandb.init_kwargs.project == "aqr-bench"
    assert config.visualizer.vis_backends == [local] and with_trackers(config, [], "a", "b") is config


@pytest.mark.parametrize("kind", ["TensorboardVisBackend", "mmengine.TensorboardVisBackend", TensorboardVisBackend])
def test_a_tracker_of_the_config_stays_the_only_one_of_its_kind(kind, tmp_path):
    """mmengine refuses two of a kind."""
    backend = dict(type=kind)
    for backends in (backend, [backend]):
        config = Config(dict(work_dir=str(tmp_path), visualizer=dict(type="Visualizer", vis_backends=backends)))
        tracked = with_trackers(config, ["tensorboard", "mlflow"], "aqr-bench", "run")
        assert [b.type for b in tracked.visualizer.vis_backends] == [backend["type"], "MLflowVisBackend"]
        assert tracked.visualizer.vis_backends[0] == backend


def test_names_in_the_environment_may_have_spaces_and_come_twice(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorboard, tensorboard ,")
    assert chosen_trackers() == ("tensorboard",)


def test_what_cannot_be_used_is_refused_before_anything_runs(monkeypatch):
    with pytest.raises(UserError, match="unknown tracker neptune; known: tensorboard, wandb, mlflow"):
        check_trackers(["tensorboard", "neptune"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    monkeypatch.setenv(VARIABLE, "tensorboard,wandb")
    with pytest.raises(UserError, match="needs wandb, not installed here"):
        chosen_trackers()
    with pytest.raises(UserError, match="needs wandb"):
        run(["--tier", "smoke", "--dry-run"])
    monkeypatch.setenv(VARIABLE, "")
    assert chosen_trackers() == ()
