"""What configs and settings ask for: read where they spell it out, everything where they compute it."""

from __future__ import annotations

import pytest

from aqr_bench.records.config_uses import EVERYTHING, Uses, condition_corruptions, config_uses

HEAD = "model.pts_bbox_head"
STEPS = "train_dataloader.dataset.pipeline"


@pytest.mark.parametrize(
    ("config", "bias"),
    [
        ({}, False),
        ({f"{HEAD}.aqr": None}, False),
        ({f"{HEAD}.aqr": {}}, False),
        ({f"{HEAD}.aqr": {"site": "none"}}, True),
        ({f"{HEAD}.aqr.bev_window": 0}, True),
        ({HEAD: {"aqr": {"site": "cross"}}}, True),
        ({"model": {"pts_bbox_head": {"aqr": {}}}}, False),
        ({"custom_imports": ["aqr_bench.cmt"]}, False),
    ],
)
def test_the_bias_in_settings(config, bias):
    assert config_uses([], {"config": config}).bias is bias
    assert config_uses([], {"config": {}, "baseline": config}).bias is bias


def test_corruptions_in_settings():
    steps = [{"type": "RandomCondition", "names": ["multicorrupt.fog@2", "clean"]}]
    names = config_uses([], {"config": {STEPS: steps}}).corruptions
    assert "multicorrupt.fog" in names and "clean" not in names
    conditions = [{"name": "a", "corruption": "clean"}, {"name": "b", "corruption": "nuscenes_r.lidar_drop@1"}]
    assert condition_corruptions({"conditions": conditions}) == {"clean", "nuscenes_r.lidar_drop"}
    several = {"name": "c", "corruptions": [{"corruption": "multicorrupt.fog"}, {"corruption": "no_lidar"}]}
    assert condition_corruptions({"condition": several}) == {"multicorrupt.fog", "no_lidar"}
    assert condition_corruptions({"condition": conditions[0]}) == {"clean"} and not condition_corruptions({})


@pytest.mark.parametrize(
    ("source", "bias"),
    [
        ("head = dict(aqr=dict())", False),
        ("head = {'aqr': {}, 'b': 1}", False),
        ("head = dict(aqr=None)", False),
        ("head = dict(aqr=dict(site='cross'))", True),
        ("head = {'aqr': options}", True),
        ("head['aqr'] = {}", True),
        ("head.update({f'{x}.aqr.site': 1, 'model.aqr.site': 'cross'})", True),
        ("self.aqr = make()", True),
        ("aqr = dict()", True),
        ("imports = ['aqr_bench.cmt']", False),
        ("def (", True),
    ],
)
def test_the_bias_in_a_python_config(tmp_path, source, bias):
    (tmp_path / "config.py").write_text(source)
    assert config_uses([tmp_path / "config.py"], {}).bias is bias


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("step = dict(type='SensorCondition', name='clean', seed=0)", set()),
        ("a = dict(type='RandomCondition', names=['b.snow@1', 'c.fog@2'], prob=0.0)", {"b.snow", "c.fog"}),
        ("step = {'type': 'SensorCondition', 'name': 'nuscenes_c.snow'}", {"nuscenes_c.snow"}),
        ("step = dict(type='SensorCondition')", set()),
        ("step = dict(type='RandomCondition', names=chosen)", None),
        ("step = dict(type='RandomCondition', names=[f'multicorrupt.{n}' for n in chosen])", None),
        ("kind = 'RandomCondition'\nstep = dict(type=kind, names=chosen)", None),
        ("class Mine(RandomCondition): ...", None),
        ("from aqr_bench.corruptions import get_corruption as look", None),
    ],
)
def test_corruptions_in_a_python_config(tmp_path, source, names):
    (tmp_path / "config.py").write_text(source)
    result = config_uses([tmp_path / "config.py"], {}).corruptions
    assert result is None if names is None else names == {name for name in result if "." in name}


def test_uses_add_up():
    assert Uses(True) | Uses(False, frozenset("a")) == Uses(True, frozenset("a"))
    assert Uses(False, None) | Uses(True, frozenset("a")) == EVERYTHING
