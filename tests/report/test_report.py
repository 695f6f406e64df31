"""The report from records: complete, partly failed, of one variant, of none; and nothing unescaped in the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from report_records import fill, make_study

from aqr_bench.errors import UserError
from aqr_bench.records.record import Record
from aqr_bench.records.request import Request
from aqr_bench.report.__main__ import main
from aqr_bench.report.answer import answer
from aqr_bench.report.collect import collect_base, collect_study, mixtures
from aqr_bench.report.embed import link_pictures
from aqr_bench.report.page import build_report
from aqr_bench.report.provenance_rows import as_typed
from aqr_bench.report.tables.cost import cost_table
from aqr_bench.report.tables.study import by_condition_table, scores_table
from aqr_bench.report.tables.table import LONG, CellStyle, ReportTable
from aqr_bench.study.load import load_study, load_tier

NO_FIGURES = pytest.mark.usefixtures("no_figures")


def report_on(tmp_path: Path, study_path: Path) -> str:
    out = tmp_path / "report"
    arguments = [
        "--tier",
        "smoke",
        "--study",
        str(study_path),
        "--records",
        str(tmp_path / "results"),
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    return (out / "index.html").read_text(encoding="utf-8")


def test_a_tier_alone_is_enough(tmp_path, monkeypatch):
    """Its studies, of the project's results, into the folder where ``run`` puts the page."""
    calls = []
    monkeypatch.setattr("aqr_bench.report.page.build_report", lambda *given: calls.append(given) or given[3] / "x")
    monkeypatch.setattr("aqr_bench.report.__main__.project_folder", lambda: tmp_path)
    (tmp_path / "results" / "smoke" / "report").mkdir(parents=True)
    assert main(["--tier", "smoke"]) == 0
    ((tier, studies, records, out, _),) = calls
    assert [study.name for study in studies] == list(tier.studies)
    assert records == tmp_path / "results" and out == records / "smoke" / "report"
    with pytest.raises(UserError, match="needs --tier"):
        main(["--study", "smoke"])


def test_complete_report(tmp_path):
    study_path = make_study(tmp_path)
    fill(tmp_path / "results", study_path)
    pictures = tmp_path / "results" / "smoke" / "pictures"
    pictures.mkdir()
    from PIL import Image

    Image.new("RGB", (3000, 30)).save(pictures / "a.png")
    (pictures / "b.png").write_text("no picture")
    page = report_on(tmp_path, study_path)
    assert "Is &lt;b&gt;this&lt;/b&gt; escaped?" in page and "<b>this" not in page and "<i>more" not in page
    assert 'id="made_up-worth"' in page and "No variant changes what a sensor is worth" in page
    assert "within the noise" in page and "aqr-bench run --tier smoke --study made_up" in page
    # Self-contained: every picture is embedded, and nothing is fetched from anywhere.
    sources = re.findall(r'<img[^>]* src="([^"]+)"', page)
    assert len(sources) == 1 and sources[0].startswith("data:image/jpeg") and page.count("<svg ") == 9
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page
    assert "b.png (cannot identify" in page and len(page) < 15_000_000
    figures = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    wanted = ("metric", "metrics", "difference", "heatmap", "pareto", "router", "classes", "curves", "worth")
    assert figures == {f"made_up_{name}{suffix}" for name in wanted for suffix in (".png", ".pdf", ".svg")}
    assert (tmp_path / "report" / "figures" / "made_up_router.png").stat().st_size > 10_000
    scores = pd.read_csv(tmp_path / "report" / "tables" / "made_up_scores.csv")
    assert list(scores["ok"]) == [2] * 6 and scores["difference"].dropna().between(0.05, 0.06).all()
    # What a mark says on hover is the row of the CSV.
    drawing = (tmp_path / "report" / "figures" / "made_up_metric.svg").read_text(encoding="utf-8")
    for row in scores.itertuples():
        hint = f"{row.variant}, {row.condition}: mAP {row.mAP_mean:.3f}. sd: {row.mAP_sd:.3f}."
        (mark,) = re.findall(f"<title>{re.escape(hint)}(.*?)</title>", drawing)
        assert "Runs: 2 of 2" in mark and (row.difference != row.difference or f"+{row.difference:.3f}" in mark)
    markdown = (tmp_path / "report" / "tables" / "made_up_scores.md").read_text()
    assert "| clean | none | 0.40" in markdown


