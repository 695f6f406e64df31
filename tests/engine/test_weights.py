"""Weights that are not finite, or next to it, are refused after training, and wherever a checkpoint is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from aqr_bench.engine.checkpoint import read_checkpoint, usable_weights
from aqr_bench.engine.evaluate_checkpoint import strip_to_state_dict
from aqr_bench.engine.hooks import DivergedError, LossCurve
from aqr_bench.engine.initial_weights import load_initial_weights
from aqr_bench.engine.resume import latest_valid_checkpoint
from aqr_bench.engine.weights import final_weights, load_weights, merged_weights, weights_fault, write_weights
from aqr_bench.errors import UserError
from aqr_bench.study.spec import Schedule

BAD = [torch.nan, -torch.inf, 1e30, -1e30]


def state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([[1.0, value]]), "bias": torch.ones(1), "steps": torch.tensor(2**40)}


@pytest.mark.parametrize("value", [0.0, 1e18, -6e4])
def test_weights_of_a_common_size_are_usable(value):
    assert weights_fault(state(value)) is None
    halves = {name: tensor.half() for name, tensor in state().items() if name != "steps"}
    assert weights_fault({**halves, "empty": torch.zeros(0)}) is None


@pytest.mark.parametrize("value", BAD)
def test_every_reader_of_a_checkpoint_names_file_and_weight(tmp_path, value):
    path = write_weights(tmp_path / "img_backbone.pth", state(value) | {"img_backbone.conv": torch.tensor([value])})
    fault = r"2 of 4 weights are not finite or above 1e\+19: weight \(from .* to .*\), img_backbone\.conv \("
    with pytest.raises(RuntimeError, match=rf"img_backbone\.pth cannot be used: {fault}"):
        load_weights(nn.Linear(2, 1), path)
    with pytest.raises(RuntimeError, match=fault):
        merged_weights([path, path], tmp_path / "merged.pth")
    with pytest.raises(UserError, match=rf"img_backbone\.pth cannot be used: {fault}.*\. Get the file again"):
        usable_weights(read_checkpoint(path))
    with pytest.raises(UserError, match=fault):  # evaluate --config
        strip_to_state_dict(path, tmp_path / "weights.pth", ())
    with pytest.raises(RuntimeError, match=fault):  # a training that starts from the file: a failed record
        load_initial_weights(path, Schedule(1, init="scratch"), "cmt_aqr_quick", tmp_path, ())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("value", BAD)
def test_weights_after_the_last_step_are_looked_at(value):
    model = nn.Linear(2, 1)
    runner = SimpleNamespace(hooks=[], model=model, iter=16)
    assert set(final_weights(runner)) == {"weight", "bias"}
    nn.init.constant_(model.bias, value)
    with pytest.raises(DivergedError, match=r"^after the last iteration, 16, 1 of 2 weights are not .*: bias \(from"):
        final_weights(runner)


def test_a_training_that_diverged_resumes_from_before_that(tmp_path):
    """Else it would diverge again for ever, also with the file restored that made it diverge."""
    for name, value in (("iter_2.pth", 1.0), ("iter_4.pth", torch.nan)):
        write_weights(tmp_path / name, state(value))
    path, (line,) = latest_valid_checkpoint(tmp_path)
    assert path == tmp_path / "iter_2.pth" and "weight (from nan to nan)" in line and "iter_4.pth" in line


@pytest.mark.parametrize(
    ("meta", "tail"), [({"token": "abc"}, r" \(samples abc, abc\)"), ({}, "")], ids=["ours", "without tokens"]
)
def test_a_loss_that_is_not_finite_names_its_samples(meta, tail):
    batch = {"data_samples": [SimpleNamespace(metainfo=meta)] * 2}
    with pytest.raises(DivergedError, match=f"^loss is nan at iteration 3{tail}$"):
        LossCurve().after_train_iter(SimpleNamespace(iter=2), 0, batch, {"loss": torch.tensor(torch.nan)})
