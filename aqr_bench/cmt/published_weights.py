"""Which official config of CMT or MoME a state dict belongs to, and its tensors in the layout of that config's model.

Names and shapes come from the models, built on torch's meta device. They do not determine the voxel size: two configs
that differ in nothing else have the same names and shapes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aqr_bench.cmt.sparse_kernels import in_layout_of
from aqr_bench.errors import UserError, nearest

PUBLISHED_CONFIGS = (
    "cmt_voxel0100_r50_800x320_cbgs",
    "cmt_voxel0075_vov_1600x640_cbgs",
    "cmt_lidar_voxel0075_cbgs",
    "cmt_camera_vov_1600x640_cbgs",
    "moad_voxel0075_vov_1600x640_cbgs",
    "mome",
)
SPCONV, MMCV, MIXED, NONE = "spconv 2", "mmcv", "mixed", "none"  # layouts of sparse kernels


@dataclass(frozen=True)
class ShapeMismatch:
    """A tensor of an expected name with another shape."""

    name: str
    shape: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """How a state dict compares with one config.

    ``layout`` is that of the sparse kernels, as far as they fit; ``cast`` counts the tensors whose dtype is not the
    model's, by that dtype (``float16``).
    """

    config: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[ShapeMismatch, ...]
    layout: str
    cast: Mapping[str, int]

    @property
    def differences(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    @property
    def fits(self) -> bool:
        return self.differences == 0

    def summary(self) -> str:
        """``fits``, or how many names and shapes differ."""
        if self.fits:
            return "fits"
        return (
            f"{len(self.missing)} names missing, {len(self.unexpected)} unexpected, {len(self.reshaped)} shapes differ"
        )

    def complaint(self, count: int = 3) -> str:
        """The summary, and the first few differing names of each kind, with shapes, on one line."""
        shapes = [f"{r.name} {_shape(r.shape)} instead of {_shape(r.expected)}" for r in self.reshaped]
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("shape", shapes))
        return "; ".join([self.summary(), *(f"{kind}: {_first(names, count)}" for kind, names in kinds if names)])


def published_config(name: str) -> Any:
    """The mmengine config called ``name``.

    Raises:
        UserError: it is none of ``PUBLISHED_CONFIGS``.
    """
    from mmengine.config import Config

    if name not in PUBLISHED_CONFIGS:
        raise UserError(f"--config: '{name}' is no published config{nearest(name, PUBLISHED_CONFIGS)}")
    return Config.fromfile(Path(__file__).parent / "configs" / f"{name}.py", import_custom_modules=False)


def model_on_meta(name: str) -> nn.Module:
    """The detector of a config with shapes and no numbers."""
    from mmdet3d.registry import MODELS

    import aqr_bench.cmt  # noqa: F401  (registers)

    with torch.device("meta"):
        return MODELS.build(published_config(name).model)


@cache
def _expected(name: str) -> Mapping[str, Tensor]:
    """The state dict of a config, tensors on meta: names, order, shapes and dtypes."""
    return model_on_meta(name).state_dict()


def match(state: Mapping[str, Tensor]) -> list[Match]:
    """Compare ``state`` with every published config, by names and shapes; the closest comes first."""
    return sorted((match_with(state, name) for name in PUBLISHED_CONFIGS), key=lambda m: m.differences)


def match_with(state: Mapping[str, Tensor], config: str) -> Match:
    """Compare ``state`` with one config. Sparse kernels may be in either layout."""
    expected = _expected(config)
    reshaped, layouts, cast = [], set(), Counter()
    for name, wanted in expected.items():
        if name not in state:
            continue
        tensor = state[name]
        if in_layout_of(tensor, wanted.shape) is None:
            reshaped.append(ShapeMismatch(name, tuple(tensor.shape), tuple(wanted.shape)))
        elif wanted.dim() == 5:  # of these models, only sparse convolutions have five axes
            layouts.add(SPCONV if tensor.shape == wanted.shape else MMCV)
        if tensor.dtype != wanted.dtype:
            cast[str(tensor.dtype).removeprefix("torch.")] += 1
    return Match(
        config=config,
        missing=tuple(name for name in expected if name not in state),
        unexpected=tuple(name for name in state if name not in expected),
        reshaped=tuple(reshaped),
        layout=MIXED if len(layouts) > 1 else next(iter(layouts), NONE),
        cast=dict(cast),
    )


def to_layout(state: Mapping[str, Tensor], config: str) -> dict[str, Tensor]:
    """Copies of a fitting state's tensors with the config's order, dtypes and sparse layout.

    Copies, since a tensor may be a view of a larger storage, all of which torch.save would write.
    """
    return {
        name: in_layout_of(state[name], wanted.shape).to(wanted.dtype, copy=True, memory_format=torch.contiguous_format)
        for name, wanted in _expected(config).items()
    }


def warnings_for(meta: Mapping[str, Any], config: str) -> list[str]:
    """Reasons against weights of fitting names and shapes for ``config``.

    ``meta`` may have classes (of the training, in order), mmdet3d_version and config (text of the training's config).
    """
    settings, warnings = published_config(config), []
    if "classes" in meta and list(meta["classes"]) != list(settings.class_names):
        warnings.append(f"its classes are not those of {config} in their order: {', '.join(settings.class_names)}")
    if old := re.match(r"v?(0\.[\w.+]*)", meta.get("mmdet3d_version", "")):
        warnings.append(
            f"written with mmdet3d {old[1]}, before 1.0.0rc0: box order (w, l, h) and yaw differ, so that mAP may look "
            "fine while mAOE is near 1.57"
        )
    size = re.search(r"\bvoxel_size\s*=\s*\[([\d., ]+)\]", meta.get("config", ""))
    layer = settings.model.get("pts_voxel_layer")
    if size and layer and size[1].replace(" ", "") != ",".join(map(str, layer.voxel_size)):
        warnings.append(f"its config has voxels of {size[1]} m, {config} of {', '.join(map(str, layer.voxel_size))} m")
    return warnings


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _first(names: tuple[str, ...] | list[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
