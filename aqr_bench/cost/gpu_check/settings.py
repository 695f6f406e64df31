"""Settings of a check: the device, sizes that fit it, and the model configs at that size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aqr_bench.engine.job import one_line

NOTE, VOV = "cmt_voxel0100_r50_800x320_cbgs", "cmt_voxel0075_vov_1600x640_cbgs"
CAMERAS = "cmt_camera_vov_1600x640_cbgs"
SIZES = ("full", "tiny")
DTYPES = ("float32", "bfloat16", "float16")
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """Sizes of one check.

    Args:
        attention: sizes of ``attention_cases.SIZES`` for the tables of backends.
        parity: those that are compared with float64: every kind of bias at the first, the usual one at all.
        queries: numbers of queries in the tables; None: the size's.
        batch: samples of a training step; inference takes one.
    """

    device: str
    size: str
    attention: tuple[str, ...]
    parity: tuple[str, ...]
    queries: tuple[int | None, ...]
    batch: int
    rounds: int


def settings_for(device: str, size: str | None = None) -> Settings:
    """``full``: the official configs, the default on a GPU; ``tiny``: every part in moments, the default on a CPU."""
    size = size or ("full" if device == "cuda" else "tiny")
    if size == "full":
        return Settings(device, size, ("note", "vov"), ("parity", "note"), (None, 1500), 2, 9)
    return Settings(device, size, ("tiny",), ("tiny",), (None, 12), 1, 2)


def model_config(name: str, small: bool) -> Any:
    """A published config; ``small``: small maps, small images and few queries, for a CPU."""
    from aqr_bench.cost.full_head import load_model_config

    config = load_model_config(name)
    if small:
        head = config.model.pts_bbox_head
        head.num_query = 61
        for part in (config.model.train_cfg.pts, config.model.test_cfg.pts):
            part.grid_size = [128, 128, 40]
        if "bev_range" in head:
            head.bev_range = None
        for step in config.test_dataloader.dataset.pipeline:
            if step["type"] == "ResizeCropFlipImage":
                step["data_aug_conf"]["final_dim"] = (64, 160)
    return config


def attempt(emit: Emit, row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Emit the row with the facts of ``measure``, or with ``failed`` after an error, so that other rows are run."""
    emit({**row, **facts_or_failure(measure)})


def facts_or_failure(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The facts of ``measure``, or ``failed`` with its error; a missing module is raised: all others would fail too."""
    try:
        return measure()
    except ModuleNotFoundError:
        raise
    except Exception as error:
        return {"failed": one_line(error)}
