"""CPFPN: a feature pyramid with an output convolution on its first level only."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, ModuleList
from torch import Tensor
from torch.nn import functional as F

from aqr_bench.errors import UserError


@MODELS.register_module()
class CPFPN(BaseModule):
    """Lateral 1x1 convolutions, a top-down path, and one 3x3 convolution, on the first level.

    Only level 0 is used by the CMT heads, so the other levels have no output convolution (parameters without a
    gradient break distributed training with checkpointing).

    Args:
        in_channels: channels of the backbone's levels.
        out_channels: channels of all outputs.
        num_outs: number of outputs; further ones subsample the last.
        start_level: first backbone level to use.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="Xavier", layer="Conv2d", distribution="uniform"))
        used = list(in_channels)[start_level:]
        if not used or num_outs < len(used):
            raise UserError(f"CPFPN: num_outs {num_outs} is fewer than its {len(used)} input levels")
        self.start_level, self.num_outs = start_level, num_outs
        common = dict(norm_cfg=norm_cfg, act_cfg=act_cfg, inplace=False)
        self.lateral_convs = ModuleList(ConvModule(c, out_channels, 1, **common) for c in used)
        self.fpn_convs = ModuleList([ConvModule(out_channels, out_channels, 3, padding=1, **common)])

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Backbone levels [B, C_i, H_i, W_i], fine to coarse -> ``num_outs`` levels [B, out_channels, H_i, W_i]."""
        levels = [conv(x) for conv, x in zip(self.lateral_convs, inputs[self.start_level :], strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[2:], mode="nearest")
        levels[0] = self.fpn_convs[0](levels[0])
        while len(levels) < self.num_outs:
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return tuple(levels)
