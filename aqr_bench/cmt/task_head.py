"""Per-layer prediction heads as grouped 1D convolutions: one group of weights for each decoder layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from aqr_bench.cmt.build import build_model

COMMON_HEADS = dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2))


class GroupLayerNorm1d(nn.Module):
    """Layer norm over the channels of each group, at every position.

    Input and output are [B, groups * C, Q]; mean and (biased) variance are taken over the C channels of one group
    at one position. ``eps`` 1e-6 is CMT's; torch's default 1e-5 moves the outputs by 6e-6.
    """

    def __init__(self, channels: int, groups: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be split into {groups} groups")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = groups
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        B, C, Q = x.shape
        grouped = x.view(B, self.groups, C // self.groups, Q)
        centred = grouped - grouped.mean(2, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(2, keepdim=True) + self.eps)
        return torch.addcmul(self.bias[:, None], normed.view(B, C, Q), self.weight[:, None])


@MODELS.register_module()
class SeparateTaskHead(BaseModule):
    """One small network per predicted quantity, each with separate weights for every decoder layer.

    Args:
        in_channels: width of a query.
        heads: name -> (channels, number of convolutions).
        groups: number of decoder layers.
        head_conv: hidden channels per group.
        final_kernel: kernel size over the *query* axis. 1 treats queries alone; 3 (the LiDAR config) mixes
            neighbouring queries, denoising queries included.
        init_bias: initial bias of the classification logits.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, tuple[int, int]],
        groups: int = 1,
        head_conv: int = 64,
        final_kernel: int = 1,
        init_bias: float = -2.19,
        init_cfg: dict | None = None,
        num_cls: int | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.heads = dict(heads)
        self.groups = groups
        self.init_bias = init_bias
        common = dict(kernel_size=final_kernel, padding=final_kernel // 2, groups=groups)
        for name, (channels, num_conv) in self.heads.items():
            layers: list[nn.Module] = []
            width = in_channels
            for _ in range(num_conv - 1):
                layers += [
                    nn.Conv1d(width * groups, head_conv * groups, bias=False, **common),
                    GroupLayerNorm1d(head_conv * groups, groups=groups),
                    nn.ReLU(inplace=True),
                ]
                width = head_conv
            layers.append(nn.Conv1d(width * groups, channels * groups, bias=True, **common))
            self.add_module(name, nn.Sequential(*layers))

    def init_weights(self) -> None:
        """Set the bias of the class logits; convolutions keep torch's initialisation.

        The official class also has Kaiming initialisation, but is in a list that never passes the call on, so the
        published models started from torch's. With Kaiming the first boxes would be spread over the whole map.
        """
        super().init_weights()
        if "cls_logits" in self.heads:
            nn.init.constant_(self.cls_logits[-1].bias, self.init_bias)

    def forward(self, x_LBQC: Tensor) -> dict[str, Tensor]:
        """[layers, B, Q, C] -> name: [layers, B, Q, channels]."""
        L, B, Q, C = x_LBQC.shape
        if self.groups != L:
            raise ValueError(f"task head built for {self.groups} decoder layers got outputs of {L}")
        x = x_LBQC.permute(1, 0, 3, 2).reshape(B, L * C, Q)
        return {
            name: getattr(self, name)(x).view(B, L, channels, Q).permute(1, 0, 3, 2)
            for name, (channels, _) in self.heads.items()
        }

    def one_layer(self, x_BQC: Tensor, index: int, names: Sequence[str]) -> dict[str, Tensor]:
        """The named outputs of decoder layer ``index`` alone: name -> [B, Q, channels]."""
        B, Q, _ = x_BQC.shape
        x = x_BQC.transpose(1, 2).repeat(1, self.groups, 1)
        return {name: getattr(self, name)(x).view(B, self.groups, -1, Q)[:, index].transpose(1, 2) for name in names}


def task_heads(
    config: Mapping | None,
    common_heads: Mapping | None,
    num_classes: Sequence[int],
    in_channels: int,
    num_layers: int,
) -> ModuleList:
    """A head for each task, for every decoder layer.

    Args:
        config: of the head (default: SeparateTaskHead), completed by the other arguments.
        common_heads: regression outputs, name -> (channels, convolutions); by default those of CMT.
        num_classes: of each task.
    """
    # mmengine's list passes init_weights on; torch's, which the official code uses, leaves the -2.19 unset.
    return ModuleList(
        build_model(
            {
                **(config or dict(type="SeparateTaskHead")),
                "in_channels": in_channels,
                "heads": {**(common_heads or COMMON_HEADS), "cls_logits": (number, 2)},
                "groups": num_layers,
            }
        )
        for number in num_classes
    )
