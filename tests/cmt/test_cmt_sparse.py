"""Sparse convolutions on a CPU against dense ones, and kernels of either layout."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet3d.registry import MODELS
from torch import nn
from torch.nn import functional as F

from aqr_bench.cmt.sparse_kernels import accept_both_layouts, in_layout_of, mmcv_from_spconv2, spconv2_from_mmcv

SHAPE = [17, 16, 16]


def encoder(seed: int = 0) -> nn.Module:
    """The published encoder's blocks, narrower, with batch statistics that are not trivial."""
    torch.manual_seed(seed)
    model = MODELS.build(
        dict(
            type="SparseEncoder",
            in_channels=5,
            sparse_shape=SHAPE,
            base_channels=4,
            output_channels=6,
            order=("conv", "norm", "act"),
            encoder_channels=((4, 4, 8), (8, 8, 8), (8, 8)),
            encoder_paddings=((0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
            block_type="basicblock",
        )
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    accept_both_layouts(model)
    return model.eval()


def voxels(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    coors = torch.stack([torch.randint(0, n, (150,), generator=g) for n in (2, *SHAPE)], 1).unique(dim=0)
    return torch.randn(len(coors), 5, generator=g), coors.int()


class Dense:
    """The encoder's meaning in dense arithmetic: convolve everything, keep the sites that a sparse one would have."""

    def __init__(self, features: torch.Tensor, coors: torch.Tensor) -> None:
        b, z, y, x = coors.long().unbind(1)
        self.x = torch.zeros(2, *SHAPE, features.shape[1]).index_put((b, z, y, x), features).permute(0, 4, 1, 2, 3)
        self.active = torch.zeros(2, 1, *SHAPE).index_put(
            (b, torch.zeros_like(b), z, y, x), torch.ones(len(coors))
        )  # fmt: skip

    def conv(self, conv: nn.Module) -> None:
        kernel = conv.weight.permute(0, 4, 1, 2, 3)
        if conv.subm:
            self.x = F.conv3d(self.x, kernel, conv.bias, padding=[k // 2 for k in conv.kernel_size])
        else:
            self.x = F.conv3d(self.x, kernel, conv.bias, conv.stride, conv.padding)
            ones = torch.ones(1, 1, *conv.kernel_size)
            self.active = (F.conv3d(self.active, ones, None, conv.stride, conv.padding) > 0).float()
        self.x = self.x * self.active

    def norm(self, norm: nn.Module) -> None:
        x = F.batch_norm(self.x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        self.x = x * self.active

    def run(self, model: nn.Module) -> torch.Tensor:
        self.conv(model.conv_input[0])
        self.norm(model.conv_input[1])
        self.x = self.x.relu()
        for stage in model.encoder_layers:
            for block in stage:
                if hasattr(block, "conv1"):
                    before = self.x
                    self.conv(block.conv1)
                    self.norm(block.norm1)
                    self.x = self.x.relu()
                    self.conv(block.conv2)
                    self.norm(block.norm2)
                    self.x = (self.x + before).relu()
                else:
                    self.conv(block[0])
                    self.norm(block[1])
                    self.x = self.x.relu()
        self.conv(model.conv_out[0])
        self.norm(model.conv_out[1])
        return self.x.relu().flatten(1, 2)


def test_the_sparse_encoder_computes_what_dense_convolutions_say():
    model = encoder()
    features, coors = voxels()
    with torch.no_grad():
        actual, expected = model(features, coors, 2), Dense(features, coors).run(model)
    assert actual.shape == expected.shape and expected.abs().max() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["spconv2", "mmcv"])
@pytest.mark.parametrize("metadata", [True, False])
def test_kernels_of_either_layout_load(layout, metadata):
    """With the metadata of a live state dict (as torch saves it) or without (a plain dict, as converters write it)."""
    source, target = encoder(0), encoder(1)
    state = source.state_dict()
    if layout == "mmcv":
        for key, value in state.items():
            if value.dim() == 5:
                state[key] = mmcv_from_spconv2(value).contiguous()
        # A file of mmcv's layout comes without version 2.
        state = copy.copy(state)
        state._metadata = {"": {"version": 1}} if metadata else None
        if not metadata:
            state = dict(state)
    elif not metadata:
        state = dict(state)
    remaining = {key: value.clone() for key, value in state.items()}
    result = target.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    for (name, value), other in zip(target.state_dict().items(), source.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert all(torch.equal(remaining[key], state[key]) for key in remaining)  # the given dict is not changed
    copied = copy.deepcopy(target)
    copied.load_state_dict(dict(state))


def test_a_kernel_that_fits_neither_layout_is_an_error():
    state = dict(encoder().state_dict())
    state["conv_out.0.weight"] = torch.zeros(3, 1, 1, 7, 6)
    with pytest.raises(RuntimeError, match=r"conv_out.0.weight"):
        encoder().load_state_dict(state)


def test_layouts_are_distinguished_by_shape_and_inverse_to_each_other():
    kernel = torch.randn(16, 3, 3, 3, 5)
    assert torch.equal(spconv2_from_mmcv(mmcv_from_spconv2(kernel)), kernel)
    assert in_layout_of(kernel, (16, 3, 3, 3, 5)) is kernel
    assert torch.equal(in_layout_of(mmcv_from_spconv2(kernel), (16, 3, 3, 3, 5)), kernel)
    assert in_layout_of(kernel, (16, 3, 3, 3, 6)) is None and in_layout_of(torch.zeros(4), (3,)) is None
