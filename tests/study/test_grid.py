"""Studies with less writing: merge keys, a matrix of values, settings of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aqr_bench.errors import UserError
from aqr_bench.study.derived import parse_settings, write_derived_study
from aqr_bench.study.grid import grid_variants
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.schema import name_problem, read_yaml
from aqr_bench.study.settings import training_settings

MATRIX = {
    "name": "w$w-$kind",
    "summary": "$w cells, $kind",
    "values": {"w": [1, 5], "kind": ["hard", "soft"]},
    "config": {"model.aqr": {"window": "$w", "profile": "${kind}", "sizes": ["$w", 3], "name": "is $w", "cost": "$$"}},
}


def test_every_combination_with_the_type_of_its_values():
    variants = grid_variants(MATRIX, Path("f"))
    assert list(variants) == ["w1-hard", "w1-soft", "w5-hard", "w5-soft"]
    config = {"window": 5, "profile": "soft", "sizes": [5, 3], "name": "is 5", "cost": "$"}
    assert variants["w5-soft"] == {"summary": "5 cells, soft", "config": {"model.aqr": config}}


def test_combinations_are_left_out():
    excluded = {**MATRIX, "exclude": [{"w": 1}, {"w": 5, "kind": "hard"}]}
    assert list(grid_variants(excluded, Path("f"))) == ["w5-soft"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "w$w"}, r"matrix.name: gives 'w1' twice; it needs all of \$w, \$kind"),
        ({"summary": "$knd"}, r"matrix.summary: '\$knd': unknown key '\$knd'; did you mean 'kind'"),
        ({"summary": "5 $"}, r"a \$ that starts no key"),
        ({"exclude": [{"v": 1}]}, "matrix.exclude.0: unknown key 'v'"),
        ({"values": {"w": list(range(40)), "kind": list(range(40))}}, "more than 1000 combinations"),
    ],
)
def test_mistakes_in_a_matrix(change, message):
    with pytest.raises(UserError, match=f"f: {message}|{message}"):
        grid_variants({**MATRIX, **change}, Path("f"))


def test_the_shipped_grid_is_what_it_was_written_out():
    study, sizes = load_study("window_grid"), (0, 3, 5)
    pairs = [(bev, cam) for bev in sizes for cam in sizes if bev or cam]
    assert list(study.variants) == ["none", *(f"bev{bev}-cam{cam}" for bev, cam in pairs)]
    rest = {"site": "cross", "profile": "uniform", "router": "constant", "scale": 5.0, "learnable_scale": False}
    for bev, cam in pairs:
        aqr = {"bev_window": bev, "camera_window": cam, **rest}
        assert study.variants[f"bev{bev}-cam{cam}"].config == {"model.pts_bbox_head.aqr": aqr}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_merge_keys(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, {z: 4}], x: 5}\nd: [*b, *b]\n"
    b = {"x": 1, "y": 3}
    assert read_yaml(write(tmp_path / "f.yaml", text)) == {
        "a": {"x": 1, "y": 2}, "b": b, "c": {"x": 5, "y": 3, "z": 4}, "d": [b, b],
    }  # fmt: skip
    for text, message in (
        ("a: &a {x: 1}\nb: {<<: *a, y: 1, y: 2}\n", "line 2: key 'y' is given twice"),
        ("a: {<<: 3}\n", "not valid YAML"),
        (
            "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}\n" for n in range(40)),
            "too many keys",
        ),
    ):
        with pytest.raises(UserError, match=message):
            read_yaml(write(tmp_path / "f.yaml", text))


@pytest.mark.parametrize("name", ["123", "1_2", "1e5", "nan", "inf", "0x10", "2024-10-10", "true", "no", "null"])
def test_names_that_are_no_text_on_a_command_line(name, tmp_path):
    text = Path("ablations/smoke.yaml").read_text(encoding="utf-8").replace("name: smoke", f"name: '{name}'")
    with pytest.raises(UserError, match=f"name: a command line takes '{name}' for .*such as 'study-{name}'"):
        load_study(write(tmp_path / f"{name}.yaml", text))


def test_names_that_are_text():
    assert not [name for name in ("smoke", "v1_2", "e5", "1a", "2024-10", "x0x10", "bev5-cam5") if name_problem(name)]


def test_settings_of_a_command_line_make_a_study(tmp_path):
    settings = parse_settings(["optim_wrapper.optimizer.lr=1e-3", "model.pts_bbox_head.num_query=10"])
    assert settings == {"optim_wrapper.optimizer.lr": 1e-3, "model.pts_bbox_head.num_query": 10}
    path = write_derived_study("smoke", settings, tmp_path / "studies")
    study, shipped, tier = load_study(path), load_study("smoke"), load_tier("smoke")
    assert study.name.startswith("smoke-") and study.summary.endswith("num_query=10.") and study.seeds == shipped.seeds
    for name, variant in study.variants.items():
        assert variant.config == {**shipped.variants[name].config, **settings}
        assert training_settings(tier, study, name) != training_settings(tier, shipped, name)
    for text, message in (("lr", "--set: 'lr' is not KEY=VALUE"), ("a=[", "--set a: not valid YAML")):
        with pytest.raises(UserError, match=message):
            parse_settings([text])


def test_a_derived_study_finds_the_files_beside_the_first(tmp_path):
    data = read_yaml(Path("ablations/smoke.yaml"))
    suite = read_yaml(Path("ablations/conditions/missing_sensors.yaml")) | {"name": "mine"}
    write(tmp_path / "mine.yaml", json.dumps(suite))
    data |= {"name": "near", "conditions": "mine.yaml"}
    data["variants"]["cross"] |= {"model": "net.py", "init": "scratch"}
    near = write(tmp_path / "near.yaml", json.dumps(data))
    study = load_study(write_derived_study(near, {"lr": 1}, tmp_path / "far" / "off"))
    assert study.suite.path == tmp_path / "mine.yaml" and study.variants["cross"].model == str(tmp_path / "net.py")
