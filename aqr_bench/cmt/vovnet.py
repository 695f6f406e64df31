"""VoVNet V2: the image backbone of CMT's large configs (Lee and Park, CenterMask, CVPR 2020)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from aqr_bench.errors import UserError, nearest

STEM = (64, 64, 128)
BRANCH_CHANNELS = (128, 160, 192, 224)  # of the 3x3 convolutions of stage 2 to 5
STAGE_CHANNELS = (256, 512, 768, 1024)  # of the outputs of stage 2 to 5


@dataclass(frozen=True)
class VoVNetSpec:
    """``layers``: 3x3 convolutions in a block; ``blocks``: one-shot aggregation blocks of stage 2 to 5."""

    layers: int
    blocks: tuple[int, int, int, int]


SPECS = {
    "V-19-eSE": VoVNetSpec(3, (1, 1, 1, 1)),
    "V-39-eSE": VoVNetSpec(5, (1, 1, 2, 2)),
    "V-57-eSE": VoVNetSpec(5, (1, 1, 4, 3)),
    "V-99-eSE": VoVNetSpec(5, (1, 3, 9, 3)),
}


def _conv(inputs: int, outputs: int, name: str, kernel: int, stride: int = 1) -> list[tuple[str, nn.Module]]:
    """Convolution, batch norm and ReLU under the published names, which contain a slash."""
    return [
        (f"{name}/conv", nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)),
        (f"{name}/norm", nn.BatchNorm2d(outputs)),
        (f"{name}/relu", nn.ReLU(inplace=True)),
    ]


class EffectiveSqueezeExcitation(nn.Module):
    """Scale every channel by a hard sigmoid of one fully connected layer on the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc(x.mean((2, 3), keepdim=True))
        return x * (F.relu6(gate + 3.0) / 6.0)


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions whose outputs, and the input, are concatenated once and mixed by a 1x1."""

    def __init__(self, inputs: int, branch: int, outputs: int, layers: int, name: str, identity: bool) -> None:
        super().__init__()
        self.identity = identity
        widths = [inputs, *[branch] * layers]
        self.layers = nn.ModuleList(
            nn.Sequential(OrderedDict(_conv(widths[i], branch, f"{name}_{i}", 3))) for i in range(layers)
        )
        self.concat = nn.Sequential(OrderedDict(_conv(sum(widths), outputs, f"{name}_concat", 1)))
        self.ese = EffectiveSqueezeExcitation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features[-1]))
        out = self.ese(self.concat(torch.cat(features, dim=1)))
        return out + x if self.identity else out


@MODELS.register_module()
class VoVNet(BaseModule):
    """VoVNet V2 with the parameter names of the published weights (``stage3.OSA3_1.layers.0.OSA3_1_0/conv``...).

    Args:
        spec_name: one of ``SPECS``; CMT uses ``V-99-eSE``.
        input_ch: channels of the image.
        out_features: which of ``stem`` (stride 4), ``stage2`` (4), ``stage3`` (8), ``stage4`` (16), ``stage5`` (32) to
            return. Their channels are 128, 256, 512, 768, 1024.
        frozen_stages: -1: none; 0: the stem is frozen; n: also stage 2 to n + 1. Batch statistics of
            frozen parts do not change either.
        norm_eval: batch norm always uses its stored statistics.

    Raises:
        UserError: unknown ``spec_name`` or ``out_features``.
    """

    def __init__(
        self,
        spec_name: str,
        input_ch: int = 3,
        out_features: Sequence[str] = ("stage4", "stage5"),
        frozen_stages: int = -1,
        norm_eval: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if spec_name not in SPECS:
            raise UserError(f"img_backbone.spec_name '{spec_name}' is unknown{nearest(spec_name, SPECS)}")
        spec = SPECS[spec_name]
        self.stage_names = tuple(f"stage{i}" for i in range(2, 6))
        for name in out_features:
            if name not in ("stem", *self.stage_names):
                raise UserError(
                    f"img_backbone.out_features '{name}' is unknown{nearest(name, ('stem', *self.stage_names))}"
                )
        self.out_features = tuple(out_features)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval

        stem = _conv(input_ch, STEM[0], "stem_1", 3, stride=2)
        stem += _conv(STEM[0], STEM[1], "stem_2", 3)
        stem += _conv(STEM[1], STEM[2], "stem_3", 3, stride=2)
        self.stem = nn.Sequential(OrderedDict(stem))
        inputs = STEM[2]
        for i, stage in enumerate(self.stage_names):
            modules = OrderedDict()
            if i:
                # Rounded up and without padding: sizes that are multiples of 32 keep exact strides.
                modules["Pooling"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
            for block in range(spec.blocks[i]):
                name = f"OSA{i + 2}_{block + 1}"
                modules[name] = OneShotAggregation(
                    inputs, BRANCH_CHANNELS[i], STAGE_CHANNELS[i], spec.layers, name, identity=block > 0
                )
                inputs = STAGE_CHANNELS[i]
            setattr(self, stage, nn.Sequential(modules))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] -> the maps named in ``out_features``, fine to coarse."""
        outputs = []
        for name in ("stem", *self.stage_names):
            x = getattr(self, name)(x)
            if name in self.out_features:
                outputs.append(x)
            if len(outputs) == len(self.out_features):
                break
        return tuple(outputs)

    def train(self, mode: bool = True) -> VoVNet:
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self._freeze()
        return self

    def _freeze(self) -> None:
        frozen = ("stem", *self.stage_names)[: self.frozen_stages + 1]
        for name in frozen:
            getattr(self, name).eval().requires_grad_(False)
