"""Experiment trackers for trainings, by mmengine's visualisation backends; outside of the config and of every hash."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError, join_names

VARIABLE = "AQR_BENCH_TRACK"  # of the environment: reaches the jobs of the workflow, on a cluster too
# Names of trackers, which are those of their packages, and mmengine's backends.
TRACKERS = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend", "mlflow": "MLflowVisBackend"}


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not known, or whose package is not installed."""
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise UserError(f"unknown tracker {join_names(unknown)}; known: {', '.join(TRACKERS)}")
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"a tracker needs {join_names(absent)}, not installed here", f"Install it: pip install {' '.join(absent)}"
        )


def chosen_trackers() -> tuple[str, ...]:
    """Trackers that the environment names, separated by commas; raises UserError as :func:`check_trackers`."""
    names = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    distinct = tuple(dict.fromkeys(name for name in names if name))
    check_trackers(distinct)
    return distinct


def with_trackers(config: Any, names: Sequence[str], experiment: str, run: str) -> Any:
    """A copy of the config that also logs to these trackers; the config itself where there are none.

    Losses and learning rates come as mmengine's LoggerHook has them, at its interval. Files go to ``config.work_dir``,
    below the tracker's name: ``tensorboard --logdir results/TIER/work`` shows all runs by their paths. A tracker that
    the config itself has stays as it is there: mmengine takes one of each kind.

    Args:
        experiment: project of wandb, experiment of MLflow.
        run: name of the run there, such as ``bias_site/cross/seed0``.
    """
    if not names:
        return config
    config = copy.deepcopy(config)
    visualizer = dict(config.get("visualizer") or dict(type="Visualizer"))
    backends = visualizer.get("vis_backends") or []
    backends = [backends] if isinstance(backends, Mapping) else list(backends)
    types = [backend.get("type") for backend in backends]  # classes, or names with or without a registry's scope
    present = {getattr(kind, "__name__", str(kind)).rpartition(".")[2] for kind in types}
    added = [name for name in names if TRACKERS[name] not in present]
    backends += [_backend(name, Path(config.work_dir) / name, experiment, run) for name in added]
    visualizer["vis_backends"] = backends
    config.visualizer = visualizer
    return config


def _backend(name: str, folder: Path, experiment: str, run: str) -> dict[str, Any]:
    """Config of mmengine's backend. Servers and offline modes are the packages' own environment variables."""
    backend = dict(type=TRACKERS[name], save_dir=str(folder))
    if name == "tensorboard":
        return backend
    if name == "wandb":
        # A killed training goes on in the run that it began.
        identity = dict(id=f"{experiment}-{run}".replace("/", "-"), resume="allow")
        options = dict(project=experiment, name=run, group=run.rsplit("/", 1)[0], **identity)
        return backend | dict(init_kwargs=options)
    server = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # its own default, which mmengine replaces
    return backend | dict(exp_name=experiment, run_name=run, tracking_uri=server)
