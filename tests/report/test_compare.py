"""Two result folders side by side: changes, differences outside the noise, and refusals."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_records import write_scored
from scipy import stats

from aqr_bench.cli import main as cli
from aqr_bench.errors import UserError
from aqr_bench.folders import shipped_folder
from aqr_bench.records.record import Record, write_records
from aqr_bench.report.compare import main
from aqr_bench.report.result_sets import incompatible, read_set
from aqr_bench.report.score_comparison import compare_scores, score_difference

CONDITIONS = ("clean", "no_lidar")
SHIPPED = shipped_folder() / "results" / "reference" / "quick_0.1.0" / "records"


def make_set(folder: Path, seeds=(0, 1, 2), shift=lambda variant, condition, seed: 0.0, **change) -> Path:
    """Records of the variants a and b of a study, as ``results/<tier>`` has them; ``change``: of the evaluations."""
    tier, conditions = change.pop("tier", "quick"), change.pop("conditions", CONDITIONS)
    proof = {"data_sha256": "d" * 64, "infos_sha256": "f" * 64}
    proof |= {"code_sha256": "c" * 64, "git_commit": "1" * 40, "packages": {"torch": "2.13.0"}}
    for variant in ("a", "b"):
        for seed in seeds:
            run = dict(tier=tier, study="made_up", variant=variant, seed=seed)
            config = {"config_sha256": change.get("config", "x") if variant == "b" else "x"}
            train = Record("train", "ok", **run, provenance={**proof, **config})
            place = folder / "made_up" / variant / f"seed{seed}"
            write_records(place / "train.jsonl", [train])
            rows = []
            for k, condition in enumerate(conditions):
                score = 0.4 / (k + 1) + 0.02 * seed + shift(variant, condition, seed)
                given = {"input_sha256": change.get("inputs", {}).get(condition, condition)}
                facts = {**proof, **given, **change.get("facts", {})}
                state = {"condition": condition, "suite": "missing_sensors", "provenance": facts}
                rows.append(Record("evaluate", "ok", **run, **state, scores={"mAP": score, "NDS": score}))
            write_records(place / "evaluate.missing_sensors.jsonl", rows)
    return folder


def by_variant(a: Path, b: Path, metric: str = "mAP"):
    rows = compare_scores(read_set(a), read_set(b), [metric])
    return {(row.key.variant, row.key.condition): row for row in rows}


def noise(size: float, start: int = 0):
    rng = random.Random(start)
    return lambda variant, condition, seed: rng.gauss(0, size)


# ---------------------------------------------------------------- what comes out


def test_a_copy_is_identical(tmp_path, capsys):
    a = make_set(tmp_path / "a")
    shutil.copytree(a, tmp_path / "b")
    assert main([str(a), str(tmp_path / "b")]) == 0
    output = capsys.readouterr().out
    assert (
        "8 scores: 8 identical. Nothing is outside the noise after correction." in output and "changed:" not in output
    )


def test_a_loss_in_every_seed_is_outside_the_noise(tmp_path, capsys):
    a = make_set(tmp_path / "a", shift=noise(0.001))
    worse = lambda v, c, s: -0.1 * (v == "b" and c == "clean") + 0.001 * s  # noqa: E731
    b = make_set(tmp_path / "b", shift=worse, facts={"git_commit": "2" * 40, "packages": {"torch": "2.14.0"}})
    assert main([str(a), str(b)]) == 1
    output = capsys.readouterr().out
    assert "Outside the noise: mAP of made_up/b under clean is worse in B" in output
    assert "B 1111111111, 2222222222" in output and "A 2.13.0\n" in output and "B 2.13.0, 2.14.0" in output
    row = by_variant(a, b)["b", "clean"]
    assert (row.test, row.verdict, row.corrected) == ("paired", "worse", "worse") and row.delta.comparisons == 4
    assert by_variant(b, a)["b", "clean"].corrected == "better"


def test_json_has_what_the_text_says(tmp_path, capsys):
    a = make_set(tmp_path / "a", shift=noise(0.001))
    b = make_set(tmp_path / "b", shift=lambda v, c, s: -0.1 * (v == "b" and c == "clean") + 0.001 * s, config="y")
    out = tmp_path / "all.csv"
    assert main([str(a), str(b), str(a), "--json", "--out", str(out)]) == 1
    facts = json.loads(capsys.readouterr().out)
    first, second = facts["comparisons"]
    assert facts["different"] and (first["different"], second["different"]) == (True, False)
    assert (first["a"], first["b"]) == (str(a), str(b)) and first["changed"] == ["config of made_up/b"]
    rows = pd.read_csv(out)
    assert len(first["scores"]) + len(second["scores"]) == len(rows) and first["scores"][0].keys() < {*rows}
    worse = [(s["variant"], s["condition"]) for s in first["scores"] if s["verdict_holm"] == "worse"]
    assert set(worse) == {("b", "clean")} and "is worse in B" in first["conclusion"]
    assert {"name": "studies", "a": "made_up", "b": "made_up"} in first["sides"]
    with pytest.raises(OSError, match=r"all\.csv"):
        main([str(a), str(b), "--json", "--out", str(out / "no_folder.csv")])
    assert not capsys.readouterr().out


def test_noise_is_called_noise(tmp_path):
    a, b = make_set(tmp_path / "a", shift=noise(0.01, 1)), make_set(tmp_path / "b", shift=noise(0.01, 2))
    rows = by_variant(a, b)
    assert {row.corrected for row in rows.values()} == {"within the noise"}
    assert main([str(a), str(b)]) == 0


def test_lower_errors_are_better(tmp_path):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b", shift=lambda v, c, s: 0.1 + 0.001 * s)
    for folder in (a, b):
        for file in folder.rglob("evaluate*.jsonl"):
            file.write_text(file.read_text().replace('"NDS"', '"mATE"'))
    assert {row.corrected for row in by_variant(a, b, "mATE").values()} == {"worse"}


def test_pairs_are_of_the_seeds_that_both_have():
    a, b = {0: 0.4, 1: 0.5, 2: 0.6}, {0: 0.41, 1: 0.52, 2: 0.61}
    test, delta = score_difference(a, b)
    assert test == "paired" and delta.p == pytest.approx(stats.ttest_rel(list(b.values()), list(a.values())).pvalue)
    # A seed that is missing makes no difference by itself.
    assert score_difference(a, {0: 0.4, 1: 0.5})[0] == "identical"
    test, delta = score_difference(a, {1: 0.52, 2: 0.61, 7: 0.9})
    assert test == "paired, 2 seeds" and delta.n == 2 and delta.mean == pytest.approx(0.015)


def test_other_seeds_are_compared_by_welch():
    a, b = {0: 0.40, 1: 0.42, 2: 0.41, 3: 0.43}, {4: 0.50, 5: 0.47, 6: 0.52}
    test, delta = score_difference(a, b)
    welch = stats.ttest_ind(list(b.values()), list(a.values()), equal_var=False)
    expected = welch.confidence_interval(0.95)
    assert test == "Welch" and (delta.p, delta.low, delta.high) == pytest.approx(
        (welch.pvalue, expected.low, expected.high)
    )
    assert delta.mean == pytest.approx(np.mean(list(b.values())) - np.mean(list(a.values())))
    test, delta = score_difference({0: 0.4, 1: 0.5}, {2: 0.5})
    assert test == "Welch" and delta.low is None and delta.p is None
    assert score_difference({0: 0.4, 1: 0.4}, {2: 0.5, 3: 0.5})[1].p == 0.0


def test_a_single_seed_has_no_noise(tmp_path, capsys):
    a, b = make_set(tmp_path / "a", seeds=(0,)), make_set(tmp_path / "b", seeds=(0,), shift=lambda v, c, s: 0.1)
    assert main([str(a), str(b)]) == 0
    output = capsys.readouterr().out
    assert "one seed, noise unknown" in output and "8 without an estimate of the noise (one seed)" in output


def test_what_is_in_one_set_only_is_reported(tmp_path, capsys):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b", config="y")
    shutil.rmtree(b / "made_up" / "a")
    assert main([str(a), str(b)]) == 1
    output = capsys.readouterr().out
    assert "changed: config of made_up/b" in output and "changed: only in A: 9 records of made_up/a" in output
    assert {row.test for key, row in by_variant(a, b).items() if key[0] == "a"} == {"only in A"}
    assert "changed: only in A: variant made_up/a" in output and "In one set only: 4 scores of all seeds" in output


@pytest.mark.parametrize("value", ["NaN", "null", "Infinity"])
def test_a_score_that_is_no_number_in_one_set_is_a_difference(value, tmp_path, capsys):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b")
    file = b / "made_up" / "b" / "seed1" / "evaluate.missing_sensors.jsonl"
    file.write_text(re.sub('"mAP": [0-9.]+', f'"mAP": {value}', file.read_text(), count=1))
    assert main([str(a), str(b)]) == 1 and main([str(b), str(b)]) == 0
    assert "changed: only in A: mAP of evaluate quick made_up b seed 1 clean" in capsys.readouterr().out


def test_a_seed_that_one_set_alone_has_is_none(tmp_path):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b", seeds=(0, 1))
    assert main([str(a), str(b)]) == 0


def test_several_sets_are_compared_with_the_first(tmp_path, capsys):
    worse = lambda v, c, s: -0.1 + 0.001 * s  # noqa: E731
    sets = [make_set(tmp_path / "a"), make_set(tmp_path / "b"), make_set(tmp_path / "c", shift=worse)]
    assert main([*map(str, sets), "--out", str(tmp_path / "d.csv")]) == 1
    assert capsys.readouterr().out.count("scores: ") == 2
    rows = pd.read_csv(tmp_path / "d.csv")
    assert len(rows) == 16 and set(rows[rows.verdict_holm == "worse"].b) == {str(sets[2])}


def test_costs_are_set_side_by_side(tmp_path, capsys):
    for name, latency in (("a", 20.0), ("b", 25.0)):
        run = {"tier": "quick", "study": "costs", "variant": "x"}
        cost = {"latency_ms": {"median": latency}}
        write_records(tmp_path / name / "costs/x/measure.jsonl", [Record("measure", "ok", **run, cost=cost)])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "cost: costs/x: latency: 20.0 ms then, 25.0 ms now, ratio 1.250" in capsys.readouterr().out


def test_a_run_that_fails_now_is_a_difference(tmp_path, capsys):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b")
    file = b / "made_up" / "b" / "seed1" / "evaluate.missing_sensors.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1].update(status="oom", reason="out of memory", scores={})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert main([str(a), str(b)]) == 1
    output = capsys.readouterr().out
    assert "ok -> oom: evaluate quick made_up b seed 1 no_lidar: out of memory" in output
    assert "1 run is ok in one set only" in output
    file.write_text(json.dumps(rows[0]) + "\n{cut\n")
    assert main([str(a), str(b)]) == 1 and main([str(b), str(b)]) == 0
    output = capsys.readouterr().out
    assert "changed: damaged in B" in output and "damaged record, line 2" in output


# ---------------------------------------------------------------- what is refused


def test_different_tiers_data_and_conditions_are_refused(tmp_path, capsys):
    a = make_set(tmp_path / "a")
    for name, change, words in (
        ("tier", {"tier": "mini"}, "different tiers: 'quick' and 'mini'"),
        ("data", {"facts": {"data_sha256": "e" * 64}}, "different data (data_sha256 dddddddddddd and eeeeeeeeeeee)"),
        ("infos", {"facts": {"infos_sha256": "e" * 64}}, "different data (infos_sha256 ffffffffffff and eeeeeeeeeeee)"),
        ("suite", {"conditions": ("clean", "no_cameras")}, "only in A: no_lidar; only in B: no_cameras"),
        ("inputs", {"inputs": {"clean": "1", "no_lidar": "2"}}, "under no condition were the inputs the same"),
    ):
        b = make_set(tmp_path / name, shift=lambda v, c, s: -0.2, **change)
        with pytest.raises(UserError, match="must not be compared") as refused:
            main([str(a), str(b)])
        assert words in str(refused.value) and "--force" in str(refused.value)
        capsys.readouterr()
        assert main([str(a), str(b), "--force"]) == 1
        output = capsys.readouterr().out
        assert "Nothing was compared." in output and words in output and "worse" not in output
        assert "0.420" in output and "not compared" in output


def test_a_condition_with_other_inputs_is_left_out(tmp_path, capsys):
    a = make_set(tmp_path / "a")
    b = make_set(tmp_path / "b", inputs={"no_lidar": "other"}, shift=lambda v, c, s: -0.2 * (c == "no_lidar"))
    assert incompatible(read_set(a), read_set(b)) == [] and main([str(a), str(b)]) == 0
    assert "changed: inputs under missing_sensors/no_lidar: left out" in capsys.readouterr().out
    assert by_variant(a, b)["b", "no_lidar"].verdict == "other inputs"


def test_mistakes_are_named(tmp_path):
    a = make_set(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([tmp_path / "none", a], "no folder"),
        ([a, tmp_path / "empty"], "no records in it"),
        ([a, a, "--tier", "quik"], "no records of tier 'quik'; did you mean 'quick'"),
        ([a, a, "--out", "x.txt"], "ends neither in .csv nor in .md"),
    ):
        with pytest.raises(UserError, match=words):
            main(list(map(str, arguments)))
    both = tmp_path / "results"
    make_set(both / "quick")
    make_set(both / "mini", tier="mini")
    with pytest.raises(UserError, match=r"several tiers \(mini, quick\): choose one with --tier"):
        main([str(both), str(a)])
    assert main([str(both), str(a), "--tier", "quick"]) == 0
    shutil.copytree(both / "quick", both / "copy")
    with pytest.raises(UserError, match=r"two records of evaluate quick made_up a seed 0 clean: .*copy.* and .*quick"):
        main([str(both), str(a), "--tier", "quick"])
    other = make_set(tmp_path / "other")
    (other / "made_up").rename(other / "else")
    for file in other.rglob("*.jsonl"):
        file.write_text(file.read_text().replace('"made_up"', '"else"'))
    with pytest.raises(UserError, match="nothing to compare: no score is in both"):
        main([str(a), str(other)])


def test_checkpoints_worlds_and_reports_are_not_looked_into(tmp_path):
    a = make_set(tmp_path / "a")
    for name in ("work", "report"):
        shutil.copytree(a / "made_up", a / name / "made_up")
    assert len(read_set(a).records) == 18


# ---------------------------------------------------------------- files, the command, real records


def test_files_hold_every_row(tmp_path, capsys):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b", shift=lambda v, c, s: -0.1 * (v == "b") - 0.001 * s)
    for name in ("x.csv", "x.md"):
        assert main([str(a), str(b), "--metric", "mAP", "--out", str(tmp_path / "deep" / name)]) == 1
    frame = pd.read_csv(tmp_path / "deep" / "x.csv")
    assert list(frame["metric"].unique()) == ["mAP"] and len(frame) == 4
    assert frame[frame["variant"] == "b"]["difference"].to_numpy() == pytest.approx(-0.101)
    assert (frame["verdict_holm"] == frame["verdict"])[frame["variant"] == "b"].all()
    text = (tmp_path / "deep" / "x.md").read_text()
    assert text.startswith("### A and B") and text.count("| mAP |") == 4 and "is worse in B" in text
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["x.csv", "x.md"]
    capsys.readouterr()


def test_the_command_on_the_shipped_records(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(SHIPPED / "bias_site", folder / "bias_site")
    done = subprocess.run(
        [sys.executable, "-m", "aqr_bench", "compare", str(SHIPPED), str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr  # most scores are in one set only
    assert "24 identical" in done.stdout and "only in A" in done.stdout and "tier" in done.stdout
    assert cli.main(["compare", str(folder), str(folder)]) == 0
    assert cli.main(["compare", str(folder), str(tmp_path / "nowhere")]) == 2


# ---------------------------------------------------------------- detections from elsewhere


def test_two_models_from_elsewhere_are_compared_by_slice(tmp_path, capsys):
    a, b = write_scored(tmp_path, "mome", 0.0), write_scored(tmp_path, "cmt", 0.2)
    out = tmp_path / "differences.csv"
    assert main([str(a), str(b), "--metric", "mAP", "--slices", "--out", str(out)]) == 0
    printed, rows = capsys.readouterr().out, pd.read_csv(out).set_index("metric")
    assert "A mome" in printed and "B cmt" in printed and "one seed, noise unknown" in printed
    assert {"mAP", "mAP, all", "mAP, range 0-20 m", "mAP, light night", "mAP, lidar points 6-20"} <= set(rows.index)
    assert rows.loc["mAP, all", "difference"] == pytest.approx(rows.loc["mAP", "difference"], abs=1e-12)
    night = rows.loc["mAP, light night"]
    assert 0 < night["scenes_low95"] < night["difference"] < night["scenes_high95"]
    # Without slices, as ever; and a model is not compared with a tier.
    assert main([str(a), str(b)]) == 0 and "95 %, scenes" not in capsys.readouterr().out
    with pytest.raises(UserError, match="different tiers: 'mome' and 'quick'"):
        main([str(a), str(make_set(tmp_path / "tier"))])
