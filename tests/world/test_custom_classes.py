"""Object classes of the user: part of the world that names them, and of no other."""

from __future__ import annotations

import pytest

from aqr_bench.errors import UserError
from aqr_bench.world.classes import CLASSES, class_shares
from aqr_bench.world.custom_classes import classes_with
from aqr_bench.world.scene import simulate
from aqr_bench.world.spec import WorldSpec

VAN = """
from dataclasses import replace
from aqr_bench.world.classes import CLASSES
van = replace(CLASSES[0], name="van", frequency=1.0)
deer = replace(CLASSES[0], name="deer", frequency=1.0, categories=(("animal", 1),), attributes="none")
number = 3
"""
REFERENCE = "mine.py:van"


@pytest.fixture
def project(project):
    (project / "mine.py").write_text(VAN)
    return project


@pytest.mark.parametrize("mix", ["balanced", "nuscenes"])
def test_its_frequency_is_beside_the_others_sum_of_one(project, mix):
    shares = class_shares(mix, classes_with([REFERENCE]))
    assert shares[-1] == pytest.approx(0.5) and shares[:-1] == pytest.approx(class_shares(mix) / 2)


def test_a_scene_has_it_with_its_category(project):
    spec = WorldSpec.from_dict({"classes": [REFERENCE, "mine.py:deer"], "frames_per_scene": 2})
    actors = [actor for actor in simulate(spec, 0, 0).actors if actor.category is not None]
    categories = {name: {a.category for a in actors if a.class_name == name} for name in ("van", "deer")}
    assert categories == {"van": {"vehicle.car"}, "deer": {"animal"}}


def test_the_world_is_another_one_after_a_change_of_its_file(project):
    plain = WorldSpec.from_dict({})
    assert "classes" not in plain.as_dict()
    before = WorldSpec.from_dict({"classes": [REFERENCE]}).sha256
    (project / "mine.py").write_text(VAN + "# a comment\n")
    assert WorldSpec.from_dict({"classes": [REFERENCE]}).sha256 == before != plain.sha256
    (project / "mine.py").write_text(VAN.replace("1.0", "2.0"))
    assert WorldSpec.from_dict({"classes": [REFERENCE]}).sha256 != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('name="car"', "name 'car' is taken"),
        ('categories=(("vehicle.carr", 1),)', "'vehicle.carr' is no category of nuScenes; did you mean 'vehicle.car'"),
        ('categories=(("vehicle.car", 0),)', "the share of vehicle.car is 0, it must be above 0"),
        ("parts=()", "it needs a category and a part"),
        ('parts=(("body", (0, 1, 1, 0, 0, 1)),)', r"part 'body' has \(0, 1, 1, 0, 0, 1\), expected x0, x1"),
        ("size_lwh=(4, 0, 2)", r"size_lwh is \(4, 0, 2\), expected three lengths up to 20 m"),
        ("frequency=0", "frequency is 0, it must be above 0"),
        ("moving_share=2", r"moving_share is 2, it must lie in 0 .. 1"),
        ("speed=(5, 2)", r"speed is \(5, 2\), expected the lowest and the highest"),
        ('attributes="boat"', "attributes 'boat' is not one of vehicle, cycle"),
    ],
)
def test_what_the_world_cannot_use_is_named_with_the_key(project, change, message):
    (project / "bad.py").write_text(VAN + f"van = replace(van, {change})\n")
    with pytest.raises(UserError, match=f"tier.yaml: world.classes: object class 'bad.py:van': {message}"):
        WorldSpec.from_dict({"classes": ["bad.py:van"]}, "tier.yaml")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("mine.py:van", "world.classes must be a list of names"),
        (["van"], "no object class 'van'. Name it as my_file.py:NAME"),
        (["mine.py:number"], "is of type int, expected a ClassInfo"),
        ([REFERENCE, REFERENCE], "name 'van' is taken"),
    ],
)
def test_mistakes(project, classes, message):
    with pytest.raises(UserError, match=message):
        WorldSpec.from_dict({"classes": classes})


def test_the_ten_that_ship_are_unchanged_without_one():
    assert classes_with(()) == CLASSES
