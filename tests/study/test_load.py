"""Tiers, studies and suites: what is accepted, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aqr_bench.errors import UserError
from aqr_bench.folders import shipped_folder
from aqr_bench.study import load as studies
from aqr_bench.study import overrides
from aqr_bench.study.requirements import require_inputs
from aqr_bench.study.runs import base_runs, limit_seeds, matrix, pretrain_runs
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.schema import read_yaml

TIER = shipped_folder() / "ablations" / "tiers" / "smoke.yaml"
STUDY = shipped_folder() / "ablations" / "bias_site.yaml"
SUITE = shipped_folder() / "ablations" / "conditions" / "missing_sensors.yaml"


def changed(source: Path, folder: Path, change) -> Path:
    """A copy of a YAML file with ``change`` applied to its content."""
    data = yaml.safe_load(source.read_text())
    change(data)
    target = folder / source.name
    target.write_text(yaml.safe_dump(data, sort_keys=False))
    return target


@pytest.mark.parametrize("name", studies.known_tiers())
def test_every_shipped_tier_loads(name):
    tier = studies.load_tier(name)
    assert tier.name == name and tier.variant.init in ("base", "features", "scratch")
    if tier.kind == "synthetic":
        assert tier.base.iterations > 0
        require_inputs(tier)
    else:
        assert tier.base.length and not tier.base.iterations


@pytest.mark.parametrize("name", studies.known_studies())
def test_every_shipped_study_loads(name):
    study = studies.load_study(name)
    assert study.baseline in study.variants and study.suite.conditions[0].name == "clean"
    assert study.measure_only != bool(study.seeds and study.metric)


def test_matrix_is_in_file_order_and_base_runs_are_shared():
    tier, study = studies.load_tier("quick_prior"), studies.load_study("bias_site")
    runs = matrix(tier, [study])
    assert [run.variant for run in runs[::5]] == ["none", "cross", "self", "both"]
    assert runs[6].folder == "quick_prior/bias_site/cross/seed1"
    assert [run.folder for run in base_runs(tier, [study, study])] == [f"quick_prior/base/seed{i}" for i in range(5)]
    assert [run.folder for run in pretrain_runs(tier)] == [f"quick_prior/pretrain/{b}" for b in ("lidar", "cameras")]
    assert base_runs(studies.load_tier("quick"), [study]) == []


def test_a_tier_limits_seeds_unless_more_are_asked_for():
    tier, study = studies.load_tier("quick"), studies.load_study("bias_site")
    assert limit_seeds(study, tier).seeds == (0, 1, 2)
    assert limit_seeds(study, tier, 4).seeds == (0, 1, 2, 3)
    assert limit_seeds(study, studies.load_tier("smoke")).seeds == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match=r"bias_site.yaml: 9 seeds are asked for"):
        limit_seeds(study, tier, 9)


def test_study_and_variant_may_change_the_schedule(tmp_path):
    def change(data):
        data |= {"iterations": 0}
        data["variants"]["self"] |= {"iterations": 7, "init": "features", "against": "cross"}
        data["variants"]["both"] |= {"iterations": 5, "init": "scratch"}

    tier, study = studies.load_tier("quick_prior"), studies.load_study(changed(STUDY, tmp_path, change))
    remaining = variant_schedule(tier, study, "cross")
    assert (remaining.iterations, remaining.init) == (0, "base") and remaining.config[
        "optim_wrapper.optimizer.lr"
    ] == 4e-4
    fresh = variant_schedule(tier, study, "self")
    assert (fresh.iterations, fresh.init) == (7, "features")
    assert fresh.config["optim_wrapper.optimizer.lr"] == tier.base.config["optim_wrapper.optimizer.lr"]
    assert study.compared_with("self") == "cross" and study.compared_with("both") == "none"
    with pytest.raises(UserError, match=r"starts from 'features', but .*smoke\.yaml has no 'pretrain'"):
        variant_schedule(studies.load_tier("smoke"), study, "self")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["variants"]["self"].update(against="crss"),
            "self.against: no other variant 'crss'; did",
        ),
        (lambda d: d["variants"]["self"].update(against="self"), r"self.against: no other variant 'self'"),
        (lambda d: d["variants"]["self"].update(iterations=0, init="scratch"), "0 iterations, so init must be 'base'"),
    ],
)
def test_schedules_that_cannot_be(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        study = studies.load_study(changed(STUDY, tmp_path, change))
        variant_schedule(studies.load_tier("quick"), study, "self")


def test_variants_from_scratch_have_no_base(tmp_path):
    path = changed(TIER, tmp_path, lambda d: d["variant"].update(init="scratch"))
    assert base_runs(studies.load_tier(path), [studies.load_study("bias_site")]) == []


@pytest.mark.parametrize(
    ("source", "load", "change", "message"),
    [
        (
            TIER,
            "tier",
            lambda d: d["base"].update(iteratons=3),
            "base.iteratons: unknown key; did you mean 'iterations'?",
        ),
        (
            TIER,
            "tier",
            lambda d: d["base"].update(iterations="many"),
            "base.iterations: 'many' is str, expected integer",
        ),
        (TIER, "tier", lambda d: d["base"].update(iterations=2.0), "base.iterations: 2.0 is float"),
        (TIER, "tier", lambda d: d.update(model="~no"), "model: '~no' does not match"),
        (TIER, "tier", lambda d: d.update(model="cmt_aqr_quick\n"), "model: 'cmt_aqr_quick\\n' does not match"),
        (
            STUDY,
            "study",
            lambda d: d["variants"].update({"a" * 101: d["variants"]["self"]}),
            "is longer than 100 characters",
        ),
        (TIER, "tier", lambda d: d["base"].update(iterations=0), "base.iterations: 0 is less than the minimum of 1"),
        (
            TIER,
            "tier",
            lambda d: d["variant"].update(init="bse"),
            "'bse' is not one of base, features, scratch; did you mean 'base'?",
        ),
        (TIER, "tier", lambda d: d.pop("model"), "model: missing key"),
        (
            TIER,
            "tier",
            lambda d: d.update(data={"kind": "nuscenes", "version": "v1.0-mini"}, world=None),
            "world: None",
        ),
        (TIER, "tier", lambda d: d["data"].update(root="x"), "data.root: not allowed here"),
        (TIER, "tier", lambda d: d["data"].update(kind="nuscenes"), "world: not allowed here"),
        (TIER, "tier", lambda d: d["base"].update(config={"a b": 1}), "base.config.a b: not a valid name"),
        (STUDY, "study", lambda d: d["variants"]["cross"].update(sumary="x"), "variants.cross.sumary: unknown key"),
        (
            STUDY,
            "study",
            lambda d: d.update(measure_onyl=True),
            "measure_onyl: unknown key; did you mean 'measure_only'",
        ),
        (STUDY, "study", lambda d: d.update(measure_only=True), "seeds: not allowed here"),
        (STUDY, "study", lambda d: d.pop("seeds"), "seeds: missing key"),
        (STUDY, "study", lambda d: d["variants"]["self"].update(memory_limit=1), "did you mean 'memory_limit_mb'?"),
        (TIER, "tier", lambda d: d.update(memory_limit_mb=0), "memory_limit_mb: 0 is less than the minimum of 1"),
        (TIER, "tier", lambda d: d.update(costs={"start": 1}), "costs.start: unknown key; did you mean 'start_s'?"),
        (STUDY, "study", lambda d: d.update(baseline="non"), "baseline: unknown variant 'non'; did you mean 'none'?"),
        (STUDY, "study", lambda d: d.update(metric="mAPP"), "metric: 'mAPP' is not one of"),
        (STUDY, "study", lambda d: d.update(metric="recall"), "mAAE, custom.NAME"),
        (STUDY, "study", lambda d: d.update(metric="custom.a b"), "metric: 'custom.a b' does not match"),
        (STUDY, "study", lambda d: d.update(lower_is_better=True), "belongs to a metric custom.NAME"),
        (STUDY, "study", lambda d: d.update(seeds=[0, 0]), "seeds: [0, 0] has non-unique elements"),
        (STUDY, "study", lambda d: d.update(conditions="missing_sensor"), "did you mean 'missing_sensors'?"),
        (SUITE, "suite", lambda d: d["conditions"].append({"name": "clean"}), "'clean' is given twice"),
        (SUITE, "suite", lambda d: d["conditions"][1].update(severty=3), "conditions.1.severty: unknown key"),
    ],
)
def test_mistake_names_file_key_and_way_out(source, load, change, message, tmp_path):
    path = changed(source, tmp_path, change)
    with pytest.raises(UserError) as err:
        getattr(studies, f"load_{load}")(path)
    assert str(path) in str(err.value) and message in str(err.value)
    assert "\n" not in str(err.value)


def test_unknown_names_are_answered_with_the_nearest_and_the_list():
    with pytest.raises(UserError, match=r"unknown study 'bias_sit'; did you mean 'bias_site'\? \(known: .*smoke"):
        studies.load_study("bias_sit")
    with pytest.raises(UserError, match=r"unknown tier 'zzz'; known: .*quick"):
        studies.load_tier("zzz")
    with pytest.raises(UserError, match=r"tier file not found: no/such\.yaml"):
        studies.load_tier("no/such.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' is given twice"),
        ("x: {no: 1}\n", "line 1: key False is read as bool; put it in quotes"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: 2001-01-01\n", "a: is read as date; put it in quotes"),
        ("a: 2001-99-99\n", "not valid YAML: month must be in 1..12"),
        ("a: !!int x\n", "not valid YAML"),
        ("a: {b: .nan}\n", "a.b: is not a number"),
        ("a: [0x" + "f" * 20 + "]\n", "a.0: a whole number of 80 bits is too large"),
        ('a: "\\ud800"\n', "a: '\\ud800' has a character that no text has"),
        ("a: &a [*a]\n", "nested more than 40 levels deep"),
        ("a: &a [1, 2]\nb: [" + "*a, " * 30_000 + "]\n", "too many values (an alias counts as often as it is used)"),
        ("a: 1\n" * 300_000, "MB are more than any study, tier or suite has"),
    ],
)
def test_yaml_traps_are_errors(text, message, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as err:
        read_yaml(path)
    assert str(path) in str(err.value) and message in str(err.value)


def test_exponent_without_a_dot_is_a_number(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("a: 1e-4\nb: 2\nc: '1e-4'\nd: e5\n")
    assert read_yaml(path) == {"a": 1e-4, "b": 2, "c": "1e-4", "d": "e5"}


def test_file_name_and_reserved_names(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(STUDY.read_text())
    with pytest.raises(UserError, match="'bias_site' differs from the file's name 'other'"):
        studies.load_study(other)
    base = tmp_path / "base.yaml"
    base.write_text(STUDY.read_text().replace("name: bias_site", "name: base"))
    with pytest.raises(UserError, match="'base' is reserved for a folder"):
        studies.load_study(base)


@pytest.mark.parametrize(
    ("layers", "merged"),
    [
        ([{"a.b": 1}, {"a.b": 2}], {"a.b": 2}),
        ([{"a": {"x": 1, "y": 0}}, {"a.x": 2}], {"a": {"x": 2, "y": 0}}),
        ([{"a": {}}, {"a.x.y": 2}], {"a": {"x": {"y": 2}}}),
        ([{"a.x": 1, "ab": 3}, {"a": None}], {"ab": 3, "a": None}),
        ([{"a": {"x": 1}}, {"a": {"z": 2}}], {"a": {"z": 2}}),
    ],
)
def test_merge_overrides(layers, merged):
    before = [dict(layer) for layer in layers]
    assert overrides.merge_overrides(*layers) == merged
    assert layers == before


def test_override_inside_null_is_refused():
    with pytest.raises(UserError, match=r"'m\.aqr\.site' lies inside 'm\.aqr', set to None"):
        overrides.merge_overrides({"m.aqr": None}, {"m.aqr.site": "cross"})


def test_variant_config_puts_the_variant_over_the_tier(tmp_path):
    path = changed(TIER, tmp_path, lambda d: d["variant"].update(config={"lr": 1, "model.pts_bbox_head.aqr.x": 0}))
    tier, study = studies.load_tier(path), studies.load_study("bias_site")
    config = variant_schedule(tier, study, "cross").config
    assert config["lr"] == 1 and config["model.pts_bbox_head.aqr"]["site"] == "cross" and len(config) == 2
    with pytest.raises(UserError, match="unknown variant 'crss'; did you mean 'cross'"):
        variant_schedule(tier, study, "crss")


def test_check_overrides_finds_a_key_the_config_does_not_have():
    config = {"model": {"head": {"aqr": None}}, "layers": [{"d": 1}]}
    overrides.check_overrides(config, {"model.head.aqr": {"site": "x"}, "layers.0.d": 2}, "f")
    with pytest.raises(UserError, match=r"f: config key 'model.haed.aqr': no 'haed' in model; did you mean 'head'"):
        overrides.check_overrides(config, {"model.haed.aqr": 1}, "f")
    with pytest.raises(UserError, match="no '1' in layers"):
        overrides.check_overrides(config, {"layers.1.d": 2}, "f")


def test_an_element_of_a_list_can_be_named_by_its_type():
    config = {"pipeline": [{"type": "Load"}, {"type": "SensorDropout", "lidar": 0.25}, {"type": "Load"}]}
    overrides.check_overrides(config, {"pipeline.SensorDropout.lidar": 0.0}, "f")
    with pytest.raises(UserError, match=r"no 'SensorDrpout' in pipeline; did you mean 'SensorDropout'"):
        overrides.check_overrides(config, {"pipeline.SensorDrpout.lidar": 0.0}, "f")
    with pytest.raises(UserError, match="several 'Load' in pipeline; give the index"):
        overrides.check_overrides(config, {"pipeline.Load.type": 1}, "f")


def test_missing_data_and_model_are_found_before_anything_runs(tmp_path):
    def real_data(d):
        d["data"].update(kind="nuscenes", root=str(tmp_path / "nuscenes"))
        del d["world"]

    tier = studies.load_tier(changed(TIER, tmp_path, real_data))
    with pytest.raises(UserError, match=r"data\.root: no nuScenes v1\.0-mini under"):
        require_inputs(tier)
    (tmp_path / "nuscenes" / "v1.0-mini").mkdir(parents=True)
    require_inputs(tier)
    wrong = studies.load_tier(changed(TIER, tmp_path, lambda d: d.update(model="cmt_aqr_quik")))
    with pytest.raises(UserError, match="model: no 'cmt_aqr_quik' in aqr_bench/cmt/configs; did you mean"):
        require_inputs(wrong)


def test_a_checkout_uses_its_own_files(tmp_path, monkeypatch):
    (tmp_path / "ablations").mkdir()
    (tmp_path / "workflow" / "schemas").mkdir(parents=True)
    (tmp_path / "deeper").mkdir()
    assert shipped_folder() != tmp_path
    monkeypatch.chdir(tmp_path / "deeper")
    assert shipped_folder() == tmp_path


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            {"name": "x", "corruption": "no_lidr"},
            "conditions: x: unknown corruption 'no_lidr'; did you mean 'no_lidar'",
        ),
        ({"name": "x", "corruption": "random_cameras"}, "has 5 severities"),
        ({"name": "x", "corruption": "random_cameras", "severity": 9}, "no severity 9"),
        ({"name": "no_lidar", "options": {"from": "absent"}}, "no parameter 'from'; did you mean 'form'"),
    ],
)
def test_a_suite_names_conditions_that_exist(tmp_path, condition, message):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "summary": "x", "conditions": [{"name": "clean"}, condition]}))
    with pytest.raises(UserError, match=message):
        studies.load_suite(file)


def test_a_condition_holds_its_corruption_and_its_settings_as_written(tmp_path):
    file = tmp_path / "mine.yaml"
    view = {"name": "half_view", "corruption": "limited_fov@1", "options": {"azimuth_deg": [-90, 90]}}
    file.write_text(yaml.safe_dump({"name": "mine", "summary": "x", "conditions": [{"name": "clean"}, view]}))
    clean, half_view = studies.load_suite(file).conditions
    assert clean.corruption.key == "clean" and str(half_view.corruption) == "nuscenes_r.limited_fov@1"
    assert half_view.corruption.parameters["azimuth_deg"] == [-90, 90]
    # Hashes of suites are over the settings: these keys and values, so that those of earlier records hold.
    assert clean.settings == {"name": "clean", "corruption": "clean", "severity": None, "options": {}}
    assert half_view.settings == {**view, "severity": None}


def test_a_condition_of_several_corruptions(tmp_path):
    file = tmp_path / "mine.yaml"
    parts = [{"corruption": "limited_fov@1", "options": {"azimuth_deg": [-90, 90]}}, {"corruption": "no_cameras"}]

    def load(**entry):
        conditions = [{"name": "clean"}, {"name": "both", **entry}]
        file.write_text(yaml.safe_dump({"name": "mine", "summary": "x", "conditions": conditions}))
        return studies.load_suite(file).conditions[1]

    condition = load(corruptions=parts)
    assert [str(part) for part in condition.corruption.parts] == ["nuscenes_r.limited_fov@1", "no_cameras"]
    complete = [{"severity": None, **parts[0]}, {"severity": None, "options": {}, **parts[1]}]
    assert condition.settings == {"name": "both", "corruptions": complete}
    assert condition.transform_arguments == {"corruptions": complete}
    assert load(corruption="no_lidar").transform_arguments == {"name": "no_lidar", "severity": None, "options": {}}
    with pytest.raises(UserError, match="both: give either corruptions, or corruption"):
        load(corruptions=parts, corruption="no_lidar")
    with pytest.raises(UserError, match="conditions"):
        load(corruptions=parts[:1])
    with pytest.raises(UserError, match="conditions: both: corruptions: 'no_cameras' is given twice"):
        load(corruptions=[parts[1], parts[1]])


def test_a_file_that_is_read_again_is_as_written_whatever_a_reader_did(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seeds: [0, 1]\n")
    read_yaml(file)["seeds"].append(2)
    assert read_yaml(file) == {"seeds": [0, 1]}
    file.write_text("seeds: [0, 2]\n")
    assert read_yaml(file) == {"seeds": [0, 2]}
