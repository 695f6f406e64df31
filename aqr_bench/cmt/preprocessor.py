"""mmdet3d's preprocessor with spconv's voxelisation, for detectors that voxelise there: no compiled mmcv is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet3d.models.data_preprocessors import Det3DDataPreprocessor
from mmdet3d.registry import MODELS
from torch import Tensor

from aqr_bench.cmt.voxelize import HardVoxelizer
from aqr_bench.errors import UserError


@MODELS.register_module()
class SpconvDataPreprocessor(Det3DDataPreprocessor):
    """Det3DDataPreprocessor whose ``voxel_layer`` is a HardVoxelizer, where mmdet3d's is a compiled mmcv operator.

    A sample without points, and a batch without a LiDAR (under a condition that removes it), give one voxel of zeros
    per sample, so that the detector runs on empty input.

    Args:
        voxel_layer: as in mmdet3d (``voxel_size``, ``point_cloud_range``, ``max_num_points``, ``max_voxels``), with
            ``num_point_features``, the columns of a point (5 by default, as nuScenes has them).
        kwargs: those of Det3DDataPreprocessor, with ``voxel`` True and ``voxel_type`` hard, or left out.
    """

    def __init__(self, voxel_layer: dict, **kwargs) -> None:
        if not kwargs.pop("voxel", True) or kwargs.pop("voxel_type", "hard") != "hard":
            raise UserError("SpconvDataPreprocessor always does hard voxelisation: leave voxel and voxel_type out")
        super().__init__(voxel=False, **kwargs)
        self.voxel = True
        layer = {"num_point_features": 5, **voxel_layer}
        layer.pop("deterministic", None)  # spconv's always is
        self.voxel_layer = HardVoxelizer(**layer)

    def simple_process(self, data: dict, training: bool = False) -> dict:
        """As mmdet3d's; without points in the batch, its samples have empty clouds."""
        if "points" not in data["inputs"]:
            empty = torch.zeros(0, self.voxel_layer.num_point_features)
            data = {**data, "inputs": {**data["inputs"], "points": [empty] * len(data["data_samples"])}}
        return super().simple_process(data, training)

    @torch.no_grad()
    def voxelize(self, points: Sequence[Tensor], data_samples: Sequence) -> dict[str, Tensor]:
        """Points per sample [P_i, C] -> ``voxels`` [M, T, C], ``num_points`` [M], ``coors`` [M, 4] (sample, z, y, x),
        ``voxel_centers`` [M, 3] (metres)."""
        layer = self.voxel_layer
        voxels, counts, coors = layer(points)
        size, low = voxels.new_tensor(layer.voxel_size), voxels.new_tensor(layer.point_cloud_range[:3])
        centres = (coors[:, [3, 2, 1]] + 0.5) * size + low
        return {"voxels": voxels, "num_points": counts, "coors": coors, "voxel_centers": centres}
