"""aqr-bench leaderboard: ranks that the noise allows, published numbers apart, by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from report_records import write_scored

from aqr_bench.cli.leaderboard import main
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, write_records
from aqr_bench.report.loose_records import read_evaluations
from aqr_bench.report.score_statistics import ScoreDifference
from aqr_bench.report.tables.leaderboard import standings
from aqr_bench.report.tables.paper import ColumnScores
from aqr_bench.study.load import load_suite

CONDITIONS = ("clean", "no_lidar", "no_cameras")


def put(folder: Path, variant: str, scores: tuple[float, ...], data: str = "d") -> None:
    """mAP of a variant by seed, a tenth of it without a sensor; NDS is 0.1 more."""
    for seed, score in enumerate(scores):
        rows = [
            Record(
                "evaluate", "ok", "quick", "mine", variant, seed, condition, "missing_sensors",
                scores={"mAP": value, "NDS": value + 0.1}, provenance={"data_sha256": data, "input_sha256": condition},
            )
            for condition, value in zip(CONDITIONS, (score, score / 10, score / 10), strict=True)
        ]  # fmt: skip
        write_records(folder / variant.replace("/", "_") / f"seed{seed}.jsonl", rows)


def ranked(records: Path, out: Path, *more: str) -> pd.DataFrame:
    assert main([str(records), "--suite", "missing_sensors", "--out", str(out), *more]) == 0
    return pd.read_csv(out / "tables/leaderboard_missing_sensors.csv")


def delta(mean: float, p: float = 0.001) -> ScoreDifference:
    return ScoreDifference(3, mean, mean - 0.001, mean + 0.001, p_seeds=p, p_holm=p)


def test_ranks_count_the_models_that_are_better():
    scores = ColumnScores("mAP", tuple("abcd"), ("clean",), {(m, "clean"): {0: -ord(m)} for m in "abcd"})
    # b lies between a and c and is told apart from neither; d is worse than all.
    pairs = {("a", "b"): delta(1, p=0.2), ("a", "c"): delta(2), ("b", "c"): delta(1, p=0.2)}
    pairs |= {(m, "d"): delta(1) for m in "abc"}
    places = standings(scores, "clean", pairs)
    assert [(p.model, p.rank, p.tied) for p in places] == [
        ("a", 1, ("b",)), ("b", 1, ("a", "c")), ("c", 2, ("b",)), ("d", 4, ()),
    ]  # fmt: skip
    assert {p.rank for p in standings(scores, "clean", {pair: None for pair in pairs})} == {1}


def test_what_the_noise_cannot_tell_apart_shares_a_rank(tmp_path, capsys):
    put(tmp_path / "r", "low", (0.30, 0.31, 0.32))
    put(tmp_path / "r", "high", (0.50, 0.51, 0.521))
    put(tmp_path / "r", "noisy", (0.52, 0.50, 0.522))  # better on average, and not told apart
    put(tmp_path / "r", "once", (0.40,))  # a single seed decides nothing
    table = ranked(tmp_path / "r", tmp_path / "out")
    assert dict(zip(table["model"], table["rank"], strict=True)) == {"noisy": 1, "high": 1, "once": 1, "low": 3}
    tied = dict(zip(table["model"], table["within_noise_of"], strict=True))
    assert tied["high"] == "noisy; once" and tied["low"] == "once"
    assert table["clean"].tolist() == pytest.approx([0.514, 0.510333, 0.4, 0.31], abs=1e-5)
    printed = capsys.readouterr().out
    assert "| 1 | noisy | 51.4 ± 1.2 |" in printed and "Rank: 1 + the number of models that are better" in printed
    page = (tmp_path / "out/index.html").read_text()
    assert "missing_sensors" in page and ">noisy<" in page and (tmp_path / "out/tables/leaderboard_missing_sensors.md")
    by_robustness = ranked(
        tmp_path / "r", tmp_path / "out", "--by", "mRA", "--metric", "NDS", "--models", "low", "high"
    )
    assert by_robustness["model"].tolist() == ["low", "high"]  # (0.031 + 0.1) / 0.41 is more than (0.051 + 0.1) / 0.61


def test_models_that_were_given_are_told_apart_by_scenes(tmp_path):
    for model, effect in (("a", 0.2), ("b", 0.0), ("c", 0.001)):
        write_scored(tmp_path / "r", model, effect, "missing_sensors")
    table = ranked(tmp_path / "r", tmp_path / "out")
    assert dict(zip(table["model"], table["rank"], strict=True)) == {"a": 1, "b": 2, "c": 2}
    # Without matches beside the records nothing is known about their noise.
    for file in (tmp_path / "r").rglob("matches.npz"):
        file.unlink()
    assert set(ranked(tmp_path / "r", tmp_path / "out")["rank"]) == {1}


def test_a_model_without_a_score_has_no_rank(tmp_path, capsys):
    put(tmp_path / "r", "fine", (0.3, 0.31))
    state = {"condition": "clean", "suite": "missing_sensors", "reason": "out of memory"}
    write_records(tmp_path / "r/bad.jsonl", [Record("evaluate", "oom", "quick", "mine", "bad", 0, **state)])
    table = ranked(tmp_path / "r", tmp_path / "out")
    assert table["model"].tolist() == ["fine", "bad"] and pd.isna(table["rank"][1])
    assert "bad: clean: out of memory" in (tmp_path / "out/index.html").read_text()
    assert "warning: bad: clean: out of memory" in capsys.readouterr().err


def test_one_file_by_several_paths_is_one_run(tmp_path):
    put(tmp_path / "r", "ours", (0.3, 0.31))
    (tmp_path / "link").symlink_to(tmp_path / "r")
    places = map(str, (tmp_path / "r", tmp_path / "link", tmp_path / "r/../r"))
    (model,) = read_evaluations(list(places), load_suite("missing_sensors")).evaluations.groupby("variant")
    assert len(model[1]) == 2 * len(CONDITIONS)


def test_a_page_of_others_stays(tmp_path):
    put(tmp_path / "r", "ours", (0.3, 0.31))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index.html").write_text("theirs")
    with pytest.raises(UserError, match=r"--out: .*index.html is no leaderboard's"):
        ranked(tmp_path / "r", tmp_path / "out")
    assert (tmp_path / "out/index.html").read_text() == "theirs"


def test_names_of_models_are_text_on_the_page_and_in_markdown(tmp_path):
    put(tmp_path / "r", "<script>x|y</script>", (0.3, 0.31))
    assert ranked(tmp_path / "r", tmp_path / "out")["model"].tolist() == ["<script>x|y</script>"]
    assert "<script>x" not in (tmp_path / "out/index.html").read_text()
    markdown = (tmp_path / "out/tables/leaderboard_missing_sensors.md").read_text()
    assert "\\<script>x\\|y\\</script>" in markdown


def test_published_rows_are_marked_and_have_no_rank(tmp_path):
    put(tmp_path / "r", "ours", (0.3, 0.31))
    table = ranked(tmp_path / "r", tmp_path / "out", "--metric", "NDS", "--published", "multicorrupt_nds", "cmt_main")
    assert table["model"].tolist() == ["ours"]
    published = pd.read_csv(tmp_path / "out/tables/leaderboard_missing_sensors_published.csv")
    cmt = published[published["model"] == "CMT"].iloc[0]
    assert cmt["published"] and cmt["clean"] == pytest.approx(0.729) and "MultiCorrupt" in cmt["source"]
    assert "rank" not in published and published["clean"].is_monotonic_decreasing
    page = (tmp_path / "out/index.html").read_text()
    assert "CMT (published)" in page and "no rank" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--by", "no_lidr"], "--by: no column 'no_lidr' under 'missing_sensors'; did you mean 'no_lidar'"),
        (["--published", "mome_nuscenes_r"], "--published: no mAP under conditions of 'missing_sensors' in mome"),
        (["--published", "nothing"], "published results .*nothing"),
    ],
)
def test_mistakes_are_named(tmp_path, more, message):
    put(tmp_path / "r", "ours", (0.3, 0.31))
    with pytest.raises(UserError, match=message):
        ranked(tmp_path / "r", tmp_path / "out", *more)


def test_records_of_other_data_are_refused(tmp_path):
    put(tmp_path / "r", "ours", (0.3, 0.31))
    put(tmp_path / "r", "theirs", (0.3, 0.31), data="e")
    with pytest.raises(UserError, match=r"2 different data sets cannot be ranked together \(quick/mine/ours: d; "):
        ranked(tmp_path / "r", tmp_path / "out")
