"""Looking at studies before running them: list, check, and what a run would cost."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml

from aqr_bench.cli import estimate, studies
from aqr_bench.console import duration
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.requirements import FEATURES_BYTES
from aqr_bench.study.runs import limit_seeds


def cost(capsys, *arguments: str) -> str:
    assert studies.main(["cost", *arguments]) == 0
    return capsys.readouterr().out


def write(folder: Path, data: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{data['name']}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder / f"{data['name']}.yaml"


def record(folder: Path, name: str, kind: str, wall_s: float, **more) -> None:
    cost_of = {"wall_s": wall_s, **more.pop("cost", {})}
    write_records(folder / "smoke" / name, [Record(kind, "ok", "smoke", cost=cost_of, **more)])


def printed(capsys, *arguments: str) -> list[str]:
    assert studies.main(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_list_is_tables_that_fit_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys, "list")
    assert max(map(len, lines)) <= min(columns, studies.MAX_WIDTH) and lines[0].split()[0] == "study"
    rows = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert re.match(r"bias_site +4 +5 +all +Where should the attention", rows["bias_site"])
    assert re.match(r"attention_backend +6 +- +all +What does each", rows["attention_backend"])
    assert "  all nuScenes  " in rows["paper_cmt"]
    assert re.match(r"mini +nuScenes +", rows["mini"]) and re.match(r"mome +7 +The seven", rows["mome"])


def test_details_of_a_study_a_tier_and_a_suite(capsys):
    study = printed(capsys, "show", "bias_site")
    assert study[0].startswith("study bias_site: Where should") and "  suite          missing_sensors" in study
    assert any(line.startswith("  variant cross  Bias in") for line in study)
    assert printed(capsys, "list", "bias_site") == study
    assert "  variant  300 iterations, from features" in printed(capsys, "show", "quick")
    assert "  variant  120 iterations, from base" in printed(capsys, "show", "quick_prior")
    assert any(line.split()[0] == "beams_4" for line in printed(capsys, "show", "mome"))
    assert [line.split(":")[0] for line in printed(capsys, "show", "smoke") if line[0] != " "] == [
        "study smoke", "tier smoke",
    ]  # fmt: skip


def from_json(capsys, *arguments: str) -> dict:
    assert studies.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_lists_what_the_tables_do(capsys):
    facts = from_json(capsys, "list")
    assert [[e["name"] for e in facts[kind]] for kind in ("studies", "tiers", "suites")] == [
        studies.known_studies(), studies.known_tiers(), studies.known_suites(),
    ]  # fmt: skip
    by_name = {entry["name"]: entry for entry in facts["studies"]}
    assert len(by_name["bias_site"]["variants"]) == 4 and by_name["bias_site"]["seeds"] == [0, 1, 2, 3, 4]
    assert "quick" not in by_name["paper_cmt"]["tiers"] and facts["broken"] == []
    named = from_json(capsys, "show", "bias_site", "quick")
    assert named["studies"] == [by_name["bias_site"]] and named["suites"] == []
    assert named["tiers"][0]["variant"] == {"length": "300 iterations", "init": "features"}
    assert named["tiers"][0]["ships"] and from_json(capsys, "list", "bias_site", "quick") == named


def test_json_of_a_check_counts_the_configs(capsys, tmp_path):
    facts = from_json(capsys, "check", "bias_site", "quick")
    expected = {"studies": ["bias_site"], "tiers": ["quick"], "suites": [], "configs": 6, "of": ["quick"]}
    assert facts == {"ok": True, **expected}
    (tmp_path / "wrong.yaml").write_text("name: wrong\n")
    with pytest.raises(UserError):
        studies.main(["check", str(tmp_path / "wrong.yaml"), "--json"])
    assert capsys.readouterr().out == ""


def test_check_tells_a_study_a_tier_and_a_suite_apart(capsys, tmp_path):
    assert printed(capsys, "check")[0].endswith("all well formed")
    suite = str(load_suite("mome").path)
    *lines, built = printed(capsys, "check", "bias_site", "quick", suite, str(load_tier("mini").path))
    assert [line.split(":")[0] for line in lines] == ["study bias_site", "tier quick", "suite mome", "tier mini"]
    assert built == "7 configs built, of tier quick, tier mini"
    for name, close in (("bias_sit", "bias_site"), ("quik", "quick"), ("mom", "mome")):
        with pytest.raises(UserError, match=f"unknown study, tier or suite '{name}'; did you mean '{close}'"):
            studies.main(["check", name])
    with pytest.raises(UserError, match=r"study, tier or suite file not found: none\.yaml"):
        studies.main(["show", "none.yaml"])
    tier = yaml.safe_load(load_tier("mini").path.read_text())
    tier["varriant"] = tier.pop("variant")
    with pytest.raises(UserError, match="varriant: unknown key; did you mean 'variant'"):
        studies.main(["check", str(write(tmp_path, tier))])


def test_check_names_the_mistake_in_a_file(tmp_path):
    study = yaml.safe_load(load_study("router").path.read_text())
    study["variants"]["oracle"]["memory_limit"] = 3
    with pytest.raises(UserError, match=r"oracle.memory_limit: unknown key; did you mean 'memory_limit_mb'"):
        studies.main(["check", str(write(tmp_path, study))])


def test_a_study_of_cost_alone_has_nothing_to_train(tmp_path):
    study = yaml.safe_load(load_study("attention_backend").path.read_text())
    study["variants"]["auto"]["iterations"] = 3
    with pytest.raises(UserError, match=r"variants.auto.iterations: not allowed here: .*'measure_only: true'"):
        load_study(write(tmp_path, study))


def test_counts_of_one_study_by_hand():
    """bias_site on quick: two branches, three seeds, four variants, three conditions; base models on quick_prior."""
    tier = load_tier("quick")
    groups = {g.name: g for g in estimate.job_groups(tier, [limit_seeds(load_study("bias_site"), tier)])}
    assert groups["pretrainings"].counts == (900, 1500) and groups["base trainings"].counts == ()
    assert groups["variant trainings"].counts == (300,) * 12 and groups["evaluations"].counts == (3,) * 12
    assert groups["measurements"].jobs == 4 and groups["world"].jobs == 1
    tier = load_tier("quick_prior")
    groups = {g.name: g for g in estimate.job_groups(tier, [limit_seeds(load_study("bias_site"), tier)])}
    assert groups["base trainings"].counts == (1000, 1000) and groups["variant trainings"].counts == (120,) * 8
    assert groups["evaluations"].counts == (3,) * 10


def test_twins_are_counted_once():
    """Windows of 3 and 3 at the largest scale are a variant of both studies."""
    tier = load_tier("quick")
    chosen = [limit_seeds(load_study(name), tier) for name in ("windows", "scale_clamp")]
    groups = {g.name: g for g in estimate.job_groups(tier, chosen)}
    assert groups["variant trainings"].jobs == 27 and len(groups["variant trainings"].counts) == 24
    assert groups["evaluations"].jobs == 27 and len(groups["evaluations"].counts) == 24


def test_a_further_suite_is_evaluated_for_variants(tmp_path):
    tier, study = load_tier("smoke"), load_study("smoke")
    suite = write(tmp_path, {"name": "two", "summary": "x", "conditions": [{"name": "clean"}, {"name": "no_lidar"}]})
    groups = {g.name: g for g in estimate.job_groups(tier, [study], [load_suite(suite)])}
    assert sorted(groups["evaluations"].counts) == [2, 2, 3, 3, 3]


def test_times_are_medians_of_the_records_and_the_source_is_said(tmp_path, capsys):
    for seed, wall_s in enumerate((40.0, 80.0, 400.0)):
        record(tmp_path, f"base/seed{seed}/train.jsonl", "train", wall_s, cost={"iterations": 40}, seed=seed)
    record(tmp_path, "smoke/none/seed0/train.jsonl", "train", 9.0, cost={"iterations": 3}, study="smoke", seed=0)
    twin = {"same_as": "smoke/none/seed0"}
    record(tmp_path, "x/none/seed0/train.jsonl", "train", 999.0, cost={"iterations": 3}, study="x", extra=twin)
    place = dict(study="smoke", variant="none", seed=0, condition="clean", suite="missing_sensors")
    record(tmp_path, "smoke/none/seed0/evaluate.missing_sensors.jsonl", "evaluate", 5.0, **place)
    record(tmp_path, "smoke/none/measure.jsonl", "measure", 7.0, study="smoke", variant="none")
    times = estimate.known_times(load_tier("smoke"), tmp_path)
    own = {kind: times.seconds[kind] for kind in ("base_s", "variant_s", "evaluate_s", "measure_s")}
    assert own == {"base_s": 2.0, "variant_s": 3.0, "evaluate_s": 5.0, "measure_s": 7.0}
    assert f"6 records in {tmp_path / 'smoke'}" in times.source
    output = cost(capsys, "smoke", "--tier", "smoke", "--records", str(tmp_path))
    assert "base trainings: 1, 4 iterations; 8 s of one core" in output
    assert "measurements: 2; 14 s, alone on the machine" in output and times.source in output


def test_without_records_the_tiers_own_numbers_or_none(tmp_path, capsys):
    output = cost(capsys, "bias_site", "--records", str(tmp_path), "--cores", "2")
    assert "from defaults of tier quick (Intel Xeon" in output and "disk: at most" in output
    facts = json.loads(cost(capsys, "bias_site", "--records", str(tmp_path), "--cores", "2", "--json"))
    assert facts["tier"] == "quick" and facts["studies"] == ["bias_site"] and facts["cores"] == 2
    assert f"time: about {duration(facts['seconds'])} on 2 cores, from {facts['times_from']}" in output
    assert f"jobs of the workflow: {facts['jobs']}\n" in output and f"at most {facts['bytes'] / 1e9:.1f} GB" in output
    evaluations = next(step for step in facts["steps"] if step["name"] == "evaluations")
    assert f"evaluations: {evaluations['jobs']}, {evaluations['units']} conditions; " in output
    tier = yaml.safe_load(load_tier("smoke").path.read_text())
    tier.pop("costs", None)
    output = cost(capsys, "smoke", "--tier", str(write(tmp_path, tier)), "--records", str(tmp_path))
    assert (
        "time: unknown; tier smoke has no records" in output
        and "variant trainings: 2, 4 iterations; time unk" in output
    )
    facts = json.loads(
        cost(capsys, "smoke", "--tier", str(tmp_path / "smoke.yaml"), "--records", str(tmp_path), "--json")
    )
    assert facts["seconds"] is facts["times_from"] is facts["steps"][-1]["core_seconds"] is None


def test_the_disk_for_stored_features_is_counted(tmp_path, capsys):
    tier = yaml.safe_load(load_tier("smoke").path.read_text()) | {"cache_features": True}
    outputs = [cost(capsys, "smoke", "--tier", name) for name in ("smoke", str(write(tmp_path, tier)))]
    plain, stored = (float(re.search(r"disk: at most ([\d.]+) GB", output)[1]) for output in outputs)
    assert stored == pytest.approx(plain + FEATURES_BYTES / 1e9)


def test_a_study_that_the_tier_cannot_run_is_refused_and_left_out_of_all(tmp_path, capsys):
    study = yaml.safe_load(load_study("bias_site").path.read_text()) | {"init": "features"}
    with pytest.raises(UserError, match="starts from 'features', but"):
        studies.main(["cost", str(write(tmp_path, study)), "--tier", "smoke"])
    first = cost(capsys, "--tier", "smoke", "--seeds", "2").splitlines()[0]
    assert "bias_site" in first and "paper_cmt" not in first
    with pytest.raises(UserError, match="9 seeds are asked for"):
        studies.main(["cost", "bias_site", "--seeds", "9"])


def test_wall_time_goes_side_by_side_and_measurements_alone():
    groups = [
        estimate.JobGroup("trainings", "train_variant", "variant_s", (10, 10, 10, 10), 6),
        estimate.JobGroup("measurements", "measure", "measure_s", (1, 1), 2, exclusive=True),
        estimate.JobGroup("evaluations", "evaluate", "evaluate_s", (3,), 1),
    ]
    times = estimate.JobTimes({"variant_s": 1.0, "measure_s": 5.0}, "")
    assert estimate.wall_seconds(groups, times, 2) == (20 + 10, ["evaluations"])
    times = estimate.JobTimes({"variant_s": 1.0, "measure_s": 5.0, "evaluate_s": 2.0, "start_s": 4.0}, "")
    assert estimate.wall_seconds(groups, times, 8) == (10 + 10 + 10, [])
    pairs = [estimate.JobGroup("trainings", "train_variant", "variant_s", (10, 10, 10, 10), 4, processes=2)]
    assert [estimate.wall_seconds(pairs, times, cores)[0] for cores in (1, 2, 4)] == [40, 40, 20]


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (100, "2 min"), (5000, "83 min"), (12600, "3.5 h")])
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


def test_what_the_quick_tier_assumes_is_what_its_reference_records_say():
    """By their CPU times: other work ran beside them."""
    assumed, seconds = load_tier("quick").costs, {"pretrain": [], "variant": [], "evaluate": []}
    records = Path(__file__).parents[2] / "results" / "reference" / "quick" / "records"
    for file in [*records.rglob("train.jsonl"), *records.rglob("evaluate.*.jsonl")]:
        for record in read_records(file):
            kind = (
                record.kind if record.kind == "evaluate" else "pretrain" if record.extra.get("pretrain") else "variant"
            )
            cpu_s = record.cost["cpu_s"]
            per_step = (cpu_s - assumed["start_s"]) / record.cost["iterations"] if kind != "evaluate" else cpu_s
            seconds[kind] += [] if "same_as" in record.extra else [per_step]
    for kind, values in seconds.items():
        assert assumed[f"{kind}_s"] == pytest.approx(statistics.median(values), rel=0.15), (kind, values)
