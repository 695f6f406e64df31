"""A selection is the same from wherever it is built, and every hash covers what a result depends on, no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aqr_bench.errors import UserError
from aqr_bench.study import plan
from aqr_bench.study.hashes import canonical_json, source_files_hash
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.spec import Launcher, Run

SMOKE, STUDY = load_tier("smoke"), load_study("smoke")


# ---------------------------------------------------------------- what is selected


def test_a_tier_names_what_is_run_where_nothing_is_named():
    tier = load_tier("quick")
    by_default = plan.select("quick")
    assert [study.name for study in by_default.studies] == list(tier.studies)
    assert [suite.name for suite in by_default.suites] == list(tier.suites)
    named = plan.select("quick", ["router"], ["mome"], seeds=1)
    assert [study.name for study in named.studies] == ["router"] and named.studies[0].seeds == (0,)
    assert [suite.name for suite in named.suites] == ["mome"] and named.seeds == 1
    assert plan.select("quick", list(tier.studies)).suites == ()  # those of the tier go with its own studies


def test_studies_that_are_not_chosen_are_targets_with_the_seeds_that_they_name():
    selection = plan.select("quick", ["router"], seeds=1)
    assert selection.studies_by_name["router"].seeds == (0,)
    assert selection.studies_by_name["bias_site"].seeds == load_study("bias_site").seeds
    assert {"mome", STUDY.suite.name} <= set(selection.suites_by_name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["smok"],), "unknown study 'smok'; did you mean 'smoke'"),
        ((["smoke"], ["missing_sensor"]), "unknown suite 'missing_sensor'; did you mean 'missing_sensors'"),
        ((["smoke"], None, 9), "9 seeds are asked for"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        plan.select("smoke", *arguments)


def test_a_study_that_the_tier_cannot_run_is_refused_if_it_is_chosen_and_no_target_otherwise(tmp_path):
    data = yaml.safe_load(STUDY.path.read_text()) | {"name": "branches", "init": "features"}
    (tmp_path / "branches.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match="starts from 'features'"):
        plan.select("smoke", [str(tmp_path / "branches.yaml")])
    assert not plan.can_run(SMOKE, load_study(tmp_path / "branches.yaml")) and plan.can_run(SMOKE, STUDY)


def test_records_of_a_selection():
    selection = plan.select("smoke", ["smoke"])
    base, none = "results/smoke/base/seed0", "results/smoke/smoke/none"
    assert {f"{base}/train.jsonl", f"{base}/evaluate.missing_sensors.jsonl"} == set(selection.base_records([STUDY]))
    variant = [f"{none}/seed0/train.jsonl", f"{none}/seed0/evaluate.missing_sensors.jsonl", f"{none}/measure.jsonl"]
    assert selection.study_records(selection.studies[0], ["none"]) == variant
    assert len(selection.records) == 2 + 2 * 3
    assert len(selection.suite_records("mome")) == 3 and selection.pictured_run() == Run("smoke", None, None, 0)
    further = plan.select("smoke", ["smoke"], ["mome"])
    assert set(further.records) - set(selection.records) == {
        f"results/smoke/smoke/{variant}/seed0/evaluate.mome.jsonl" for variant in STUDY.variants
    }


def test_a_study_of_cost_alone_trains_nothing():
    costs = replace(STUDY, name="costs", measure_only=True, seeds=())
    selection = plan.Selection(SMOKE, (costs,), {"costs": costs})
    assert selection.trained == [] and selection.base_records([costs]) == []
    assert selection.records == [f"results/smoke/costs/{variant}/measure.jsonl" for variant in STUDY.variants]


def test_runs_lie_in_the_same_place_below_results_and_work():
    layout = RunLayout("quick", Path("/r"))
    runs = [Run("quick", None, None, 2), Run("quick", "s", "v", 0), Run("quick", None, None, 0, "lidar")]
    assert [run.subfolder for run in runs] == ["base/seed2", "s/v/seed0", "pretrain/lidar"]
    for run in runs:
        assert layout.train(run) == Path("/r", run.folder, "train.jsonl")
        assert layout.work_folder(run) == layout.root / "work" / run.subfolder


def test_files_of_the_repository_go_by_name(tmp_path):
    assert plan.name_or_path(STUDY.path) == "smoke"
    assert plan.name_or_path(tmp_path / "mine.yaml") == (tmp_path / "mine.yaml").as_posix()


# ---------------------------------------------------------------- hashes of settings


def with_variant(**changes):
    """The smoke study with its variant ``cross`` changed."""
    return replace(STUDY, variants={**STUDY.variants, "cross": replace(STUDY.variants["cross"], **changes)})


def test_a_variant_depends_on_itself_and_its_schedule():
    cross = plan.variant_hash(SMOKE, STUDY, "cross")
    other = with_variant(config={"model.pts_bbox_head.aqr": None}, iterations=7)
    assert plan.variant_hash(SMOKE, other, "cross") != cross
    assert plan.variant_hash(SMOKE, other, "none") == plan.variant_hash(SMOKE, STUDY, "none") != cross
    assert plan.variant_hash(SMOKE, with_variant(summary="other words"), "cross") == cross
    assert plan.variant_hash(SMOKE, with_variant(memory_limit_mb=9000), "cross") != cross
    assert plan.variant_hash(replace(SMOKE, launcher=Launcher(2)), STUDY, "cross") != cross
    assert plan.variant_hash(replace(SMOKE, summary="other words", threads=7), STUDY, "cross") == cross
    assert plan.variant_hash(replace(SMOKE, tf32=True), STUDY, "cross") != cross


def test_a_base_model_depends_on_its_schedule_and_not_on_that_of_variants():
    base = plan.base_hash(SMOKE)
    assert plan.base_hash(replace(SMOKE, variant=replace(SMOKE.variant, iterations=99))) == base
    assert plan.base_hash(replace(SMOKE, base=replace(SMOKE.base, iterations=99))) != base
    assert plan.base_hash(replace(SMOKE, base=replace(SMOKE.base, config={"optim_wrapper.optimizer.lr": 1.0}))) != base


def test_weights_that_are_only_taken_need_one_process():
    two = replace(SMOKE, launcher=Launcher(2))
    still = with_variant(iterations=0)
    assert plan.variant_hash(two, still, "cross") == plan.variant_hash(SMOKE, still, "cross")
    assert plan.launcher_of(two, two.base) == Launcher(2)
    assert plan.launcher_of(two, replace(two.base, iterations=0)) == plan.ONE_PROCESS


def test_a_published_file_that_comes_is_another_start(tmp_path):
    file = tmp_path / "weights.pth"
    tier = replace(SMOKE, base=replace(SMOKE.base, init="published", iterations=0, checkpoint=file))
    without = plan.base_hash(tier)
    file.write_bytes(b"weights")
    assert plan.base_hash(tier) != without


def test_a_measurement_depends_on_the_baseline_and_on_how_it_is_measured():
    hashes = {name: plan.measure_hash(SMOKE, STUDY, name) for name in STUDY.variants}
    none = replace(STUDY.variants["none"], config={"model.pts_bbox_head.aqr": None, "train_dataloader.batch_size": 1})
    changed = replace(STUDY, variants={**STUDY.variants, "none": none})
    assert all(plan.measure_hash(SMOKE, changed, name) != value for name, value in hashes.items())
    more = replace(SMOKE, measure=replace(SMOKE.measure, rounds=99))
    assert all(plan.measure_hash(more, STUDY, name) != value for name, value in hashes.items())


def test_an_evaluation_depends_on_the_conditions_and_the_batch_size():
    suite = load_suite("missing_sensors")
    hashed = plan.suite_hash(SMOKE, suite)
    assert plan.suite_hash(SMOKE, replace(suite, summary="other words")) == hashed
    assert plan.suite_hash(SMOKE, replace(suite, conditions=suite.conditions[:-1])) != hashed
    assert plan.suite_hash(replace(SMOKE, evaluate_batch_size=99), suite) != hashed
    assert plan.suite_hash(replace(SMOKE, tf32=True), suite) != hashed


def test_branches_and_worlds_depend_on_their_part_of_the_tier():
    quick = load_tier("quick")
    branch = next(iter(quick.pretrain))
    longer = replace(quick, pretrain={branch: replace(quick.pretrain[branch], iterations=9)})
    assert plan.pretrain_hash(longer, branch) != plan.pretrain_hash(quick, branch)
    assert plan.world_hash(longer) == plan.world_hash(quick) != plan.world_hash(SMOKE)


def test_a_model_file_counts_by_its_contents(tmp_path):
    model = tmp_path / "detector.py"
    model.write_text("x = 1\n")
    tier = replace(SMOKE, model=str(model))
    before = plan.base_hash(tier)
    model.write_bytes(b"x = 1\r\n")
    assert plan.base_hash(tier) == before
    (tmp_path / "part.py").write_text("y = 1\n")
    assert plan.base_hash(tier) != before


def test_names_and_contents_of_source_files_count(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    file = tmp_path / "a.py"
    assert source_files_hash([("a.py", file)]) != source_files_hash([("b.py", file)]) != source_files_hash([])
    assert canonical_json({"b": (1, Path("c/d")), "a": {2, 1}}) == '{"a":[1,2],"b":[1,"c/d"]}'