@NO_FIGURES
def test_what_the_router_does_is_shown_where_there_is_one(tmp_path):
    study = make_study(tmp_path)
    fill(tmp_path / "results", study)
    page = report_on(tmp_path, study)
    assert "What the router does" in page
    table = pd.read_csv(tmp_path / "report" / "tables" / "made_up_router.csv")
    row = table[(table["condition"] == "no_lidar") & (table["group"] == "all")].iloc[0]
    assert (row["variant"], row["runs"]) == ("cross", 2)
    assert (row["lidar_mean"], row["camera_mean"]) == pytest.approx((0.1, 0.25))
    shown = (tmp_path / "report" / "tables" / "made_up_router.md").read_text()
    assert "+0.50 | 0.110 | – | +0.25 |" in shown
    without = make_study(tmp_path, variants=("none", "self"))
    fill(tmp_path / "results", without)
    assert "What the router does" not in report_on(tmp_path, without)


@NO_FIGURES
def test_failed_and_missing_runs_are_shown_and_take_nothing_down(tmp_path):
    study_path = make_study(tmp_path, seeds=(0, 1, 2))
    fill(tmp_path / "results", study_path, fail={("cross", 1)}, skip={("none", 2)})
    page = report_on(tmp_path, study_path)
    assert "loss is &lt;not&gt; finite" in page and "<not>" not in page
    assert "no record: not run yet" in page and "6 of 18 evaluations are missing or failed" in page
    tables = tmp_path / "report" / "tables"
    scores = pd.read_csv(tables / "made_up_scores.csv").set_index(["condition", "variant"])
    assert (scores.loc[("clean", "cross"), ["ok", "wanted", "pairs"]] == [2, 3, 1]).all()
    problems = pd.read_csv(tables / "made_up_problems.csv")
    assert sorted(problems["status"]) == ["diverged"] + ["failed"] * 3 + ["missing"] * 4


def test_no_records_at_all(tmp_path):
    study_path = make_study(tmp_path)
    (tmp_path / "results").mkdir()
    page = report_on(tmp_path, study_path)
    assert "There are no records yet" in page and "No answer yet" in page and "<img" not in page


@NO_FIGURES
def test_a_single_variant(tmp_path):
    study_path = make_study(tmp_path, variants=("none",), seeds=(0,))
    fill(tmp_path / "results", study_path)
    page = report_on(tmp_path, study_path)
    assert "Nothing to compare" in page and "mAP 0.400" in page


def test_figures_of_an_earlier_report_do_not_survive(tmp_path):
    study_path = make_study(tmp_path)
    stale = tmp_path / "report" / "figures" / "old_metric.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    keep = stale.with_suffix(".txt")
    keep.touch()
    (tmp_path / "results").mkdir()
    report_on(tmp_path, study_path)
    assert not stale.exists() and keep.exists()


