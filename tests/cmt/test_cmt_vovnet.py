"""VoVNet: maps, block arithmetic, freezing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from aqr_bench.cmt.vovnet import VoVNet
from aqr_bench.errors import UserError


def test_maps_have_their_strides_and_channels():
    names = ("stem", "stage2", "stage3", "stage4", "stage5")
    model = VoVNet("V-19-eSE", out_features=names).eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (128, 16, 24), (256, 16, 24), (512, 8, 12), (768, 4, 6), (1024, 2, 3),
    ]  # fmt: skip
    with torch.no_grad():
        only = VoVNet("V-19-eSE", out_features=("stage4", "stage5")).eval()(torch.rand(1, 3, 64, 96))
    assert [m.shape[1] for m in only] == [768, 1024]


def test_a_block_concatenates_every_layer_once_and_gates_the_sum():
    torch.manual_seed(0)
    model = VoVNet("V-57-eSE").eval()
    block = model.stage4.OSA4_2
    assert block.identity and not model.stage4.OSA4_1.identity
    x = torch.randn(1, 768, 5, 7)

    def conv(sequence, x, padding):
        weight, norm = sequence[0].weight, sequence[1]
        x = F.conv2d(x, weight, padding=padding)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()

    with torch.no_grad():
        features = [x]
        for layer in block.layers:
            features.append(conv(layer, features[-1], 1))
        assert [f.shape[1] for f in features] == [768, 192, 192, 192, 192, 192]
        mixed = conv(block.concat, torch.cat(features, 1), 0)
        gate = F.hardsigmoid(F.conv2d(F.adaptive_avg_pool2d(mixed, 1), block.ese.fc.weight, block.ese.fc.bias))
        torch.testing.assert_close(block(x), mixed * gate + x, atol=1e-5, rtol=1e-5)


def test_pooling_rounds_up():
    with torch.no_grad():
        (stage5,) = VoVNet("V-19-eSE", out_features=("stage5",)).eval()(torch.rand(1, 3, 96, 96))
    assert stage5.shape[-1] == 3  # 96 / 4 = 24, then 12, 6, 3; rounded down: 11, 5, 2


def test_norms_stay_in_eval_mode_and_frozen_stages_do_not_learn():
    model = VoVNet("V-19-eSE", frozen_stages=2).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    learns = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learns == {"stage4", "stage5"}
    model = VoVNet("V-19-eSE", norm_eval=False, frozen_stages=0).train()
    assert model.stage2.OSA2_1.concat[1].training and not model.stem[1].training
    assert not VoVNet("V-19-eSE", norm_eval=False).eval().stem[1].training


def test_mistakes_are_reported():
    with pytest.raises(UserError, match="spec_name 'V-99-ese' is unknown; did you mean 'V-99-eSE'"):
        VoVNet("V-99-ese")
    with pytest.raises(UserError, match="out_features 'stage6' is unknown"):
        VoVNet("V-19-eSE", out_features=("stage6",))
