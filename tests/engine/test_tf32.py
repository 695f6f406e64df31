"""TF32: one switch for products and convolutions, set before a model is used, and part of what a result depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aqr_bench import compat
from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.config import base_config, build_config, hashable
from aqr_bench.records.diff import causes
from aqr_bench.records.provenance import provenance
from aqr_bench.records.record import Record
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.load import known_tiers, load_tier


@pytest.fixture(autouse=True)
def _defaults():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("allowed", [True, False])
def test_one_setting_for_products_and_convolutions_and_the_record_has_it(allowed):
    compat.use_tf32(not allowed)
    compat.use_tf32(allowed)
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
    assert provenance()["tf32"] is allowed


def test_only_the_training_of_the_paper_asks_for_it():
    assert [name for name in known_tiers() if load_tier(name).tf32] == ["paper_train"]


def test_the_hash_of_a_config_holds_it_where_it_is_on(tmp_path):
    data = DataSet(tmp_path, tmp_path, "v1.0-mini", "")
    off = load_tier("smoke")
    on = replace(off, tf32=True)
    for build in (base_config, lambda tier, data: build_config(tier, data, 0, "", None, None)):
        plain, changed = (hashable(build(tier, data)) for tier in (off, on))
        assert "tf32" not in plain  # as before there was such a key: results of these tiers stay valid
        assert changed == {**plain, "tf32": True} and config_hash(changed) != config_hash(plain)


class Built(Exception):
    """What is allowed when something is built."""


def build(config):
    raise Built(torch.backends.cuda.matmul.allow_tf32)


@pytest.mark.parametrize("allowed", [True, False])
def test_an_evaluator_sets_it_before_it_builds_its_model(tmp_path, monkeypatch, allowed):
    """So do pictures and keyframes, which evaluate; training and measurement have tests of their own."""
    from mmdet3d.registry import MODELS

    from aqr_bench.engine.evaluate import Evaluator

    tier = replace(load_tier("smoke"), tf32=allowed)
    config = base_config(tier, DataSet(tmp_path, tmp_path, "v1.0-mini", ""))
    compat.use_tf32(not allowed)
    monkeypatch.setattr(MODELS, "build", build)
    with pytest.raises(Built, match=str(allowed)):
        Evaluator(config, tier, None, None, tmp_path)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_training_sets_it_before_it_builds_its_runner(tmp_path, monkeypatch, allowed):
    from mmengine.runner import Runner

    from aqr_bench.engine.train import run_training

    tier = replace(load_tier("smoke"), tf32=allowed)
    config = build_config(tier, DataSet(tmp_path, tmp_path, "v1.0-mini", ""), 0, tmp_path, None, None)
    compat.use_tf32(not allowed)
    monkeypatch.setattr(Runner, "from_cfg", build)
    with pytest.raises(Built, match=str(allowed)):
        run_training(config, tier)


def test_a_rerun_names_it_as_a_cause():
    then, now = (Record("train", "ok", "smoke", provenance={"tf32": value}) for value in (True, False))
    assert causes(then, now) == ["tf32: True then, False now"]
    assert causes(replace(then, provenance={}), now) == []  # an older record