def test_missing_results_folder_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="--records: no folder"):
        main(["--tier", "smoke", "--study", "smoke", "--records", str(tmp_path / "x"), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("seeds", "spread", "words"),
    [
        ((0, 1, 2), 0.0001, "'cross' is better than 'none' under 'clean' (+0.05"),
        ((0, 1), 0.1, "No variant differs from 'none' beyond the noise, under any condition"),
        ((0,), 0.0, "No answer: with a single seed there is no estimate of the noise; the largest difference"),
    ],
)
def test_answer_says_what_the_evidence_carries(seeds, spread, words, tmp_path):
    study = load_study(make_study(tmp_path, seeds=seeds))
    fill(tmp_path / "results", study.path, spread=spread)
    assert words in answer(study, collect_study(tmp_path / "results", load_tier("smoke"), study))


def test_answer_tells_noise_from_ignorance(tmp_path):
    study = load_study(make_study(tmp_path, variants=("none", "cross", "flat")))
    fill(tmp_path / "results", study.path, fail={("flat", 1)}, spread=0.1)
    output = answer(study, collect_study(tmp_path / "results", load_tier("smoke"), study))
    assert "beyond the noise (every 95 % interval contains 0); 3 differences rest on a single pair of seeds" in output


def test_lower_is_better_for_error_metrics(tmp_path):
    study = load_study(make_study(tmp_path, metric="mATE"))
    results = collect_study(tmp_path, load_tier("smoke"), study)
    frame = results.evaluations
    frame["status"] = "ok"
    frame["mATE"] = [
        0.5 + (v == "cross") + s * 1e-3 * (v == "cross") for v, s in zip(frame.variant, frame.seed, strict=True)
    ]
    shown = scores_table(study, results).text
    assert list(shown["Verdict"]) == ["baseline", "worse"] * 3


def test_a_record_in_another_runs_place_counts_as_failed(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    folder = tmp_path / "results" / "smoke" / "made_up"
    name = "evaluate.missing_sensors.jsonl"
    (folder / "cross" / "seed1" / name).write_text((folder / "none" / "seed1" / name).read_text())
    problems = collect_study(tmp_path / "results", load_tier("smoke"), study).problems
    assert len(problems) == 3 and problems["reason"].str.contains("record of another run").all()


def test_a_damaged_line_fails_its_conditions_only(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    file = tmp_path / "results" / "smoke" / "made_up" / "cross" / "seed0" / "evaluate.missing_sensors.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:40], lines[2]]) + "\n")
    problems = collect_study(tmp_path / "results", load_tier("smoke"), study).problems
    assert list(problems["condition"]) == ["no_lidar"] and "line 2" in problems["reason"][0]


def test_equal_inputs_do_not_count_as_robustness(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    file = tmp_path / "results" / "smoke" / "made_up" / "cross" / "seed0" / "evaluate.missing_sensors.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["provenance"]["input_sha256"] = rows[0]["provenance"]["input_sha256"]
    file.write_text("\n".join(map(json.dumps, rows)))
    results = collect_study(tmp_path / "results", load_tier("smoke"), study)
    assert list(results.problems["condition"]) == ["no_cameras"]


def test_cost_ratio_and_base_results(tmp_path):
    study, tier = load_study(make_study(tmp_path)), load_tier("smoke")
    fill(tmp_path / "results", study.path)
    cost = cost_table(study, collect_study(tmp_path / "results", tier, study)).data.set_index("variant")
    assert cost.loc["cross", "latency_ratio"] == pytest.approx(1.1) and cost.loc["cross", "training_minutes"] == 2
    assert cost.loc["cross", "parameters"] == 1000
    base = collect_base(tmp_path / "results", tier, [study])
    assert list(base.evaluations["variant"].unique()) == ["base"] and len(base.evaluations) == 6


def test_mixed_code_is_warned_about():
    rows = [Record("train", "ok", "t", provenance={"code_sha256": c}) for c in "aab"]
    assert mixtures(rows) == ["train records come from 2 different versions of the code"]
    assert mixtures(rows[:2]) == []


def test_mixed_code_is_told_by_the_files_that_records_share():
    def record(**code):
        request = Request({}, {f"{file}.py": value for file, value in code.items()}, "infos").to_dict()
        return Record("train", "ok", "t", provenance={"request": request, "code_sha256": str(code)})

    assert mixtures([record(head="1"), record(head="1", router="1")]) == []
    rows = [record(head="1", router="1"), record(head="1", router="2"), record(head="2")]
    assert mixtures(rows) == ["train records come from 2 different versions of the code (head.py, router.py)"]


def test_too_many_pictures_are_left_out_by_name(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from aqr_bench.report import embed

    folder = tmp_path / "results" / "smoke" / "pictures"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(noise).save(folder / f"p{i}.png")
    study, tier = load_study(make_study(tmp_path)), load_tier("smoke")
    bare = build_report(tier, [study], tmp_path / "nothing", tmp_path / "bare").stat().st_size
    monkeypatch.setattr(embed, "PAGE_LIMIT", bare + 40_000)
    page = build_report(tier, [study], tmp_path / "results", tmp_path / "out")
    built = page.read_text()
    assert "p3.png (the page would grow too large)" in built and "Detections: p0" in built
    assert bare + 10_000 < page.stat().st_size < bare + 41_000  # with captions, and the names of what is left out


@NO_FIGURES
def test_samples_in_3d_are_linked_where_their_pages_exist(tmp_path):
    study = make_study(tmp_path)
    pictures, viewers = tmp_path / "results" / "smoke" / "pictures", tmp_path / "report" / "viewers"
    for folder in (pictures, viewers):
        folder.mkdir(parents=True)
    Image.new("RGB", (30, 10)).save(pictures / "clean.best.png")
    Image.new("RGB", (30, 10)).save(pictures / "clean.worst.png")
    for name in ("clean.best", "two variants & more"):
        (pictures / f"{name}.html").write_text(name)
    (viewers / "of_an_earlier_report.html").touch()
    page = report_on(tmp_path, study)
    assert page.count("See it in 3D") == 1 and '<a href="viewers/clean.best.html">See it in 3D</a>' in page
    assert '<a href="viewers/two%20variants%20%26%20more.html">two variants &amp; more</a>' in page
    assert {file.name for file in viewers.iterdir()} == {"clean.best.html", "two variants & more.html"}
    assert (viewers / "clean.best.html").read_text() == "clean.best"


def test_a_run_is_linked_to_its_pictures():
    frame = pd.DataFrame({"variant": ["a", "a", "b"], "seed": [0, 1, 0], "condition": ["x <1>"] * 3})
    table = ReportTable("t", "T", frame, frame.map(str).rename(columns=str.capitalize))
    run = {"study": "s", "variant": "a", "seed": 1}
    pictures = [{"anchor": f"picture-{i}", "condition": "x <1>", "run": run} for i in (1, 2)]
    linked = link_pictures(table, "s", pictures)
    assert linked.styles == {(1, "Condition"): CellStyle(link="picture-1")}  # the first of that run alone
    assert linked.html().count('<a href="#picture-1">x &lt;1&gt;</a>') == 1
    assert not link_pictures(table, "other", pictures).styles
    assert not link_pictures(table, "s", [{**pictures[0], "run": None}]).styles  # the file does not name its run
    base = replace(table, data=frame[["condition"]][:1], text=table.text[["Condition"]][:1])
    of_base = [{**pictures[0], "run": {"study": None, "variant": None, "seed": 0}}]
    assert link_pictures(base, None, of_base).styles == {(0, "Condition"): CellStyle(link="picture-1")}
    assert not link_pictures(table, "s", of_base).styles


def test_a_better_mean_has_more_colour_and_its_interval_on_hover(tmp_path):
    study = load_study(make_study(tmp_path, seeds=(0, 1, 2)))
    fill(tmp_path / "results", study.path, skip={("cross", 2)})
    scores = scores_table(study, collect_study(tmp_path / "results", load_tier("smoke"), study))
    table = by_condition_table(study, scores)
    means = scores.data.set_index(["condition", "variant"])["mAP_mean"]
    assert list(table.text.columns) == ["Condition", "none", "cross"] and len(table) == 3
    assert all(table.data.set_index("condition").loc[key] == means[key] for key in means.index)
    shades = {key: style.shade for key, style in table.styles.items()}
    assert max(shades, key=shades.get) == (0, "cross") and shades[0, "cross"] == pytest.approx(0.45)
    assert min(shades.values()) == 0 and table.styles[0, "cross"].hint.startswith("cross, clean: mAP 0.45")
    assert "95 %, seeds: +0.0" in table.styles[0, "cross"].hint and "2 of 3" in table.styles[0, "cross"].hint
    errors = replace(study, metric="mATE")
    data = scores.data.rename(columns={"mAP_mean": "mATE_mean"})
    lower = by_condition_table(errors, replace(scores, data=data, text=scores.text.rename(columns={"mAP": "mATE"})))
    assert lower.styles[0, "cross"].shade == 0


def test_a_long_table_scrolls_in_a_box():
    frame = pd.DataFrame({"a": range(LONG + 1)})
    assert '<div class="scroll long">' in ReportTable("t", "T", frame, frame).html()
    assert '<div class="scroll">' in ReportTable("t", "T", frame[:LONG], frame[:LONG]).html()


def test_each_study_has_a_page_that_stays_when_others_are_reported(tmp_path):
    tier, studies, out = load_tier("smoke"), [load_study("smoke"), load_study("attention_backend")], tmp_path / "out"
    (tmp_path / "results").mkdir()
    build_report(tier, studies, tmp_path / "results", out)
    page = (out / "smoke" / "index.html").read_text(encoding="utf-8")
    assert studies[0].question in page and studies[1].question not in page
    tables = {file.name for file in (out / "smoke" / "tables").iterdir()}
    assert "smoke_scores.csv" in tables and all(name.startswith("smoke_") for name in tables)
    before = {file: file.read_bytes() for file in (out / "smoke").rglob("*") if file.is_file()}
    build_report(tier, studies[1:], tmp_path / "results", out)
    assert not (out / "tables" / "smoke_scores.csv").exists()  # the tier's page is of what was asked for last
    assert before == {file: file.read_bytes() for file in (out / "smoke").rglob("*") if file.is_file()}


def test_the_command_that_repeats_it_names_files_by_their_path():
    root = Path(__file__).resolve().parents[2]
    assert as_typed(root / "ablations" / "tiers" / "quick.yaml", "quick") == "quick"
    assert as_typed(root / "examples" / "mine" / "tier.yaml", "tier") == "examples/mine/tier.yaml"
