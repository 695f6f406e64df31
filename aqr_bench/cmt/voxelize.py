"""Hard voxelisation of a batch of point clouds with spconv's PointToVoxel (no mmcv operator needed)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aqr_bench.errors import UserError


class HardVoxelizer(nn.Module):
    """Points of a batch to voxels with at most ``max_num_points`` points each.

    A sample without a point in range gives one voxel full of all-zero points, like a LiDAR whose points are all
    multiplied by zero, which is how CMT's modal masking drops the sensor. So "no points" and "LiDAR dropped" are the
    same input to the network, and no batch is ever empty.

    Args:
        voxel_size: (x, y, z) in metres.
        point_cloud_range: (x0, y0, z0, x1, y1, z1) in metres.
        max_num_points: limit of points per voxel.
        max_voxels: limit of voxels per sample, one number or (training, test).
        num_point_features: columns of a point; the first three are x, y, z.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: int | Sequence[int],
        num_point_features: int,
    ) -> None:
        super().__init__()
        if find_spec("spconv") is None:
            raise UserError("pts_voxel_layer needs spconv, which is not installed; see docs/install.md")
        if len(voxel_size) != 3 or len(point_cloud_range) != 6:
            raise UserError("pts_voxel_layer needs 3 numbers in voxel_size and 6 in point_cloud_range")
        self.voxel_size = [float(v) for v in voxel_size]
        self.point_cloud_range = [float(v) for v in point_cloud_range]
        self.max_num_points = int(max_num_points)
        pair = [max_voxels, max_voxels] if isinstance(max_voxels, int) else list(max_voxels)
        self.max_voxels = (int(pair[0]), int(pair[1]))
        self.num_point_features = int(num_point_features)
        self._generators: dict[tuple[str, int], object] = {}

    @torch.no_grad()
    def forward(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Points per sample [P_i, C] -> voxels [M, T, C], point counts [M], coordinates [M, 4] (sample, z, y, x)."""
        voxels, counts, coors = [], [], []
        for sample, cloud in enumerate(points):
            if cloud.shape[-1] != self.num_point_features:
                raise UserError(
                    f"pts_voxel_layer.num_point_features is {self.num_point_features}, but points have "
                    f"{cloud.shape[-1]} columns"
                )
            v, c, n = self._voxelize(cloud)
            voxels.append(v)
            counts.append(n)
            coors.append(F.pad(c, (1, 0), value=sample))
        return torch.cat(voxels), torch.cat(counts), torch.cat(coors)

    def __getstate__(self) -> dict:
        """Without the generators: native objects that can be neither copied nor pickled, created again on demand."""
        return {**self.__dict__, "_generators": {}}

    def _voxelize(self, cloud: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(cloud):
            device = _generator_device(cloud.device)
            outputs = self._generator(device)(cloud.float().contiguous().to(device))
            if len(outputs[0]):
                # The generator owns and reuses its buffers: copy, always.
                return tuple(t.clone().to(cloud.device) for t in outputs)
        return self._zero_voxel(cloud)

    def _zero_voxel(self, cloud: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = self.point_cloud_range[:3], self.point_cloud_range[3:]
        cell = [
            min(max(int((min(max(0.0, lo), hi) - lo) / size), 0), max(round((hi - lo) / size) - 1, 0))
            for lo, hi, size in zip(low, high, self.voxel_size, strict=True)
        ]
        voxel = torch.zeros(1, self.max_num_points, self.num_point_features, device=cloud.device)
        coordinate = torch.tensor([cell[::-1]], dtype=torch.int32, device=cloud.device)
        return voxel, coordinate, torch.full((1,), self.max_num_points, dtype=torch.int32, device=cloud.device)

    def _generator(self, device: torch.device):
        from spconv.pytorch.utils import PointToVoxel

        limit = self.max_voxels[0 if self.training else 1]
        key = (str(device), limit)
        if key not in self._generators:
            self._generators[key] = PointToVoxel(
                vsize_xyz=self.voxel_size,
                coors_range_xyz=self.point_cloud_range,
                num_point_features=self.num_point_features,
                max_num_voxels=limit,
                max_num_points_per_voxel=self.max_num_points,
                device=device,
            )
        return self._generators[key]


def _generator_device(device: torch.device) -> torch.device:
    """Where to voxelise: with the points, or on the CPU if this spconv was built without CUDA."""
    from spconv.cppconstants import CPU_ONLY_BUILD

    return torch.device("cpu") if CPU_ONLY_BUILD else device
