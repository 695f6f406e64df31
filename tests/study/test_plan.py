"""A selection is the same from wherever it is built, and settings cover what a result depends on, no more."""

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
from aqr_bench.study.settings import condition_settings, measure_settings, training_settings
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


def test_a_study_with_a_custom_metric_needs_a_tier_with_one(tmp_path):
    data = yaml.safe_load(STUDY.path.read_text()) | {"name": "judged", "metric": "custom.recall"}
    (tmp_path / "judged.yaml").write_text(yaml.safe_dump(data))
    study = load_study(tmp_path / "judged.yaml")
    with pytest.raises(
        UserError, match=r"judged.yaml: metric: custom.recall: tier smoke has no custom metric\. Name a"
    ):
        plan.select("smoke", [str(study.path)])
    assert not plan.can_run(SMOKE, study) and plan.can_run(replace(SMOKE, metrics=("a.py:recall",)), study)


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


# ---------------------------------------------------------------- settings that results depend on


def with_variant(**changes):
    """The smoke study with its variant ``cross`` changed."""
    return replace(STUDY, variants={**STUDY.variants, "cross": replace(STUDY.variants["cross"], **changes)})


def test_a_variant_depends_on_itself_and_its_schedule():
    cross = training_settings(SMOKE, STUDY, "cross")
    other = with_variant(config={"model.pts_bbox_head.aqr": None}, iterations=7)
    assert training_settings(SMOKE, other, "cross") != cross
    assert training_settings(SMOKE, other, "none") == training_settings(SMOKE, STUDY, "none") != cross
    assert training_settings(SMOKE, with_variant(summary="other words"), "cross") == cross
    assert training_settings(SMOKE, with_variant(memory_limit_mb=9000), "cross") != cross
    assert training_settings(replace(SMOKE, launcher=Launcher(2)), STUDY, "cross") != cross
    assert training_settings(replace(SMOKE, summary="other words", threads=7), STUDY, "cross") == cross
    assert training_settings(replace(SMOKE, tf32=True), STUDY, "cross") != cross


def test_a_base_model_depends_on_its_schedule_and_not_on_that_of_variants():
    base = training_settings(SMOKE)
    assert training_settings(replace(SMOKE, variant=replace(SMOKE.variant, iterations=99))) == base
    assert training_settings(replace(SMOKE, base=replace(SMOKE.base, iterations=99))) != base
    assert (
        training_settings(replace(SMOKE, base=replace(SMOKE.base, config={"optim_wrapper.optimizer.lr": 1.0}))) != base
    )


def test_weights_that_are_only_taken_need_one_process():
    two = replace(SMOKE, launcher=Launcher(2))
    still = with_variant(iterations=0)
    assert training_settings(two, still, "cross") == training_settings(SMOKE, still, "cross")
    assert plan.launcher_of(two, two.base) == Launcher(2)
    assert plan.launcher_of(two, replace(two.base, iterations=0)) == plan.ONE_PROCESS


def test_a_published_file_that_comes_is_another_start(tmp_path):
    file = tmp_path / "weights.pth"
    tier = replace(SMOKE, base=replace(SMOKE.base, init="published", iterations=0, checkpoint=file))
    without = training_settings(tier)
    file.write_bytes(b"weights")
    assert training_settings(tier) != without
    named = training_settings(tier)
    file.touch()  # times do not count; what is in the file is compared by its hash, see records.request
    assert training_settings(tier) == named


def test_a_measurement_depends_on_the_baseline_and_on_how_it_is_measured():
    hashes = {name: measure_settings(SMOKE, STUDY, name) for name in STUDY.variants}
    none = replace(STUDY.variants["none"], config={"model.pts_bbox_head.aqr": None, "train_dataloader.batch_size": 1})
    changed = replace(STUDY, variants={**STUDY.variants, "none": none})
    assert all(measure_settings(SMOKE, changed, name) != value for name, value in hashes.items())
    more = replace(SMOKE, measure=replace(SMOKE.measure, rounds=99))
    assert all(measure_settings(more, STUDY, name) != value for name, value in hashes.items())


def test_an_evaluation_depends_on_its_condition_the_config_and_the_batch_size():
    clean, other = load_suite("missing_sensors").conditions[:2]
    settings = condition_settings(SMOKE, clean)
    assert condition_settings(replace(SMOKE, summary="other words", threads=7), clean) == settings
    assert condition_settings(SMOKE, other) != settings
    assert condition_settings(replace(SMOKE, evaluate_batch_size=99), clean) != settings
    assert condition_settings(replace(SMOKE, tf32=True), clean) != settings
    # A variant may differ at test time alone.
    changed = with_variant(config={"model.pts_bbox_head.aqr": None})
    assert condition_settings(SMOKE, clean, changed, "cross") != condition_settings(SMOKE, clean, STUDY, "cross")


def test_branches_depend_on_their_part_of_the_tier():
    quick = load_tier("quick")
    branch = next(iter(quick.pretrain))
    longer = replace(quick, pretrain={branch: replace(quick.pretrain[branch], iterations=9)})
    assert training_settings(longer, pretrain=branch) != training_settings(quick, pretrain=branch)
    assert training_settings(longer) == training_settings(quick) != training_settings(quick, pretrain=branch)


def test_a_model_file_counts_by_its_contents(tmp_path):
    model = tmp_path / "detector.py"
    model.write_text("x = 1\n")
    tier = replace(SMOKE, model=str(model))
    before = training_settings(tier)
    model.write_bytes(b"x = 1\r\n")
    assert training_settings(tier) == before
    model.write_text("# a comment\nx = 1\n")
    assert training_settings(tier) == before
    (tmp_path / "part.py").write_text("y = 1\n")
    assert training_settings(tier) != before


def test_names_and_contents_of_source_files_count(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    file = tmp_path / "a.py"
    assert source_files_hash([("a.py", file)]) != source_files_hash([("b.py", file)]) != source_files_hash([])
    assert canonical_json({"b": (1, Path("c/d")), "a": {2, 1}}) == '{"a":[1,2],"b":[1,"c/d"]}'
