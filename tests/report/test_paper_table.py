"""aqr-bench table: from bare records to RA, RRA, mCE, classes and the table of a paper, by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from aqr_bench.cli.table import main
from aqr_bench.errors import UserError
from aqr_bench.records.record import NOT_APPLICABLE, Record, read_records, write_records
from aqr_bench.report.loose_records import read_evaluations
from aqr_bench.report.tables.paper import class_table, paper_table
from aqr_bench.study.load import load_suite
from aqr_bench.study.spec import Suite

# NDS by condition. RA of 'plain': (0.4 + 0.2) / 2 / 0.5 = 0.6 and 0.1 / 0.5 = 0.2, so mRA 0.4.
PLAIN = {"clean": 0.5, "random_cameras_1": 0.4, "random_cameras_2": 0.2, "no_lidar": 0.1}
BETTER = {"clean": 0.4, "random_cameras_1": 0.4, "random_cameras_2": 0.32, "no_lidar": 0.2}


@pytest.fixture
def suite(tmp_path) -> Suite:
    cameras = [{"name": f"random_cameras_{s}", "corruption": "random_cameras", "severity": s} for s in (1, 2)]
    data = {"name": "graded", "summary": "x", "conditions": [{"name": "clean"}, *cameras, {"name": "no_lidar"}]}
    (tmp_path / "graded.yaml").write_text(yaml.safe_dump(data))
    return load_suite(tmp_path / "graded.yaml")


def put(path: Path, scores: dict, suite: str = "graded", **of) -> Path:
    """Records of one model; a score that is text is the reason of a failure, or that it is not applicable."""
    rows = []
    for name, score in scores.items():
        status = "ok" if not isinstance(score, str) else score if score == NOT_APPLICABLE else "failed"
        result = {"NDS": score, "mAP": score / 2, "classes": {"car": {"AP": score}}} if status == "ok" else {}
        fields = {"tier": "centerpoint", **of}
        rows.append(
            Record(
                "evaluate", status, **fields, condition=name, suite=suite,
                reason=None if status == "ok" else score, scores=result, provenance={"input_sha256": name},
            )
        )  # fmt: skip
    return write_records(path, rows)


def shifted(scores: dict, by: float) -> dict:
    return {name: score + by for name, score in scores.items()}


def seeds(folder: Path, variant: str, scores: dict, spread: float = 0.001, count: int = 3) -> None:
    for seed in range(count):
        of = {"tier": "quick", "study": "mine", "variant": variant, "seed": seed}
        put(folder / f"{variant}{seed}.jsonl", shifted(scores, spread * (seed - 1)), **of)


def test_one_model_without_tier_and_study(tmp_path, suite, capsys):
    put(tmp_path / "evaluate.jsonl", PLAIN)
    assert main([str(tmp_path / "evaluate.jsonl"), "--suite", str(suite.path)]) == 0
    printed = capsys.readouterr().out
    assert "| centerpoint | 50.0 | 30.0 | 10.0 | 40.0 |" in printed and "NDS in percent, of 1 seed;" in printed
    assert "**" not in printed and "Bold" not in printed and "*:" not in printed
    assert "| centerpoint | NDS | 0.500 | 0.400 |" in printed  # clean, mRA


def test_models_side_by_side_with_bold_and_marks(tmp_path, suite):
    seeds(tmp_path, "plain", PLAIN)
    seeds(tmp_path, "better", BETTER, spread=0.002)
    loose = read_evaluations([str(tmp_path)], suite, ["plain", "better"])
    table = paper_table(loose, "NDS", "plain")
    assert table.text.to_numpy().tolist() == [
        ["plain", "50.0 ± 0.1", "30.0 ± 0.1", "10.0 ± 0.1", "40.0 ± 0.1"],
        ["better", "40.0 ± 0.2*", "36.0 ± 0.2*", "20.0 ± 0.2*", "70.0 ± 0.2*"],
    ]
    assert table.bold == {(0, "clean"), (1, "random_cameras"), (1, "no_lidar"), (1, "mRA")}
    assert "mean ± sd over 3 seeds" in table.note and "differs from 'plain' beyond the noise" in table.note
    assert "Holm's correction for 4 comparisons" in table.note
    assert r"better & 40.0 $\pm$ 0.2* & \textbf{36.0 $\pm$ 0.2*}" in table.latex() and r"\toprule" in table.latex()
    assert (
        "| plain | **50.0 ± 0.1** | 30.0 ± 0.1 |" in table.markdown() and "<strong>50.0 ± 0.1</strong>" in table.html()
    )
    row = table.data[(table.data["model"] == "better") & (table.data["column"] == "clean")].iloc[0]
    assert row["mean"] == pytest.approx(0.4) and row["difference"] == pytest.approx(-0.1) and row["seeds"] == 3
    put(tmp_path / "same.jsonl", PLAIN)
    assert not paper_table(read_evaluations([f"{n}={tmp_path / 'same.jsonl'}" for n in "ab"], suite), "NDS", "a").bold
    # One seed: no marks, and the note says why.
    single = read_evaluations([str(tmp_path / "plain0.jsonl"), str(tmp_path / "better0.jsonl")], suite)
    table = paper_table(single, "NDS", "plain")
    assert "*" not in str(table.text.to_numpy()) and "a test against 'plain' needs two seeds" in table.note


def test_the_numbers_of_robustness_are_those_of_the_report(tmp_path, suite):
    seeds(tmp_path, "plain", PLAIN)
    seeds(tmp_path, "better", BETTER)
    scores = read_evaluations([str(tmp_path)], suite).robustness("plain")
    summary = scores.summary[scores.summary["metric"] == "NDS"].set_index("variant")
    assert summary.loc["plain", "mRA"] == pytest.approx(0.4, abs=1e-4) and summary.loc["plain", "mCE"] == 1
    # RRA: 0.72 / 0.6 - 1 = 20 % and 0.2 / 0.1 - 1 = 100 %.
    assert summary.loc["better", "mRRA"] == pytest.approx(60, abs=0.1) and scores.seeds == (0, 1, 2)


def test_what_is_missing_is_a_dash_and_never_skipped(tmp_path, suite):
    put(tmp_path / "a.jsonl", {**PLAIN, "random_cameras_2": "out of memory"})
    loose = read_evaluations([f"ours={tmp_path / 'a.jsonl'}"], suite)
    table = paper_table(loose, "NDS", None)
    assert table.text.to_numpy().tolist() == [["ours", "50.0", "–", "10.0", "–"]] and "A dash:" in table.note
    assert loose.robustness(None).missing["reason"].tolist() == ["out of memory"]
    put(tmp_path / "c.jsonl", {**PLAIN, "clean": 0.0})
    table = paper_table(read_evaluations([str(tmp_path / "c.jsonl")], suite), "NDS", None)
    assert table.text.iloc[0, -1] == "–" and "mRA of a clean score of 0" in table.note
    # A record of the suite that is not there counts as missing too.
    put(tmp_path / "b.jsonl", {name: PLAIN[name] for name in ("clean", "no_lidar")})
    assert paper_table(read_evaluations([str(tmp_path / "b.jsonl")], suite), "NDS", None).text.iloc[0, 2] == "–"


def test_a_custom_metric_is_printed_as_it_is(tmp_path, suite, capsys):
    for model, shift in (("a", 0.0), ("b", 1.5)):
        file = put(tmp_path / f"{model}.jsonl", {**PLAIN, "no_lidar": "out of memory"})
        for record in (records := read_records(file)):
            if record.ok:
                record.scores["custom"] = {"distance_m": 10 * record.scores["NDS"] + shift}
        write_records(file, records)
    words = [f"{m}={tmp_path / f'{m}.jsonl'}" for m in "ab"] + ["--suite", str(suite.path)]
    assert main([*words, "--metric", "custom.distance_m"]) == 0
    printed = capsys.readouterr().out
    assert "| a | 5.000 | 3.000 | – |" in printed and "| b | 6.500 | 4.500 | – |" in printed
    note = printed.partition("custom.distance_m, of 1 seed;")[2].partition("|")[0]
    assert note and "percent" not in note and "mRA" not in note and "Bold" not in note and "or undefined." in note
    with pytest.raises(UserError, match=r"no 'custom.distance' in the record of evaluate centerpoint .*did you mean"):
        main([*words, "--metric", "custom.distance"])


def test_conditions_that_concern_no_model_are_left_out_and_named(tmp_path, suite):
    blind = {**PLAIN, "random_cameras_1": NOT_APPLICABLE, "random_cameras_2": NOT_APPLICABLE}
    put(tmp_path / "a.jsonl", blind)
    loose = read_evaluations([str(tmp_path / "a.jsonl")], suite)
    table = paper_table(loose, "NDS", None)
    assert table.text.to_numpy().tolist() == [["centerpoint", "50.0", "10.0", "20.0"]]
    assert "change no sensor of any of these models: random_cameras_1, random_cameras_2" in table.note
    assert loose.robustness(None).summary["mRA"].tolist() == pytest.approx([0.2, 0.2])


def test_names_of_models(tmp_path, suite):
    a, b = (put(tmp_path / f"{name}.jsonl", PLAIN) for name in "ab")
    with pytest.raises(UserError, match=r"two evaluations of evaluate centerpoint base clean .*NAME=FILE"):
        read_evaluations([str(a), str(b)], suite)
    assert read_evaluations([f"ours={a}", f"theirs={b}"], suite).models == ["ours", "theirs"]
    assert read_evaluations([f"ours={a}", str(b)], suite).models == ["ours", "centerpoint"]
    put(tmp_path / "c.jsonl", PLAIN, tier="quick", study="one", variant="none", seed=0)
    put(tmp_path / "d.jsonl", PLAIN, tier="quick", study="two", variant="none", seed=0)
    named = read_evaluations([str(tmp_path / f"{n}.jsonl") for n in "cd"], suite)
    assert named.models == ["one/none", "two/none"]
    with pytest.raises(UserError, match="--models: no 'our'; did you mean 'ours'"):
        read_evaluations([f"ours={a}"], suite, ["our"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.jsonl"], "record file not found: nothing.jsonl"),
        (["a.jsonl", "--suite", "multicorrupt"], "no evaluation under 'multicorrupt' in a.jsonl; they are of graded"),
        (["a.jsonl", "--baseline", "centrepoint"], "--baseline: no model 'centrepoint'; did you mean 'centerpoint'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, suite, monkeypatch, words, message):
    put(tmp_path / "a.jsonl", PLAIN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([*words[:1], "--suite", str(suite.path), *words[1:]])


def test_a_damaged_file_is_named_and_other_data_as_well(tmp_path, suite, capsys):
    seeds(tmp_path, "plain", PLAIN, count=2)
    (tmp_path / "plain1.jsonl").write_text("{half")
    assert main([str(tmp_path), "--suite", str(suite.path)]) == 0
    assert "warning: " in (error := capsys.readouterr().err) and "plain1.jsonl: damaged record, line 1" in error


def test_all_tables_are_written(tmp_path, suite, capsys):
    put(tmp_path / "a.jsonl", PLAIN)
    words = [f"ours={tmp_path / 'a.jsonl'}", "--suite", str(suite.path), "--out", str(tmp_path / "tables")]
    assert main([*words, "--format", "csv"]) == 0
    names = {"table_graded_NDS", "table_graded_classes", "models_robustness_graded"}
    names |= {"models_robustness_graded_corruptions"}
    files = {path.name for path in (tmp_path / "tables").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("md", "tex", "csv")}
    assert (tmp_path / "tables" / "table_graded_NDS.csv").read_text() == capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "tables" / "table_graded_classes.csv")
    assert frame["ours"].tolist() == pytest.approx([0.5, 0.3, 0.1]) and set(frame["class"]) == {"car"}
    assert len(class_table(read_evaluations(words[:1], suite))) == 3
    assert main([*words[:3], "--format", "latex", "--metric", "mAP"]) == 0
    assert r"ours & 25.0 & 15.0 & 5.0 & 40.0 \\" in capsys.readouterr().out


def test_a_spreadsheet_needs_openpyxl(tmp_path, suite, monkeypatch, capsys):
    put(tmp_path / "a.jsonl", PLAIN)
    words = [str(tmp_path / "a.jsonl"), "--suite", str(suite.path), "--excel", str(tmp_path / "new" / "t.xlsx")]
    monkeypatch.setattr("aqr_bench.cli.table.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--excel needs openpyxl, .*pip install openpyxl"):
        main(words)
    monkeypatch.undo()
    pytest.importorskip("openpyxl")
    assert main(words) == 0
    sheets = pd.read_excel(tmp_path / "new" / "t.xlsx", sheet_name=None)
    assert len(sheets) == 4 and all(len(name) <= 31 for name in sheets)
