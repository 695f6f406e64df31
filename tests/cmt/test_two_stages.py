"""MoME's two stages in one training: who learns when, from which samples, at which rate."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cmt_official import head_config
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from aqr_bench.cmt.two_stages import TwoStages
from aqr_bench.data.conditions import SensorDropout
from aqr_bench.engine.config import _merge, _set_length
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.model_files import CONFIGS
from aqr_bench.study.schedule import variant_schedule


@pytest.fixture(scope="module")
def config() -> Config:
    """Of the variant ``mome`` on tier quick, as it is trained."""
    tier, study = load_tier("quick"), load_study("hard_masking")
    config, schedule = Config.fromfile(CONFIGS / f"{tier.model}.py"), variant_schedule(tier, study, "mome")
    _merge(config, schedule.config)
    _set_length(config, schedule, study.path)
    return config


@pytest.fixture
def head(config):
    return MODELS.build({**config.model.pts_bbox_head, "train_cfg": config.model.train_cfg.pts})


def runner_of(head, iteration: int = 0, workers: int = 0, steps=None) -> SimpleNamespace:
    transforms = [SensorDropout(0.35, 0.2)] if steps is None else steps
    dataset = SimpleNamespace(dataset=SimpleNamespace(pipeline=SimpleNamespace(transforms=transforms)))
    loader = SimpleNamespace(num_workers=workers, dataset=dataset)
    model = SimpleNamespace(pts_bbox_head=head)
    return SimpleNamespace(model=model, train_dataloader=loader, iter=iteration, max_iters=400)


def learning(head) -> set[str]:
    return {name.split(".")[1] for name, p in head.named_parameters() if p.requires_grad and "transformer" in name}


def test_the_router_learns_after_the_experts_and_from_failing_sensors(head):
    hook, runner = TwoStages(0.75), runner_of(head.train())
    hook.before_train(runner)
    (dropout,) = runner.train_dataloader.dataset.dataset.pipeline.transforms
    assert head.stage == "experts" and (dropout.lidar, dropout.cameras) == (0.0, 0.0)
    assert all(parameter.requires_grad for parameter in head.parameters()) and head.transformer.decoder.training
    for runner.iter in (0, 298):
        hook.after_train_iter(runner, runner.iter)
    assert head.stage == "experts"
    runner.iter = 299
    hook.after_train_iter(runner, 299)
    assert head.stage == "router" and (dropout.lidar, dropout.cameras) == (0.35, 0.2)
    assert learning(head) == {"encoder", "selected_cls"} and not head.transformer.decoder.training


@pytest.mark.parametrize(("iteration", "stage"), [(299, "experts"), (300, "router")])
def test_a_resumed_training_is_in_the_stage_of_its_iteration(head, iteration, stage):
    runner = runner_of(head, iteration)
    TwoStages(0.75).before_train(runner)
    (dropout,) = runner.train_dataloader.dataset.dataset.pipeline.transforms
    assert head.stage == stage and (dropout.lidar > 0) == (stage == "router")


def test_each_stage_of_the_variant_has_one_cycle_of_the_learning_rate(config):
    """The experts' stage is as long as a training of the other variants."""
    tier, study = load_tier("quick"), load_study("hard_masking")
    hook = next(hook for hook in config.custom_hooks if hook.type == "TwoStages")
    begin, end = round(hook.router_from * config.train_cfg.max_iters), config.train_cfg.max_iters
    assert begin == variant_schedule(tier, study, "none").iterations and end == 400
    optimizer = build_optim_wrapper(torch.nn.Linear(1, 1), config.optim_wrapper).optimizer
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in config.param_scheduler]
    rates = []
    for _ in range(end):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    for first, last in ((0, begin), (begin, end)):
        stage = rates[first:last]
        assert max(stage) == pytest.approx(2e-3, rel=1e-2) and stage.index(max(stage)) < 0.25 * len(stage)
        assert stage[0] < 2e-4 and stage[-1] < 2e-5


def test_the_other_hooks_and_the_rest_of_the_model_are_those_of_the_tier(config):
    tier, study = load_tier("quick"), load_study("hard_masking")
    plain = Config.fromfile(CONFIGS / f"{tier.model}.py")
    assert [hook for hook in config.custom_hooks if hook.type != "TwoStages"] == plain.custom_hooks
    _merge(plain, variant_schedule(tier, study, "none").config)
    shipped, standard = (c.model.pts_bbox_head.transformer.decoder.to_dict() for c in (config, plain))
    assert MODELS.build(config.model.pts_bbox_head).transformer.decoder.state_dict().keys() == (
        MODELS.build(plain.model.pts_bbox_head).transformer.decoder.state_dict().keys()
    )
    assert shipped["num_layers"] == standard["num_layers"]
    layers = [decoder["transformerlayers"] for decoder in (shipped, standard)]
    assert [len(layer["attn_cfgs"]) for layer in layers] == [2, 2]
    sizes = [
        [(a["embed_dims"], a["num_heads"], a["dropout"]) for a in layer["attn_cfgs"]]
        + [(layer["ffn_cfgs"]["embed_dims"], layer["ffn_cfgs"]["feedforward_channels"])]
        for layer in layers
    ]
    assert sizes[0] == sizes[1]


def test_what_it_cannot_stage_is_refused(head):
    with pytest.raises(UserError, match=r"router_from is 1.5; it has to be between 0 and 1"):
        TwoStages(1.5)
    plain = MODELS.build(head_config(num_query=5))
    for runner, message in (
        (runner_of(plain), "is for pts_bbox_head.type 'MultiExpertDecoding'"),
        (runner_of(head, workers=2), "set train_dataloader.num_workers to 0"),
        (runner_of(head, steps=[]), "needs exactly one SensorDropout"),
    ):
        with pytest.raises(UserError, match=message):
            TwoStages(0.5).before_train(runner)
