"""Features of frozen branches from disk: equal to computed ones bit for bit, and never those of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cmt_quick import batch, losses_of, quick_model

from aqr_bench.cmt import feature_cache
from aqr_bench.cmt.feature_cache import FeatureCache

BRANCHES = ["img_backbone", "img_neck", "pts_voxel_encoder", "pts_backbone", "pts_neck"]


def frozen_model(frozen=BRANCHES, **changes):
    return quick_model(**{"model.frozen": list(frozen), **{f"model.{key}": value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def model():
    return frozen_model()


@pytest.fixture
def cache(tmp_path, model) -> FeatureCache:
    model.eval().feature_cache = FeatureCache(tmp_path / "features", "context", 10**9)
    yield model.feature_cache
    model.feature_cache = None


def sample_inputs(count: int = 2, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    clouds = [torch.rand(500 + 50 * n, 5, generator=g) * torch.tensor([60, 60, 6, 255, 0]) for n in range(count)]
    clouds = [cloud - torch.tensor([30, 30, 4, 0, 0]) for cloud in clouds]
    return {"points": clouds, "imgs": torch.randn(count, 2, 3, 32, 64, generator=g)}


@torch.no_grad()
def levels(model, inputs: dict | None = None) -> list[torch.Tensor]:
    images, bev = model.extract_feat(inputs or sample_inputs())
    return [*images, *bev]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride() and a.dtype == b.dtype


def counts(cache: FeatureCache) -> tuple[int, int]:
    return cache.hits, cache.misses


def test_stored_and_computed_features_are_equal_bit_for_bit(model, cache):
    """In strides, too, and whichever samples of a batch were there; also to those without a cache."""
    model.feature_cache = None
    plain = levels(model)
    model.feature_cache = cache
    first = levels(model, {key: value[:1] for key, value in sample_inputs().items()})
    assert counts(cache) == (0, 2)  # a file for each branch
    half, full = levels(model), levels(model)
    assert counts(cache) == (6, 4) and len(list(cache.folder.iterdir())) == 4
    assert_same(plain, half)
    assert_same(plain, full)
    assert_same([level[: len(one)] for level, one in zip(plain, first, strict=True)], first)
    assert not any(level.requires_grad for level in full)


def test_a_branch_is_stored_by_itself(model, cache):
    """A condition that changes one sensor finds the features of the other; a cloud without points has some, too."""
    inputs = sample_inputs()
    levels(model, inputs)
    levels(model, {**inputs, "points": [torch.zeros(0, 5)] * 2})
    assert counts(cache) == (3, 5)  # both empty clouds are one input
    levels(model, {**inputs, "imgs": inputs["imgs"] + 1e-7})
    assert counts(cache) == (5, 7)


def test_a_training_gets_the_same_weights(cache):
    """Two steps without a cache and with one that is filled by the first."""
    data, states = batch(objects=(3, 2), points=(600, 500), sizes=((32, 64), (32, 64)), cameras=2), []
    for stored in (None, cache):
        learner = frozen_model()
        learner.feature_cache = stored
        optimiser = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-3)
        for step in range(2):
            torch.manual_seed(step)  # denoising queries are drawn
            optimiser.zero_grad()
            sum(losses_of(learner, data).values()).backward()
            optimiser.step()
        states.append(learner.state_dict())
    assert counts(cache) == (4, 4)
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    # It has learnt, and not in its branches.
    changed = {name for name, value in frozen_model().state_dict().items() if not torch.equal(states[0][name], value)}
    assert changed and not any(name.startswith(tuple(BRANCHES)) for name in changed)


@pytest.mark.parametrize("change", ["weights", "buffers", "settings", "context", "mode"])
def test_another_branch_has_its_own_features(model, cache, change):
    levels(model)
    changed = frozen_model(**({"pts_voxel_layer.max_num_points": 31} if change == "settings" else {})).eval()
    if change == "settings":  # initial weights are drawn alike
        assert torch.equal(changed.pts_neck.state_dict()["deblocks.0.0.weight"], model.pts_neck.deblocks[0][0].weight)
    changed.feature_cache = FeatureCache(cache.folder, "new code" if change == "context" else "context", 10**9)
    state = changed.state_dict()
    name = {"weights": "pts_neck.deblocks.0.0.weight", "buffers": "pts_voxel_encoder.pfn_layers.0.norm.running_mean"}
    if change in name:
        levels(changed)  # the digest of the weights is known, and forgotten when others are loaded
        assert counts(changed.feature_cache) == (4, 0)
        state[name[change]] = state[name[change]] + 1e-3
        changed.load_state_dict(state)
        changed.feature_cache.hits = 0
    changed.train(change == "mode")
    found = levels(changed)
    images = 0 if change in ("context", "mode") else 2
    assert counts(changed.feature_cache) == (images, 4 - images)
    changed.feature_cache = None
    assert_same(levels(changed), found)


@pytest.mark.parametrize("damage", ["truncated", "empty", "changed"])
def test_a_damaged_file_is_computed_again(model, cache, damage):
    before = levels(model)
    for file in cache.folder.iterdir():
        content = bytearray(file.read_bytes())
        content[-2000] ^= 1
        file.write_bytes({"truncated": content[:-1], "empty": b"", "changed": content}[damage])
    assert_same(before, levels(model))
    assert_same(before, levels(model))
    assert counts(cache) == (4, 8)


def test_only_branches_that_are_wholly_frozen_are_stored(tmp_path):
    partly = frozen_model([name for name in BRANCHES if name != "img_neck"]).train()
    partly.feature_cache = FeatureCache(tmp_path, "", 10**9)
    images, bev = partly.extract_feat(sample_inputs())
    assert counts(partly.feature_cache) == (0, 2) and images[0].requires_grad and not bev[0].requires_grad
    levels(partly.eval())  # in evaluation the other branch has weights of its own, too
    assert partly.feature_cache.misses == 4 and len(list(tmp_path.iterdir())) == 4
    partly.pts_neck.requires_grad_(True)
    levels(partly)
    partly.pts_neck.requires_grad_(False)
    partly.pts_backbone.train()
    levels(partly)
    masked = frozen_model(use_grid_mask=True).train()
    masked.feature_cache = partly.feature_cache
    masked._is_fixed = lambda names: "pts_neck" not in names  # what is left are the images
    levels(masked)
    with torch.autocast("cpu"):
        levels(partly.eval())
    assert counts(partly.feature_cache) == (0, 4)


def test_a_full_folder_or_disk_stores_no_more(model, cache, monkeypatch, capsys):
    cache.max_bytes = 1
    before = levels(model)
    assert len(list(cache.folder.iterdir())) == 1 and capsys.readouterr().out.count("is full") == 1
    assert_same(before, levels(model))
    again = FeatureCache(cache.folder, "context", 10**9)
    usage = feature_cache.shutil.disk_usage(cache.folder)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    model.feature_cache = again
    assert_same(before, levels(model))
    again.folder = Path("/dev/null/nowhere")
    assert_same(before, levels(model))
    assert len(list(cache.folder.iterdir())) == 1


def test_two_processes_write_the_same_file(tmp_path, monkeypatch):
    """The second one renames its file while the first is writing: each has a temporary file of its own."""
    first, second = (FeatureCache(tmp_path, "", 10**9) for _ in range(2))
    sample, value, checksum = torch.zeros(3), [torch.ones(2, 3)], feature_cache._checksum

    def overtaken(content):
        with monkeypatch.context() as other:
            other.setattr("aqr_bench.atomic.os.getpid", lambda: 1)
            other.setattr(feature_cache, "_checksum", checksum)
            second.levels(b"", sample, lambda: value)
        return checksum(content)

    monkeypatch.setattr(feature_cache, "_checksum", overtaken)
    first.levels(b"", sample, lambda: value)
    assert second.misses == 1 and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(feature_cache, "_checksum", checksum)
    assert_same(first.levels(b"", sample, lambda: pytest.fail("computed again")), value)
